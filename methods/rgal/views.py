"""The views of synthetic images in [-1, 1] by which the teacher takes them, differentiable."""

from __future__ import annotations

from gankd.data.views import BLACK, Flip, PaddedCrop, ResizedCrop, View

RESIZED_AREA = (0.25, 1.0)  # of a local view, as a share of the image


def global_view(padding: int, flip: bool) -> View:
    """A crop of the original size out of the image with a black border of `padding` pixels, half of them flipped."""
    crop = PaddedCrop(padding, BLACK)
    return (crop, Flip()) if flip else (crop,)


def local_view(flip: bool) -> View:
    """A crop of a random share of the area and a random aspect, enlarged to the original size, half of them flipped."""
    return (ResizedCrop(RESIZED_AREA, flip=0.5 if flip else 0),)
