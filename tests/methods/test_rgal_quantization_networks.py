"""Quantized classifiers: which layers, batch norm, saving, exporting, and torch's int8 kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd import models
from gankd.errors import UserError
from gankd.registry import find_method
from methods.rgal_quantization.config import QuantizerConfig
from methods.rgal_quantization.int8 import Int8Layer, kernels_here, stored_bytes, with_int8_kernels
from methods.rgal_quantization.networks import QuantizedClassifier, QuantizedLayer, check_layers, following, quantize

METHOD = find_method("rgal_quantization")  # recipes may then name its networks
IMAGES = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
FAMILIES = ["small_cnn", "resnet20", "vgg8", "wrn_16_1", "MobileNetV2", "ShuffleV2"]


def teacher(name: str = "small_cnn", **settings: Any) -> Any:
    """A network whose batch norm layers do something."""
    settings |= {"width": 8} if name == "small_cnn" else {}
    torch.manual_seed(0)
    network = models.build(name, classes=10, image_channels=3, image_size=32, **settings).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.normal_(1, 0.3)
            module.bias.normal_(0, 0.1)
    return network


def calibrated(full: Any, **knobs: Any) -> QuantizedClassifier:
    network = quantize(full, QuantizerConfig(**knobs)).eval()
    with following(network, 0.0), torch.no_grad():
        network(IMAGES)
    return network


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("batch_norm", ["frozen", "folded"])
def test_every_layer_with_weights_is_quantized(name: str, batch_norm: str) -> None:
    full = teacher(name)
    network = calibrated(full, bits=8, batch_norm=batch_norm)
    plain = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in full.modules())
    layers = [module for module in network.modules() if isinstance(module, QuantizedLayer)]
    assert len(layers) == plain
    assert layers[0].layer.weight.shape[1] == 3  # the first is given the image
    with torch.no_grad():
        logits, features, blocks = network.outputs(IMAGES)
        assert apart(logits, full(IMAGES)) < 0.1
    assert features.shape == (6, network.feature_dim)
    assert [maps.shape for maps in blocks] == [maps.shape for maps in full.outputs(IMAGES)[2]]
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert (norms == 0) == (batch_norm == "folded" and name != "wrn_16_1")  # there some stand behind a sum


def test_fewer_bits_are_further_from_the_teacher() -> None:
    full = teacher("resnet20")
    with torch.no_grad():
        distances = [apart(calibrated(full, bits=bits)(IMAGES), full(IMAGES)) for bits in (8, 5, 3)]
        image = apart(calibrated(full, bits=8, input_bits=2)(IMAGES), full(IMAGES))
        activations = apart(calibrated(full, bits=8, activation_bits=3)(IMAGES), full(IMAGES))
    assert distances == sorted(distances)
    assert min(image, activations) > 2 * distances[0]


def test_the_weights_may_be_folded_since_a_channel_has_its_own_range() -> None:
    full = teacher(norm="batch")
    with torch.no_grad():
        frozen, folded = (calibrated(full, bits=8, batch_norm=kind)(IMAGES) for kind in ("frozen", "folded"))
    assert apart(folded, frozen) < 0.01


def test_batch_norm_keeps_its_statistics_in_training_and_the_teacher_is_left_alone() -> None:
    full = teacher()
    before = {name: value.clone() for name, value in full.state_dict().items()}
    network = calibrated(full).train()
    network(IMAGES).sum().backward()
    assert network.training
    assert not any(module.training for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in full.state_dict().items())
    norm = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    assert torch.equal(norm.running_mean, before["layers.0.1.running_mean"])  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_norm", ["frozen", "folded"])
def test_it_is_saved_and_built_again_from_its_recipe(tmp_path: Path, batch_norm: str) -> None:
    full = teacher("resnet20", shortcut="pad", normalisation=[[0.5, 0.4, 0.3], [0.2, 0.2, 0.3]])
    network = calibrated(full, bits=4, activation_bits=5, batch_norm=batch_norm)
    models.save(network, tmp_path)
    again = models.load(tmp_path)
    assert torch.equal(again(IMAGES), network(IMAGES))
    assert again.recipe["base"]["name"] == "resnet20"


def test_a_layer_that_cannot_be_quantized_is_named() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ConvTranspose2d(4, 4, 2)))
    with pytest.raises(UserError, match=r"layer '1\.0' of the teacher, ConvTranspose2d, cannot be quantized"):
        check_layers(network)
    with pytest.raises(UserError, match=r"layer '0'.*Conv2d with zero padding"):
        check_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")))


@pytest.mark.skipif(not kernels_here(), reason="torch has no int8 kernels on this CPU")
@pytest.mark.parametrize(
    ("name", "bits"), [("small_cnn", 8), ("small_cnn", 3), ("resnet20", 8), ("wrn_16_1", 4), ("MobileNetV2", 8)]
)
def test_int8_kernels_compute_the_same(name: str, bits: int) -> None:
    """But for activations that lie next to the middle of two levels."""
    network = calibrated(teacher(name), bits=bits)
    fast = with_int8_kernels(network)
    changed = sum(isinstance(module, Int8Layer) for module in fast.modules())
    assert changed == sum(getattr(m.layer, "groups", 1) == 1 for m in network.modules() if isinstance(m, QuantizedLayer))
    with torch.no_grad():
        assert apart(fast(IMAGES), network(IMAGES)) < (0.01 if bits == 8 else 0.1)


def test_bytes_count_packed_weights_and_their_scales() -> None:
    full = teacher()
    weights = sum(module.weight.numel() for module in full.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    channels = sum(len(module.weight) for module in full.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in full.modules())
    rest = stored_bytes(full) - 4 * weights
    assert stored_bytes(calibrated(full, bits=4)) == weights / 2 + 8 * channels + 8 * layers + rest
