"""A classifier whose convolutions and linear layers compute with few bits."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from gankd import models
from gankd.errors import UserError
from gankd.models.classifier import Classifier, Outputs
from methods.rgal_quantization.config import QuantizerConfig
from methods.rgal_quantization.quantizer import ActivationRange, channel_ranges, fake_quantize

NAME = "quantized"  # in recipes


class QuantizedLayer(nn.Module):
    """A convolution or linear layer: its weights per output channel, what it is given per tensor. Bias and sum are fp32."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, bits: int, activation_bits: int) -> None:
        super().__init__()
        self.layer, self.bits, self.activation = layer, bits, ActivationRange(activation_bits)

    def forward(self, x: Tensor) -> Tensor:
        x, layer = self.activation(x), self.layer
        weight = fake_quantize(layer.weight, *channel_ranges(layer.weight), self.bits)
        if isinstance(layer, nn.Linear):
            return F.linear(x, weight, layer.bias)
        return F.conv2d(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


class QuantizedClassifier(Classifier):
    """The classifier of recipe `base` with every convolution and linear layer quantized; batch norm keeps its statistics.

    image_channels, image_size: those of `base`, for who wants to know from the recipe what images it takes.
    """

    def __init__(self, base: Mapping[str, Any], image_channels: int, image_size: int, **settings: Any) -> None:
        super().__init__()
        self.network = replace_layers(models.build(**base), **settings)
        self.feature_dim = self.network.feature_dim

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.features(images)
        return features

    def outputs(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.network.outputs(images)
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    def train(self, mode: bool = True) -> QuantizedClassifier:
        """Batch norm stays in eval mode."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


def quantize(teacher: Any, cfg: QuantizerConfig) -> QuantizedClassifier:
    """A quantized copy of a trained classifier; the ranges of its activations are still empty."""
    settings: dict[str, Any] = {
        "bits": cfg.bits,
        "activation_bits": cfg.activation_bits or cfg.bits,
        "input_bits": cfg.input_bits,
        "batch_norm": cfg.batch_norm,
    }
    images = {name: teacher.recipe[name] for name in ("image_channels", "image_size")}
    student: QuantizedClassifier = models.build(NAME, base=teacher.recipe, **images, **settings)
    student.network = replace_layers(copy.deepcopy(teacher).requires_grad_(True), **settings)
    return student


def replace_layers(network: Any, *, bits: int, activation_bits: int, input_bits: int, batch_norm: str) -> Any:
    """`network` itself, its layers replaced. UserError for a layer with weights that is none of those we know."""
    check_layers(network)
    if batch_norm == "folded":
        fold(network)
    given = input_bits  # the first layer is given the image
    for name, layer in list(network.named_modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            network.set_submodule(name, QuantizedLayer(layer, bits, given))
            given = activation_bits
    return network


def check_layers(network: nn.Module) -> None:
    """All that has weights is a convolution or a linear layer, or a norm, whose scales stay as they are."""
    for name, layer in network.named_modules():
        plain = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and layer.padding_mode == "zeros")
        if not plain and any(parameter.dim() > 1 for parameter in layer.parameters(recurse=False)):
            raise UserError(
                f"layer {name!r} of the teacher, {type(layer).__name__}, cannot be quantized: only Conv2d with zero padding and "
                "Linear can; choose another teacher.network"
            )


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuantizedLayer) or super().is_leaf_module(m, module_qualified_name)


def normalised_layers(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each layer whose output a batch norm alone reads, and of that batch norm."""
    modules = dict(network.named_modules())
    for node in _Tracer().trace(network).nodes:
        if node.op == "call_module" and isinstance(modules[node.target], (nn.Conv2d, QuantizedLayer)) and len(node.users) == 1:
            (reader,) = node.users
            if reader.op == "call_module" and isinstance(modules[reader.target], nn.BatchNorm2d):
                yield node.target, reader.target


def fold(network: Any) -> None:
    """Put each batch norm that alone reads a convolution into that convolution's weights and bias."""
    for name, norm in list(normalised_layers(network.eval())):
        network.set_submodule(name, fuse_conv_bn_eval(network.get_submodule(name), network.get_submodule(norm)))
        network.set_submodule(norm, nn.Identity())


@contextlib.contextmanager
def following(network: nn.Module, momentum: float | None) -> Iterator[None]:
    """While it lasts, the ranges of the activations follow what passes (`ActivationRange.momentum`)."""
    ranges = [module for module in network.modules() if isinstance(module, ActivationRange)]
    try:
        for activation in ranges:
            activation.momentum = momentum
        yield
    finally:
        for activation in ranges:
            activation.momentum = None
