"""Networks of the tables in the reference's layout: outputs, block outputs, statistics, and import of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gankd import models
from gankd.errors import UserError
from gankd.models.classifier_import import load_checkpoint
from methods.rgal import losses
from methods.rgal.checks import block_count
from methods.rgal.contrast import batch_norms, instance_features, instance_layers, width_of_input
from methods.rgal.networks import InversionGenerator
from methods.rgal.synthesis import input_tap
from tests.methods.rgal_fixtures import CIFAR10, CIFAR100, FIXTURES, arrays, fill, filled, texts, wrn_keys

NETWORKS = arrays("networks")
IMAGES = NETWORKS["images01"] * 2 - 1
# <the reference's network>_<data set>, e.g. wrn40_2_cifar100
CASES = [key.removesuffix("_logits") for key in NETWORKS if key.endswith("_logits")]
LAYOUT = FIXTURES / "layout_wrn16_1_c10.pth"


def our_name(name: str) -> str:
    if name.startswith("wrn"):
        return f"wrn_{name.removeprefix('wrn')}"
    return name.replace("resnet", "ResNet") if name in ("resnet18", "resnet34", "resnet50") else name


def network(case: str) -> Any:
    name, _, data = case.rpartition("_")
    sizes = {"classes": NETWORKS[f"{case}_logits"].shape[1], "image_size": IMAGES.shape[-1]}
    built = models.build(our_name(name), **sizes, normalisation=CIFAR100 if data == "cifar100" else CIFAR10)
    fill(built.network, texts("networks", f"{case}_keys"), int(NETWORKS["fill_seed"]))
    return built.eval()


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_outputs_match_the_reference(case: str) -> None:
    built = network(case)
    with input_tap(batch_norms(built)) as tapped:
        logits, features, blocks = built.outputs(IMAGES)
    torch.testing.assert_close(logits, NETWORKS[f"{case}_logits"], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features, NETWORKS[f"{case}_features"], rtol=1e-3, atol=1e-4)
    for i, maps in enumerate(blocks):
        if f"{case}_gap{i}" in NETWORKS:
            torch.testing.assert_close(maps.mean((2, 3)), NETWORKS[f"{case}_gap{i}"], rtol=1e-3, atol=1e-4)
    found = [losses.statistics_loss(maps, layer.running_mean, layer.running_var) for layer, maps in tapped]
    expected = NETWORKS[f"{case}_r_feature"]
    torch.testing.assert_close(torch.stack(found).sort().values, expected.sort().values, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(torch.stack(found).sum(), expected.sum(), rtol=1e-4, atol=0)
    assert torch.equal(built(IMAGES), logits)
    assert torch.equal(built.features(IMAGES), features)


def test_the_key_names_by_rule_are_the_references() -> None:
    wide = [case for case in CASES if case.startswith("wrn")]
    assert wide
    for case in wide:
        depth, widen = case.removeprefix("wrn").split("_")[:2]
        assert wrn_keys(int(depth), int(widen)) == texts("networks", f"{case}_keys")


def test_the_public_checkpoint_layout_is_imported_and_says_what_matched() -> None:
    state = torch.load(LAYOUT, weights_only=True)["state_dict"]
    built = models.build("wrn_16_1", classes=len(state["fc.weight"]), normalisation=CIFAR10)
    match = load_checkpoint(built.network, LAYOUT)
    parameters = sum(p.numel() for p in built.parameters())
    renamed = len(state.keys() - built.network.state_dict().keys())
    assert renamed > 70
    assert str(match) == f"all {len(state)} tensors matched ({parameters:,} parameters, {renamed} of them renamed)"
    with torch.no_grad():
        logits = built.eval()(IMAGES)
    torch.testing.assert_close(logits, NETWORKS["wrn16_1_cifar10_logits"], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_other_classes_or_another_depth_is_refused_with_both_numbers() -> None:
    classes = len(torch.load(LAYOUT, weights_only=True)["state_dict"]["fc.weight"])
    with pytest.raises(UserError, match=f"the file is of {classes} classes, the network of {classes + 90}"):
        load_checkpoint(models.build("wrn_16_1", classes=classes + 90), LAYOUT)
    with pytest.raises(UserError, match="missing"):
        load_checkpoint(models.build("wrn_40_1", classes=classes), LAYOUT)


class Code:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_a_checkpoint_that_holds_code_is_refused(tmp_path: Path) -> None:
    state = torch.load(LAYOUT, weights_only=True)["state_dict"]
    torch.save({"state_dict": state, "arch": Code(tmp_path / "ran")}, tmp_path / "teacher.pth")
    with pytest.raises(UserError, match="could run code"):
        load_checkpoint(models.build("wrn_16_1", classes=len(state["fc.weight"])), tmp_path / "teacher.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("name", [n for n in models.CLASSIFIERS if n not in ("ResNet50", "densenet161", "vgg19", "resnet110")])
def test_every_classifier_gives_its_blocks(name: str, size: int) -> None:
    if size < 16 and name.startswith("densenet"):
        pytest.skip("too small for its transitions")
    with torch.device("meta"):
        built = models.build(name, classes=7, image_size=size).eval()
        images = torch.empty(2, 3, size, size)
        logits, features, blocks = built.outputs(images)
        assert logits.shape == (2, 7)
        assert features.shape == built.summary(blocks[-1]).shape == (2, built.feature_dim)
        assert len(blocks) == block_count(name, size)
        assert all(maps.dim() == 4 for maps in blocks)


# The specification's table: every batch norm layer's channels; of a ResNet-34 the inputs of its four stages.
INSTANCE_WIDTHS = {
    "wrn_16_1": 464, "wrn_16_2": 912, "wrn_40_1": 1360, "wrn_40_2": 2704, "ResNet18": 4800, "ResNet34": 64 + 64 + 128 + 256,
    "vgg8": 1472, "vgg11": 2752, "vgg13": 2944, "resnet8x4": 1376, "resnet32x4": 4960,
}  # fmt: skip


@pytest.mark.parametrize("normalisation", [None, CIFAR10], ids=["bare", "normalised"])
@pytest.mark.parametrize("name", INSTANCE_WIDTHS)
def test_an_instance_feature_is_as_wide_as_specified(name: str, normalisation: Any) -> None:
    with torch.device("meta"):
        built = models.build(name, classes=10, **({"normalisation": normalisation} if normalisation else {})).eval()
        layers = instance_layers(built)
        with input_tap(layers) as tapped:
            built(torch.empty(2, 3, 32, 32))
        assert instance_features([maps for _, maps in tapped]).shape == (2, INSTANCE_WIDTHS[name])
    assert sum(map(width_of_input, layers)) == INSTANCE_WIDTHS[name]


@torch.no_grad()
def test_an_instance_feature_of_a_resnet34_is_made_of_what_goes_into_its_stages() -> None:
    torch.manual_seed(0)
    built, images = models.build("ResNet34", classes=10, image_channels=1, image_size=16).eval(), torch.randn(3, 1, 16, 16)
    with input_tap(instance_layers(built)) as tapped:
        blocks = built.outputs(images)[2]
    found = instance_features([maps for _, maps in tapped])
    assert found.shape == (3, 512)
    after_first = torch.cat([maps.mean((2, 3)) for maps in blocks[:3]], 1)  # the last stage's output is no input of any
    torch.testing.assert_close(found[:, 64:], after_first)
    with input_tap(batch_norms(built)) as norms:
        built(images)
    assert len(norms) == 36


def test_the_taps_are_gone_afterwards() -> None:
    built = models.build("small_cnn", classes=3, image_size=8)
    with input_tap(batch_norms(built)) as tapped:
        built(torch.zeros(2, 3, 8, 8))
    assert len(tapped) == 3
    built(torch.zeros(2, 3, 8, 8))
    assert len(tapped) == 3


def generator(reference: dict[str, torch.Tensor]) -> InversionGenerator:
    sizes = (int(reference[name]) for name in ("nz", "ngf", "img_size"))
    built = InversionGenerator(*sizes, image_channels=reference["images"].shape[1])
    seed = int(reference["fill_seed"])
    built.load_state_dict({key: filled(key, tuple(value.shape), seed) for key, value in built.state_dict().items()})
    return built.train()


def test_the_generator_matches_the_reference() -> None:
    reference = arrays("generator")
    built = generator(reference)
    assert list(built.state_dict()) == texts("generator", "state_keys")
    z = reference["z"].requires_grad_()
    images = (built(z) + 1) / 2  # the reference's are in [0, 1]
    torch.testing.assert_close(images.detach(), reference["images"], rtol=1e-4, atol=1e-5)
    (images * torch.linspace(-1, 1, images.numel()).view_as(images)).sum().backward()
    torch.testing.assert_close(z.grad, reference["grad_z"], rtol=1e-3, atol=1e-3)


def test_the_generator_is_as_large_as_published_and_resets_as_published() -> None:
    built = InversionGenerator()
    assert sum(p.numel() for p in built.parameters()) == 2_328_899
    built.reset(torch.Generator().manual_seed(0))
    for module in built.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.numel() > 10_000:
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        if isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.01)
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.3)
        if getattr(module, "bias", None) is not None:
            assert not bool(module.bias.any())


@pytest.mark.parametrize("size", [8, 28, 64])
def test_the_generator_makes_images_of_any_quarter(size: int) -> None:
    images = InversionGenerator(8, 4, size, 1)(torch.randn(3, 8))
    assert images.shape == (3, 1, size, size)
    assert float(images.abs().max()) <= 1


def test_the_generator_refuses_a_size_it_cannot_make() -> None:
    with pytest.raises(UserError, match="not 30"):
        InversionGenerator(image_size=30)
