"""k-bit numbers in floating point: the asymmetric quantizer of GDFQ, per channel or per tensor, straight-through.

torch's own `fake_quantize_per_tensor_affine` and `_per_channel_affine` know any number of bits, but do not serve: they stop the
gradient outside the range, refuse a range without 0, put -1.0 of [-1, 1] at 4 bits on -7 (1 / scale is rounded), and
take 10 times as long on a CPU. `torch.ao.quantization` is announced to go; torchao's successor is built on the same rules.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """(scale, zero) of the grid on [low, high]: levels per unit, and the integer that low would have without an offset."""
    scale = (2**bits - 1) / (high - low).clamp(min=1e-8)
    return scale, (scale * low).round() + 2 ** (bits - 1)


def levels(x: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """x -> whole numbers q from -2^(k-1) to 2^(k-1) - 1, as floats: clamp(round(scale x - zero))."""
    half = 2 ** (bits - 1)
    return (scale * x - zero).round().clamp(-half, half - 1)


def fake_quantize(x: Tensor, low: Tensor, high: Tensor, bits: int) -> Tensor:
    """x on the grid of `bits` bits over [low, high]: (q + zero) / scale. The gradient is that of x, outside the range too.

    low, high: broadcast over x, () for a tensor, (C, 1, 1, 1) for the output channels of a convolution's weights.
    """
    with torch.no_grad():
        scale, zero = grid(low, high, bits)
        rounded = (levels(x, scale, zero, bits) + zero) / scale
    return rounded + (x - x.detach()) if x.requires_grad else rounded


def channel_ranges(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest weight of each output channel, (C, 1, ...)."""
    over = tuple(range(1, weight.dim()))
    return weight.detach().amin(over, keepdim=True), weight.detach().amax(over, keepdim=True)


class ActivationRange(nn.Module):
    """The range of what a layer is given, and the quantizer on it.

    It always holds 0, with which convolutions pad. `momentum`: share of itself that it keeps when it follows what passes;
    0 takes the range of one batch, None leaves it.
    """

    low: Tensor
    high: Tensor

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.momentum = bits, None
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    momentum: float | None

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        if self.momentum is not None:
            low, high = x.detach().aminmax()
            self.low.lerp_(low.clamp(max=0), 1 - self.momentum)
            self.high.lerp_(high.clamp(min=0), 1 - self.momentum)
        return fake_quantize(x, self.low, self.high, self.bits)
