"""Random views of images: drawn for every image by itself, made for the batch as a whole, differentiable.

view = (ResizedCrop((0.2, 1)), ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.8), Grey(0.2), Flip())
draws = draw(view, n, size, rng)              # for the global batch: the same on all ranks
images = apply(view, images, rows(draws, mine))

Images are float (N, C, H, W) in [-1, 1]; what only moves pixels (`Flip`, `PaddedCrop`) also takes uint8. torchvision draws once
for a batch, so that all its images are cropped and coloured alike; the parameters here mean what they mean there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BLACK = -1.0
LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue, as torchvision's


class Operation:
    """One step of a view. What it draws has a row for each image."""

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        """The random numbers for `n` images of `size` x `size`, (n, ...), on the generator's device."""
        raise NotImplementedError

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """The images, changed each by its row; never in place."""
        raise NotImplementedError


View = Sequence[Operation]
Draws = list[Tensor]  # of each operation


def draw(view: View, n: int, size: int, rng: torch.Generator) -> Draws:
    """All random numbers for `n` images, in the order of the operations."""
    return [operation.draw(n, size, rng) for operation in view]


def rows(draws: Draws, which: slice) -> Draws:
    """The draws of some of the images."""
    return [drawn[which] for drawn in draws]


def apply(view: View, images: Tensor, draws: Draws) -> Tensor:
    """The views of N images by the draws for them; gradients reach the images."""
    for operation, drawn in zip(view, draws, strict=True):
        images = operation.apply(images, drawn.to(images.device, non_blocking=True))
    return images


def viewed(view: View, images: Tensor, rng: torch.Generator, which: slice, total: int) -> Tensor:
    """A random view of each of this worker's images, which are those at `which` of a global batch of `total`.

    All workers draw for the global batch, so that their number changes nothing.
    """
    return apply(view, images, rows(draw(view, total, images.shape[-1], rng), which))


def flip_and_crop(flip: bool, crop_padding: int) -> View:
    """The view that classifiers of small images are trained on: a flip, then a crop from a border of zeros.

    Either is left out, and draws nothing, when it is not asked for.
    """
    wanted: list[Operation] = [Flip()] if flip else []
    return [*wanted, PaddedCrop(crop_padding)] if crop_padding else wanted


@dataclass(frozen=True)
class Flip(Operation):
    """Mirrored left to right with probability `p`."""

    p: float = 0.5

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        return _chance(self.p, n, rng)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        mirrored = images.flip(-1)
        if _numpy_is_faster(images):
            kept = ~drawn.numpy()
            mirrored.numpy()[kept] = images.numpy()[kept]
            return mirrored
        return torch.where(_per_image(drawn), mirrored, images)


@dataclass(frozen=True)
class PaddedCrop(Operation):
    """Cut out at its own size, after `padding` pixels of `fill` were put around. Drawn: row and column, 0..2 padding."""

    padding: int
    fill: float = 0

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        return torch.randint(2 * self.padding + 1, (2, n), generator=rng, device=rng.device).T

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        if not _numpy_is_faster(images):
            return shifted(images, drawn - self.padding, self.fill)
        height, width = images.shape[-2:]
        padded = F.pad(images, (self.padding,) * 4, value=self.fill)
        # (B, row, column, C, H, W): every possible crop as a view; indexing copies the wanted one.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 2, 3, 1, 4, 5)
        row, column = drawn.T.numpy()
        return torch.from_numpy(windows.numpy()[np.arange(len(images)), row, column])


@dataclass(frozen=True)
class ResizedCrop(Operation):
    """A part of random area and aspect, enlarged to the image's size (bilinear), and mirrored with probability `flip`.

    A part that would not fit is cut at the image's border, where torchvision tries again. Drawn: centre (y, x) in -1..1, height
    and width as shares of the image; a negative width is mirrored. Near its edge a crop mixes in pixels from outside it.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        area = _uniform(*self.scale, n, rng)
        aspect = _uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), n, rng).exp()
        extent = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()]).clamp(max=1)
        centre = (2 * torch.rand(2, n, generator=rng, device=rng.device) - 1) * (1 - extent)
        if self.flip:
            extent[1] = torch.where(_chance(self.flip, n, rng), -extent[1], extent[1])
        return torch.cat([centre, extent]).T

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        (n, _, height, width), mirrored = images.shape, drawn[:, 3:] < 0
        # Pixel i has its centre at (2 i + 1) / size - 1.
        y, x = ((2 * torch.arange(side, device=images.device) + 1) / side - 1 for side in (height, width))
        y, x = drawn[:, :1] + drawn[:, 2:3] * y, drawn[:, 1:2] + drawn[:, 3:].abs() * x
        x = torch.where(mirrored, x.flip(1), x)
        grid = torch.stack([x[:, None, :].expand(n, height, width), y[:, :, None].expand(n, height, width)], dim=-1)
        return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class ColourJitter(Operation):
    """With probability `p`, brightness, contrast, saturation and hue changed by up to so much, in this order.

    Drawn: three factors around 1, and a shift of the hue in turns (-1/2..1/2). torchvision draws the order, too.
    """

    brightness: float = 0
    contrast: float = 0
    saturation: float = 0
    hue: float = 0
    p: float = 1

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        strength = constant((self.brightness, self.contrast, self.saturation, self.hue), rng.device)
        change = (2 * torch.rand(n, 4, generator=rng, device=rng.device) - 1) * strength * _chance(self.p, n, rng)[:, None]
        neutral = constant((1.0, 1.0, 1.0, 0.0), rng.device)
        return torch.cat([(neutral + change)[:, :3].clamp(min=0), change[:, 3:]], 1)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        bright, contrast, saturation, turn = (_per_image(column) for column in drawn.unbind(1))
        x = ((images + 1) / 2 * bright).clamp(0, 1)
        x = torch.lerp(grey(x).mean((1, 2, 3), keepdim=True), x, contrast).clamp(0, 1)
        if images.shape[1] == 3:
            x = torch.lerp(grey(x), x, saturation).clamp(0, 1)
            x = turned_hue(x, turn[:, 0])
        return 2 * x - 1


@dataclass(frozen=True)
class Grey(Operation):
    """Without colour with probability `p`; the number of channels stays."""

    p: float

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        return _chance(self.p, n, rng)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        return torch.where(_per_image(drawn), 2 * grey((images + 1) / 2) - 1, images)


@dataclass(frozen=True)
class Blur(Operation):
    """With probability `p` a Gaussian blur, its deviation uniform in `sigma` (pixels), by `kernel` x `kernel` (odd) pixels.

    Drawn: the deviation, 0 for none. The border is reflected.
    """

    sigma: tuple[float, float] = (0.1, 2.0)
    kernel: int = 5
    p: float = 1

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        return _uniform(*self.sigma, n, rng) * _chance(self.p, n, rng)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        n, channels, height, width = images.shape
        half = self.kernel // 2
        distance = torch.arange(-half, half + 1, device=images.device)
        # A deviation of a hundredth of a pixel leaves all weight on the pixel itself, exactly.
        weights = (-0.5 * (distance / drawn[:, None].clamp(min=0.01)) ** 2).exp()
        weights = (weights / weights.sum(1, keepdim=True)).to(images.dtype).repeat_interleave(channels, 0)
        # An image's channels are groups of their own, so that each is given its kernel: along the rows, then the columns.
        x = F.pad(images, (half,) * 4, mode="reflect").view(1, n * channels, height + 2 * half, width + 2 * half)
        x = F.conv2d(x, weights[:, None, None, :], groups=n * channels)
        x = F.conv2d(x, weights[:, None, :, None], groups=n * channels)
        return x.view(n, channels, height, width)


@dataclass(frozen=True)
class Cutout(Operation):
    """A square of `share` of the side becomes mid-grey. Drawn: its centre (row, column), any pixel: the border cuts it."""

    share: float = 0.5

    def draw(self, n: int, size: int, rng: torch.Generator) -> Tensor:
        return torch.randint(size + 1 - part(size, self.share) % 2, (n, 2), generator=rng, device=rng.device)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        height, width = (part(side, self.share) for side in images.shape[-2:])
        return cut_out(images, drawn, height, width)


def part(side: int, share: float) -> int:
    """`share` of `side` pixels, rounded half up."""
    return int(side * share + 0.5)


def shifted(images: Tensor, shift: Tensor, fill: float = 0) -> Tensor:
    """out[i, j] = images[i + a, j + b], `fill` where that is outside; `shift` int64 (N, 2) holds a and b of each image."""
    n, channels, height, width = images.shape
    row = torch.arange(height, device=images.device) + shift[:, :1]
    column = torch.arange(width, device=images.device) + shift[:, 1:]
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    # Positions outside read some pixel inside and are filled, so no gradient reaches that pixel twice.
    source = row.clamp(0, height - 1)[:, :, None] * width + column.clamp(0, width - 1)[:, None, :]
    moved = images.flatten(2).gather(2, source.flatten(1)[:, None, :].expand(n, channels, -1))
    return moved.view(n, channels, height, width).masked_fill(~inside[:, None], fill)


def cut_out(images: Tensor, centre: Tensor, height: int, width: int) -> Tensor:
    """Zeros in a rectangle of each image: `height` rows from centre - height // 2, columns alike; `centre` int64 (N, 2)."""

    def within(side: int, extent: int, middle: Tensor) -> Tensor:
        position = torch.arange(side, device=images.device) - (middle[:, None] - extent // 2)
        return (position >= 0) & (position < extent)

    hole = within(images.shape[2], height, centre[:, 0])[:, :, None] & within(images.shape[3], width, centre[:, 1])[:, None, :]
    return images * ~hole[:, None]


def grey(images: Tensor) -> Tensor:
    """Luma of images in 0..1: (N, 3, H, W) -> (N, 1, H, W); grey images as they are."""
    if images.shape[1] == 1:
        return images
    weights = constant(LUMA, images.device).to(images.dtype).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def turned_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Images (N, 3, H, W) in 0..1 with `turn` (N, 1, 1), in turns, added to the hue of HSV; value and saturation stay."""
    top = images.amax(1)
    span = top - images.amin(1)
    red, green, blue = ((top[:, None] - images) / torch.where(span == 0, 1.0, span)[:, None]).unbind(1)
    # The hue in sixths of a turn, counted from the channel that is largest.
    sixths = torch.where(red == 0, blue - green, torch.where(green == 0, 2 + red - blue, 4 + green - red)) + 6 * turn
    places = ((start + sixths) % 6 for start in (5, 3, 1))
    return torch.stack([top - span * torch.minimum(place, 4 - place).clamp(0, 1) for place in places], 1)


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The numbers as a float32 tensor, put on the device once: to put them there waits for it."""
    return torch.tensor(values, device=device)


def _numpy_is_faster(images: Tensor) -> bool:
    """Without gradients on the CPU, numpy moves whole rows where torch goes pixel by pixel, several times slower."""
    return images.device.type == "cpu" and not images.requires_grad and images.dtype != torch.bfloat16


def _per_image(drawn: Tensor) -> Tensor:
    return drawn.view(-1, 1, 1, 1)


def _chance(p: float, n: int, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, device=rng.device) < p


def _uniform(low: float, high: float, n: int, rng: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(n, generator=rng, device=rng.device)
