"""What one looks at: which old classes a new one borrows from, and the way from one new class to the next."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankd.context import Context
from gankd.models.biggan_transfer import TransferGenerator
from gankd.pictures import heat_map, sample_grid

COLUMNS, ROWS = 9, 6


def borrowed(generator: TransferGenerator) -> Tensor:
    """Share of every old class in every new one, (M, N), rows add to 1: the mean of |score| over layers, gains and biases."""
    weight = generator.scores().abs().mean((0, 1))
    return weight / weight.sum(1, keepdim=True).clamp(min=1e-12)


def borrowing(generator: TransferGenerator) -> Any:
    """Row: new class, column: old class, bright: borrowed much."""
    shares = borrowed(generator)
    return heat_map(shares / shares.max().clamp(min=1e-12))


@torch.no_grad()
def interpolation(generator: TransferGenerator, ctx: Context) -> Any:
    """Rows: a latent each, left a new class and right the next one (from the last to the first), in between their mixtures."""
    classes, rng = generator.classes, ctx.rng(0, "interpolation")
    first = torch.arange(ROWS, device=ctx.device) % classes
    z = generator.latents(ROWS, rng).repeat_interleave(COLUMNS, 0)
    eye = torch.eye(classes, device=ctx.device)
    weight = torch.linspace(0, 1, COLUMNS, device=ctx.device)[None, :, None]
    mixtures = torch.lerp(eye[first][:, None], eye[(first + 1) % classes][:, None], weight)
    return sample_grid(generator(z.to(ctx.device), mixtures.flatten(0, 1)), columns=COLUMNS)
