"""Differentiable augmentation of real and fake images before a discriminator (Zhao et al. 2020, "DiffAugment").

Drawing is apart from applying: all workers draw for the global batch from one generator and take their rows, and a test
can bring draws of its own. Every operation acts on every image, with draws of its own per image, in the order of the
policy:

    brightness  x + (u - 1/2)                    u ~ U[0, 1)
    saturation  (x - m) * 2u + m                 m = mean over the channels of a pixel (identity for one channel)
    contrast    (x - m) * (u + 1/2) + m          m = mean over the image
    translation out[i, j] = x[i + a, j + b]      zero outside; a, b integers, up to an eighth of the size either way
    cutout      a rectangle of half the size becomes zero; its centre is any pixel, so the border cuts it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gankd.data.views import cut_out, part, shifted
from gankd.errors import UserError

SHIFT_RATIO = 1 / 8
CUTOUT_RATIO = 1 / 2
COLOR = ("brightness", "saturation", "contrast")
POLICIES = ("color", "translation", "cutout")

# Operation -> (n,) uniforms, or (n, 2) integers by row and column; in the order of application.
Draws = dict[str, Tensor]


def draw(n: int, height: int, width: int, policy: Sequence[str], generator: torch.Generator) -> Draws:
    """The random numbers for `n` images, on the generator's device. policy: any of "color", "translation", "cutout"."""
    draws: Draws = {}

    def integers(*ranges: tuple[int, int]) -> Tensor:
        columns = [torch.randint(low, high + 1, (n,), generator=generator, device=generator.device) for low, high in ranges]
        return torch.stack(columns, 1)

    for name in policy:
        if name == "color":
            for operation in COLOR:
                draws[operation] = torch.rand(n, generator=generator, device=generator.device)
        elif name == "translation":
            draws[name] = integers(*((-part(s, SHIFT_RATIO), part(s, SHIFT_RATIO)) for s in (height, width)))
        elif name == "cutout":
            draws[name] = integers(*((0, s - part(s, CUTOUT_RATIO) % 2) for s in (height, width)))
        else:
            raise UserError(f"diffaugment policy {name!r} is unknown: choose among {', '.join(POLICIES)}.")
    return draws


def rows(draws: Draws, which: slice) -> Draws:
    """The draws of some of the images."""
    return {name: values[which] for name, values in draws.items()}


def concatenate(*parts: Draws) -> Draws:
    """The draws of several batches, for their concatenation."""
    return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Images (N, C, H, W) float, C 1 or more, with `draws` for N images; differentiable, not clipped to [-1, 1]."""
    for name, values in draws.items():
        images = OPERATIONS[name](images, values.to(images.device, non_blocking=True))
    return images


def brightness(x: Tensor, u: Tensor) -> Tensor:
    return x + (u.to(x.dtype) - 0.5)[:, None, None, None]


def saturation(x: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(x.mean(1, keepdim=True), x, (2 * u.to(x.dtype))[:, None, None, None])


def contrast(x: Tensor, u: Tensor) -> Tensor:
    return torch.lerp(x.mean((1, 2, 3), keepdim=True), x, (u.to(x.dtype) + 0.5)[:, None, None, None])


def cutout(x: Tensor, centre: Tensor) -> Tensor:
    height, width = (part(side, CUTOUT_RATIO) for side in x.shape[2:])
    return cut_out(x, centre, height, width)


OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": brightness,
    "saturation": saturation,
    "contrast": contrast,
    "translation": shifted,
    "cutout": cutout,
}
