"""Differentiable views of images in [-1, 1]: crop from a black border, flip, resized crop. One resampling for each.

A view is a grid (N, H, W, 2) of where every pixel comes from, in `grid_sample`'s coordinates. Grids are drawn for the global
batch, so that the number of workers changes nothing; a worker uses its rows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLACK = -1.0
RESIZED_AREA = (0.25, 1.0)  # of a local view, as a share of the image
RESIZED_ASPECT = (3 / 4, 4 / 3)


def _grid(rows: Tensor, columns: Tensor) -> Tensor:
    """Coordinates of rows (N, H) and of columns (N, W) -> (N, H, W, 2), x before y."""
    n, height, width = len(rows), rows.shape[1], columns.shape[1]
    y = rows[:, :, None].expand(n, height, width)
    return torch.stack([columns[:, None, :].expand(n, height, width), y], dim=-1)


def _flipped(columns: Tensor, flip: bool, rng: torch.Generator) -> Tensor:
    """Columns (N, W), mirrored in half of the rows when `flip`."""
    if not flip:
        return columns
    flips = torch.rand(len(columns), 1, generator=rng, device=rng.device) < 0.5
    return torch.where(flips, columns.flip(1), columns)


def draw_crops(n: int, size: int, padding: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Crops of the original size out of images with a border of `padding` pixels, half of them flipped: grids of whole pixels."""
    padded = size + 2 * padding
    offsets = torch.randint(2 * padding + 1, (2, n, 1), generator=rng, device=rng.device)
    # Pixel i has its centre at (2 i + 1) / size - 1.
    rows, columns = (2 * (torch.arange(size, device=rng.device) + offsets) + 1) / padded - 1
    return _grid(rows, _flipped(columns, flip, rng))


def crop(images: Tensor, grid: Tensor, padding: int) -> Tensor:
    """The views of `draw_crops`: pixels are moved, never mixed; the border is black."""
    padded = F.pad(images, (padding,) * 4, value=BLACK)
    return F.grid_sample(padded, grid, mode="nearest", align_corners=False)


def draw_resized_crops(n: int, size: int, flip: bool, rng: torch.Generator) -> Tensor:
    """Crops of a random share of the area and a random aspect, as grids that enlarge them to the original size."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, 1, generator=rng, device=rng.device)

    area, aspect = uniform(*RESIZED_AREA), uniform(*map(math.log, RESIZED_ASPECT)).exp()
    extent = torch.stack([(area / aspect).sqrt(), (area * aspect).sqrt()]).clamp(max=1)  # height, width as shares
    centre = (2 * torch.rand(2, n, 1, generator=rng, device=rng.device) - 1) * (1 - extent)
    steps = (2 * torch.arange(size, device=rng.device) + 1) / size - 1
    rows, columns = centre + extent * steps
    return _grid(rows, _flipped(columns, flip, rng))


def resized_crop(images: Tensor, grid: Tensor) -> Tensor:
    """The views of `draw_resized_crops`, bilinear."""
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
