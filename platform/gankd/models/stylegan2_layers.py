"""The layers and blocks of StyleGAN2 (Karras et al. 2020): equalised weights, FIR resampling, modulated convolution.

Weights are stored as N(0, 1) draws over the learning-rate factor and are scaled when used. A leaky ReLU is followed by a
gain of sqrt(2); a positive gain may as well be applied before it, so it is folded into weights and biases here.
What is only as wide as the latent (styles, their demodulation) is computed in the parameters' precision under autocast too.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Noise = Literal["random", "const", "none"]

BOTTOM = 4  # px of the smallest maps
SLOPE, GAIN = 0.2, math.sqrt(2)
TAPS = (1.0, 3.0, 3.0, 1.0)
EPS = 1e-8


def fir_kernel() -> Tensor:
    """(4, 4), sums to 1."""
    taps = torch.tensor(TAPS) / sum(TAPS)
    return torch.outer(taps, taps)


def fir(x: Tensor, kernel: Tensor, padding: int, stride: int = 1, gain: float = 1.0) -> Tensor:
    """Every channel of (N, C, H, W) filtered by the symmetric 4x4 `kernel`, in the precision of x."""
    channels = x.shape[1]
    weight = (kernel * gain).to(x.dtype).expand(channels, 1, -1, -1)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv2d(x, weight, stride=stride, padding=padding, groups=channels)


def halve(x: Tensor, kernel: Tensor, gain: float = 1.0) -> Tensor:
    """(N, C, H, W) to (N, C, H/2, W/2)."""
    return fir(x, kernel, padding=1, stride=2, gain=gain)


def double(x: Tensor, kernel: Tensor, gain: float = 1.0) -> Tensor:
    """(N, C, H, W) to (N, C, 2H, 2W): zeros between the pixels, filtered by four times the kernel, in the precision of x."""
    channels = x.shape[1]
    weight = (kernel * 4 * gain).to(x.dtype).expand(channels, 1, -1, -1)
    with torch.autocast(x.device.type, enabled=False):
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def activated(x: Tensor, conv_clamp: float | None) -> Tensor:
    """Leaky ReLU, cut off at +-conv_clamp; its gain is in x already."""
    x = F.leaky_relu(x, SLOPE)
    return x if conv_clamp is None else x.clamp(-conv_clamp, conv_clamp)


class Linear(nn.Module):
    """(N, inputs) to (N, outputs), in the parameters' precision. rate: factor on the learning rate of both parameters."""

    def __init__(self, inputs: int, outputs: int, rate: float = 1.0, bias: float = 0.0, activate: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))
        self.rate, self.activate = rate, activate

    def forward(self, x: Tensor) -> Tensor:
        gain = self.rate * (GAIN if self.activate else 1)
        with torch.autocast(x.device.type, enabled=False):
            y = F.linear(x.to(self.weight.dtype), self.weight * (gain / math.sqrt(x.shape[1])), self.bias * gain)
            return F.leaky_relu(y, SLOPE) if self.activate else y


class Conv(nn.Module):
    """A plain convolution with bias and activation: of a discriminator. down: filtered first, then taken at every 2nd pixel."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, down: bool = False, conv_clamp: float | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.register_buffer("resample_filter", fir_kernel())
        self.down, self.conv_clamp = down, conv_clamp

    def forward(self, x: Tensor, gain: float = 1.0) -> Tensor:
        """gain: on the activated output, and on its clamp."""
        size = self.weight.shape[2]
        weight = self.weight * (gain * GAIN / math.sqrt(self.weight[0].numel()))
        if self.down:
            x = fir(x, self.resample_filter, padding=2)
        y = F.conv2d(x, weight, self.bias * (gain * GAIN), stride=1 + self.down, padding=0 if self.down else size // 2)
        return activated(y, None if self.conv_clamp is None else self.conv_clamp * gain)


class Skip(nn.Module):
    """The shortcut of a residual block: 1x1, without bias, twice or half the size."""

    resample_filter: Tensor

    def __init__(self, inputs: int, outputs: int, up: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 1, 1))
        self.register_buffer("resample_filter", fir_kernel())
        self.up = up

    def forward(self, x: Tensor, gain: float) -> Tensor:
        weight = self.weight * (gain / math.sqrt(x.shape[1]))
        if self.up:
            return double(F.conv2d(x, weight), self.resample_filter)
        return F.conv2d(halve(x, self.resample_filter), weight)


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution, noise, bias, activation; `up` doubles the size of the map first.

    The style s multiplies the input channels of the weight, and every output channel is then brought to unit norm:
    x * s before the weight that all images share, and a factor per image and channel behind it, are the same.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(self, inputs: int, outputs: int, dim_w: int, size: int, up: bool, conv_clamp: float | None) -> None:
        super().__init__()
        self.affine = Linear(dim_w, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.register_buffer("resample_filter", fir_kernel())
        self.register_buffer("noise_const", torch.randn(size, size))
        self.noise_strength = nn.Parameter(torch.zeros([]))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.up, self.conv_clamp = up, conv_clamp

    def forward(self, x: Tensor, w: Tensor, noise: Noise, rng: torch.Generator | None, gain: float = 1.0) -> Tensor:
        """x (N, inputs, H, W), w (N, dim_w); gain: on the activated output, and on its clamp."""
        fan_in = self.weight[0].numel()
        with torch.autocast(x.device.type, enabled=False):
            style = self.affine(w) / math.sqrt(fan_in)  # keeps sums within the range of 16-bit types; demodulation cancels it
            norm = (style.square() @ self.weight.square().sum((2, 3)).T + EPS / fan_in).rsqrt() * (gain * GAIN)
        x = x * style[:, :, None, None].to(x.dtype)
        if self.up:
            x = F.conv_transpose2d(x, self.weight.transpose(0, 1), stride=2)
            x = fir(x, self.resample_filter, padding=1, gain=4)
        else:
            x = F.conv2d(x, self.weight, padding=1)
        offset = (self.bias[:, None, None] + self.noise(x.shape[0], noise, rng)) * (gain * GAIN)
        x = torch.addcmul(offset.to(x.dtype), x, norm[:, :, None, None].to(x.dtype))
        return activated(x, None if self.conv_clamp is None else self.conv_clamp * gain)

    def noise(self, n: int, noise: Noise, rng: torch.Generator | None) -> Tensor:
        """(n, 1, H, W), or what spreads to it; `rng` may be on another device."""
        like = self.noise_const
        if noise == "none":
            return torch.zeros_like(self.noise_strength)
        if noise == "const":
            return like * self.noise_strength
        device = like.device if rng is None else rng.device
        drawn = torch.randn(n, 1, *like.shape, generator=rng, device=device, dtype=like.dtype)
        return drawn.to(like.device) * self.noise_strength


class ToRGB(nn.Module):
    """A map to image channels: 1x1, modulated, not demodulated, linear."""

    def __init__(self, inputs: int, image_channels: int, dim_w: int, conv_clamp: float | None) -> None:
        super().__init__()
        self.affine = Linear(dim_w, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(image_channels))
        self.conv_clamp = conv_clamp

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """(N, image_channels, H, W) in the precision of w: images are summed over the blocks, where bf16 is too coarse."""
        style = self.affine(w) / math.sqrt(x.shape[1])
        image = F.conv2d(x * style[:, :, None, None].to(x.dtype), self.weight).to(w.dtype) + self.bias[:, None, None]
        return image if self.conv_clamp is None else image.clamp(-self.conv_clamp, self.conv_clamp)


class SynthesisBlock(nn.Module):
    """The layers of one size: from the map and the image of half that size to theirs."""

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, dim_w: int, size: int, image_channels: int, last: bool,
        architecture: str, conv_clamp: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.first = size == BOTTOM
        self.register_buffer("resample_filter", fir_kernel())
        if self.first:
            self.const = nn.Parameter(torch.randn(outputs, size, size))
        else:
            self.conv0 = SynthesisLayer(inputs, outputs, dim_w, size, True, conv_clamp)
        self.conv1 = SynthesisLayer(outputs, outputs, dim_w, size, False, conv_clamp)
        rgb = last or architecture == "skip"
        self.torgb = ToRGB(outputs, image_channels, dim_w, conv_clamp) if rgb else None
        self.skip = Skip(inputs, outputs, up=True) if architecture == "resnet" and not self.first else None

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Tensor, noise: Noise, rng: torch.Generator | None
    ) -> tuple[Tensor, Tensor | None]:
        """The map (N, outputs, S, S) that leaves the last 3x3 layer, and the image so far, if there is one yet.

        ws (N, k, dim_w) begins with this block's first copy; the ToRGB layer takes the one behind the 3x3 layers.
        """
        gain = 1.0 if self.skip is None else math.sqrt(0.5)
        if x is None:
            x = self.const.to(ws.dtype).expand(ws.shape[0], -1, -1, -1)
            x = self.conv1(x, ws[:, 0], noise, rng)
        else:
            shortcut = None if self.skip is None else self.skip(x, gain)
            x = self.conv0(x, ws[:, 0], noise, rng)
            x = self.conv1(x, ws[:, 1], noise, rng, gain)
            x = x if shortcut is None else shortcut + x
        image = None if image is None else double(image, self.resample_filter)
        if self.torgb is not None:
            rgb = self.torgb(x, ws[:, 1 if self.first else 2])
            image = rgb if image is None else image + rgb
        return x, image


class DiscriminatorBlock(nn.Module):
    """A map and, where the architecture hands it down, the image of `size` px, to those of half the size."""

    resample_filter: Tensor

    def __init__(
        self, inputs: int, outputs: int, image_channels: int, first: bool, architecture: str, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.hands_down = architecture == "skip"
        self.register_buffer("resample_filter", fir_kernel())
        self.fromrgb = Conv(image_channels, inputs, 1, conv_clamp=conv_clamp) if first or self.hands_down else None
        self.conv0 = Conv(inputs, inputs, 3, conv_clamp=conv_clamp)
        self.conv1 = Conv(inputs, outputs, 3, down=True, conv_clamp=conv_clamp)
        self.skip = Skip(inputs, outputs, up=False) if architecture == "resnet" else None

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.fromrgb is not None:
            x = self.fromrgb(image) if x is None else x + self.fromrgb(image)
        if self.hands_down:
            image = halve(image, self.resample_filter)
        if self.skip is None:
            return self.conv1(self.conv0(x)), image
        gain = math.sqrt(0.5)
        return self.skip(x, gain) + self.conv1(self.conv0(x), gain), image


def batch_spread(x: Tensor, group: int | None, channels: int) -> Tensor:
    """How different the images of a group are, (groups, channels), from x (N, C, H, W).

    Image i is in a group with i + k * (groups). Every number is the standard deviation in the group, a mean over a
    `channels`-th of the channels and all positions. A group has `group` images (None: all), or as many less as divide the batch.
    """
    n, c, height, width = x.shape
    size = next(size for size in range(min(group or n, n), 0, -1) if n % size == 0)
    y = x.reshape(size, n // size, channels, c // channels, height, width)
    return ((y - y.mean(0)).square().mean(0) + EPS).sqrt().mean((2, 3, 4))


def with_maps_of(x: Tensor, spread: Tensor) -> Tensor:
    """x (N, C, H, W) with a constant map for each number of its group's spread (groups, channels)."""
    n, _, height, width = x.shape
    maps = spread.repeat(n // spread.shape[0], 1)[:, :, None, None].expand(-1, -1, height, width)
    return torch.cat([x, maps], 1)


class DiscriminatorHead(nn.Module):
    """Maps of 4 px to features (N, C) (`forward`) and on to logits (N, 1) (`out`); in the parameters' precision.

    fixed: the spread (channels,) that stands in place of a batch's own; None for that.
    """

    fixed: Tensor | None = None

    def __init__(
        self, channels: int, image_channels: int, group: int | None, spreads: int, architecture: str, conv_clamp: float | None
    ) -> None:
        super().__init__()
        self.group, self.spreads = group, spreads
        self.fromrgb = Conv(image_channels, channels, 1) if architecture == "skip" else None
        self.conv = Conv(channels + spreads, channels, 3, conv_clamp=conv_clamp)
        self.fc = Linear(channels * BOTTOM**2, channels, activate=True)
        self.out = Linear(channels, 1)

    def joined(self, x: Tensor, image: Tensor) -> Tensor:
        """The map, with what the architecture reads off the image at 4 px added."""
        x = x.to(self.fc.weight.dtype)
        return x if self.fromrgb is None else x + self.fromrgb(image.to(x.dtype))

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = self.joined(x, image)
            if self.spreads:
                spread = batch_spread(x, self.group, self.spreads) if self.fixed is None else self.fixed[None].to(x)
                x = with_maps_of(x, spread)
            features: Tensor = self.fc(self.conv(x).flatten(1))
            return features

    def spread_of(self, x: Tensor, image: Tensor) -> Tensor:
        """The spread (spreads,) of a whole batch."""
        with torch.autocast(x.device.type, enabled=False):
            return batch_spread(self.joined(x, image), None, self.spreads)[0]
