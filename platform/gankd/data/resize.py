"""Size and colour of uint8 images, in integer arithmetic: the same bytes on every machine, so fingerprints agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# ITU-R 601 luma in 16-bit fixed point, as Pillow's convert("L").
_LUMA = np.array([19595, 38470, 7471], np.uint32)


def set_channels(images: np.ndarray, channels: int | None) -> np.ndarray:
    """uint8 (N, C, H, W) with 1 or 3 channels: grey is repeated, RGB is reduced to luma."""
    if channels is None or channels == images.shape[1]:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=1)
    grey = np.einsum("nchw,c->nhw", images.astype(np.uint32), _LUMA)
    return ((grey + 0x8000) >> 16).astype(np.uint8)[:, None]


def resize_image(image: Image.Image, size: int) -> Image.Image:
    """A square picture at `size` x `size`: area mean if it shrinks by a whole factor, else antialiased bicubic."""
    from PIL import Image

    if image.width % size == 0:
        return image.reduce(image.width // size)
    return image.resize((size, size), Image.Resampling.BICUBIC)


def each_picture(images: np.ndarray, change: Callable[[int, Image.Image], Image.Image]) -> np.ndarray:
    """uint8 (N, C, H, W) with `change(i, picture)` applied to each as a Pillow picture of mode L or RGB."""
    from PIL import Image

    grey = images.shape[1] == 1
    pictures = images[:, 0] if grey else np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    done = np.stack([np.asarray(change(i, Image.fromarray(picture))) for i, picture in enumerate(pictures)])
    return np.ascontiguousarray(done[:, None] if grey else done.transpose(0, 3, 1, 2))


def set_size(images: np.ndarray, size: int | None) -> np.ndarray:
    """uint8 (N, C, S, S) -> (N, C, size, size)."""
    if size is None or size == images.shape[-1] or not len(images):
        return images
    return each_picture(images, lambda _, picture: resize_image(picture, size))
