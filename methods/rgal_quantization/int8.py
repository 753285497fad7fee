"""The quantized network on torch's int8 kernels (oneDNN), in the place of the simulation in floating point.

What a layer computes is sum x_hat w_hat = 1/s (sum x_hat q + zero sum x_hat), q the integers of the weights. The kernels know
symmetric weights alone, so that the second sum is the answer of a filter of ones, which is put behind the others. Two to eight
bits all fit them.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from methods.rgal_quantization.networks import QuantizedLayer, normalised_layers
from methods.rgal_quantization.quantizer import channel_ranges, grid, levels

FP32_ANSWER: Any = (1.0, 0, torch.float32, "none", [], "")  # scale, zero and type of an answer, and no activation behind it


def kernels_here() -> bool:
    """Whether torch has its int8 kernels on this CPU."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


class Int8Layer(nn.Module):
    """A quantized layer, and the batch norm behind it if there is one, on int8 kernels; fp32 in and out."""

    def __init__(self, quantized: QuantizedLayer, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        layer = quantized.layer
        self.linear = isinstance(layer, nn.Linear)
        weight = layer.weight.detach()[:, :, None, None] if self.linear else layer.weight.detach()
        scale, zero = grid(*channel_ranges(weight), quantized.bits)
        q = levels(weight, scale, zero, quantized.bits).to(torch.int8)
        factor, offset = batch_norm_line(norm, layer.bias, len(q))
        self.asymmetry = (factor * zero.flatten() / scale.flatten())[:, None, None]
        shapes: Any = ((1, 1), (0, 0), (1, 1)) if self.linear else (layer.stride, layer.padding, layer.dilation)
        self.shape = [list(sizes) for sizes in shapes]
        self.q = torch.cat([q, torch.ones_like(q[:1])])  # behind the weights, the filter of ones
        self.weight_scale = torch.cat([factor / scale.flatten(), torch.ones(1)])
        self.bias, self.zeros = torch.cat([offset, torch.zeros(1)]), torch.zeros(len(q) + 1, dtype=torch.int32)
        activation = quantized.activation
        x_scale, x_zero = grid(activation.low, activation.high, activation.bits)
        # Levels are counted from 0 here; this one stands for the number 0.
        self.x_scale, self.x_zero, self.top = float(x_scale), 2 ** (activation.bits - 1) - int(x_zero), 2**activation.bits - 1
        self.packed: tuple[torch.Size, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, None, None] if self.linear else x
        u = (x * self.x_scale).round_().add_(self.x_zero).clamp_(0, self.top).to(torch.uint8)
        x_grid = (1 / self.x_scale, self.x_zero)
        if self.packed is None or self.packed[0] != x.shape:  # packed for another shape, a kernel can be 200 times slower
            packed = torch.ops.onednn.qconv_prepack(self.q, self.weight_scale, *x_grid, *self.shape, 1, list(x.shape))
            self.packed = x.shape, packed
        sums = torch.ops.onednn.qconv2d_pointwise(
            u, *x_grid, self.packed[1], self.weight_scale, self.zeros, self.bias, *self.shape, 1, *FP32_ANSWER
        )
        out = torch.addcmul(sums[:, :-1], sums[:, -1:], self.asymmetry)
        return out.flatten(1) if self.linear else out


def batch_norm_line(norm: nn.BatchNorm2d | None, bias: Tensor | None, channels: int) -> tuple[Tensor, Tensor]:
    """Factor and offset (C,) of what comes behind a layer's sum: its bias and a batch norm in eval mode."""
    offset = torch.zeros(channels) if bias is None else bias.detach()
    if norm is None:
        return torch.ones(channels), offset
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.detach() / (norm.running_var + norm.eps).sqrt()
    return factor, norm.bias.detach() + (offset - norm.running_mean) * factor


def with_int8_kernels(network: Any) -> nn.Module:
    """A copy of a quantized classifier, on the CPU, whose layers run on int8 kernels; grouped convolutions stay simulated."""
    network = copy.deepcopy(network).cpu().eval().requires_grad_(False)
    norms = dict(normalised_layers(network))
    for name, layer in list(network.named_modules()):
        if isinstance(layer, QuantizedLayer) and getattr(layer.layer, "groups", 1) == 1:
            network.set_submodule(name, Int8Layer(layer, network.get_submodule(norms[name]) if name in norms else None))
            if name in norms:
                network.set_submodule(norms[name], nn.Identity())
    return network


def stored_bytes(network: nn.Module) -> int:
    """Bytes of a network's numbers: quantized weights packed, with a scale and a zero per channel; all others fp32."""
    packed = 0
    for layer in network.modules():
        if isinstance(layer, QuantizedLayer):
            weight = layer.layer.weight
            packed += -(-weight.numel() * layer.bits // 8) + 8 * len(weight) - 4 * weight.numel()
    numbers = [*network.parameters(), *(buffer for buffer in network.buffers() if buffer.is_floating_point())]
    return packed + 4 * sum(number.numel() for number in numbers)
