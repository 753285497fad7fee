"""Views: each image by its own draws, as torchvision would change it alone with the same parameters."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd.data.views import (
    BLACK,
    Blur,
    ColourJitter,
    Cutout,
    Flip,
    Grey,
    Operation,
    PaddedCrop,
    ResizedCrop,
    apply,
    draw,
    turned_hue,
    viewed,
)

N, SIZE = 12, 16
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
ALL: list[Operation] = [
    Flip(),
    PaddedCrop(3, BLACK),
    ResizedCrop((0.2, 1), flip=0.5),
    ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
    Grey(0.5),
    Blur(p=0.5),
    Cutout(),
]


def rng(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def images(channels: int = 3) -> Tensor:
    """Bright and flat halves, in [-1, 1]; the first image is grey, the second black."""
    made = torch.rand(N, channels, SIZE, SIZE, generator=rng(9)) * 2 - 1
    made[:, :, SIZE // 2 :] *= 0.2
    made[0] = made[0, :1]
    made[1] = -1
    return made


def unit(x: Tensor) -> Tensor:
    return (x + 1) / 2


def one_operation(operation: Operation, seed: int = 1, channels: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Images, what was drawn for them, and their views."""
    x = images(channels)
    (drawn,) = draw([operation], N, SIZE, rng(seed))
    return x, drawn, operation.apply(x, drawn)


@pytest.mark.parametrize("operation", ALL, ids=lambda operation: type(operation).__name__)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_differs_by_image_leaves_its_source_alone_and_has_finite_gradients(operation: Operation, channels: int) -> None:
    source = images(channels)
    before = source.clone()
    x = source.clone().requires_grad_()
    drawn = draw([operation], N, SIZE, rng(2))
    made, plain = apply([operation], x, drawn), apply([operation], source, drawn)
    assert torch.equal(source, before)
    torch.testing.assert_close(made.detach(), plain, rtol=0, atol=1e-6)
    assert made.shape == x.shape
    same = source[2:3].expand(N, -1, -1, -1)
    if not (isinstance(operation, Grey) and channels == 1):
        assert len({view.numpy().tobytes() for view in apply([operation], same, drawn)}) > 1  # equal images, other views
    made.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())
    assert bool(x.grad.any())


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_what_one_worker_would_see(world: int) -> None:
    x = images()
    whole, share = viewed(ALL, x, rng(5), slice(0, N), N), N // world
    parts = [slice(rank * share, (rank + 1) * share) for rank in range(world)]
    torch.testing.assert_close(torch.cat([viewed(ALL, x[part], rng(5), part, N) for part in parts]), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_pixels_are_moved_by_hand(device: str) -> None:
    x = torch.arange(8, dtype=torch.uint8, device=device).view(2, 1, 2, 2)
    flipped = Flip().apply(x, torch.tensor([False, True], device=device))
    assert flipped.tolist() == [[[[0, 1], [2, 3]]], [[[5, 4], [7, 6]]]]
    offsets = torch.tensor([[0, 1], [2, 0]], device=device)  # down by one; up by one and right by one
    assert PaddedCrop(1).apply(x, offsets).tolist() == [[[[0, 0], [0, 1]]], [[[0, 6], [0, 0]]]]
    assert flipped.dtype == torch.uint8
    both = PaddedCrop(1, fill=-1).apply(x.float().requires_grad_(), offsets)  # the differentiable way
    assert both.tolist() == [[[[-1, -1], [0, 1]]], [[[-1, 6], [-1, -1]]]]


def test_flips_and_crops_agree_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as T

    x, drawn, made = one_operation(Flip())
    assert torch.equal(made, torch.stack([T.horizontal_flip(i) if f else i for i, f in zip(x, drawn, strict=True)]))
    x, drawn, made = one_operation(PaddedCrop(4, BLACK))
    expected = [T.crop(T.pad(i, [4], fill=-1.0), *place, SIZE, SIZE) for i, place in zip(x, drawn.tolist(), strict=True)]
    assert torch.equal(made, torch.stack(expected))


@pytest.mark.parametrize("mirrored", [False, True])
def test_resized_crops_agree_with_torchvision_inside(mirrored: bool) -> None:
    from torchvision.transforms.v2 import functional as T

    x = images()
    top, left = torch.randint(0, 7, (2, N), generator=rng(1))
    height, width = torch.randint(4, 10, (2, N), generator=rng(2))
    centre = torch.stack([2 * top + height, 2 * left + width]) / SIZE - 1
    extent = torch.stack([height, width]) / SIZE
    extent[1] *= -1 if mirrored else 1
    made = ResizedCrop((0.1, 1)).apply(x, torch.cat([centre, extent]).T)
    for i, view in enumerate(made):
        box = [int(value[i]) for value in (top, left, height, width)]
        expected = T.resized_crop(x[i], *box, [SIZE, SIZE], antialias=False)
        expected = expected.flip(-1) if mirrored else expected
        # torchvision repeats the crop's edge, we go on in the image: half a source pixel at each side.
        y, z = (math.ceil(SIZE / side / 2) for side in box[2:])
        torch.testing.assert_close(view[:, y:-y, z:-z], expected[:, y:-y, z:-z], rtol=0, atol=1e-5)


def test_resized_crops_cover_the_areas_and_aspects_that_were_asked_for() -> None:
    (boxes,) = draw([ResizedCrop((0.2, 0.6), (0.5, 2))], 4000, SIZE, rng())
    height, width = boxes[:, 2], boxes[:, 3]
    free = (height < 1) & (width < 1)  # not cut at the border
    assert bool(free.float().mean() > 0.8)
    area, aspect = (height * width)[free], (width / height)[free]
    assert [round(float(edge), 1) for edge in (area.min(), area.max())] == [0.2, 0.6]
    assert [round(float(edge), 1) for edge in (aspect.min(), aspect.max())] == [0.5, 2.0]
    assert bool((boxes[:, :2].abs() + boxes[:, 2:] <= 1 + 1e-6).all())


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_agrees_with_torchvision(channels: int) -> None:
    from torchvision.transforms.v2 import functional as T

    x, drawn, made = one_operation(ColourJitter(0.4, 0.5, 0.6, 0.3, p=0.8), channels=channels)
    expected = []
    for image, (bright, contrast, saturation, turn) in zip(unit(x), drawn.tolist(), strict=True):
        image = T.adjust_contrast(T.adjust_brightness(image, bright), contrast)
        if channels == 3:
            image = T.adjust_hue(T.adjust_saturation(image, saturation), turn)
        expected.append(image)
    torch.testing.assert_close(unit(made), torch.stack(expected), rtol=0, atol=2e-6)
    assert 0 < int((drawn == torch.tensor([1.0, 1.0, 1.0, 0.0])).all(1).sum()) < N  # some are left as they were


def test_jitter_draws_factors_and_turns_in_their_range() -> None:
    (drawn,) = draw([ColourJitter(0.4, 0.5, 2.0, 0.1)], 4000, SIZE, rng())
    low, high = drawn.aminmax(dim=0)
    assert [round(v, 1) for v in low.tolist()] == [0.6, 0.5, 0.0, -0.1]
    assert [round(v, 1) for v in high.tolist()] == [1.4, 1.5, 3.0, 0.1]


def test_a_third_of_a_turn_makes_red_green_and_green_blue() -> None:
    red = torch.tensor([0.8, 0.2, 0.2]).view(1, 3, 1, 1)
    green, blue = (turned_hue(red, torch.full((1, 1, 1), turn)).flatten() for turn in (1 / 3, -1 / 3))
    np.testing.assert_allclose(green, [0.2, 0.8, 0.2], atol=1e-6)
    np.testing.assert_allclose(blue, [0.2, 0.2, 0.8], atol=1e-6)


def test_grey_agrees_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as T

    x, drawn, made = one_operation(Grey(0.5))
    expected = [T.rgb_to_grayscale(i, 3) if g else i for i, g in zip(unit(x), drawn, strict=True)]
    torch.testing.assert_close(unit(made), torch.stack(expected), rtol=0, atol=1e-6)
    assert 0 < int(drawn.sum()) < N


def test_blur_agrees_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as T

    x, drawn, made = one_operation(Blur((0.1, 2.0), kernel=7, p=0.7))
    expected = [T.gaussian_blur(i, [7, 7], [s, s]) if s else i for i, s in zip(x, drawn.tolist(), strict=True)]
    torch.testing.assert_close(made, torch.stack(expected), rtol=0, atol=1e-5)
    kept = drawn == 0
    assert 0 < int(kept.sum()) < N
    assert torch.equal(made[kept], x[kept])


def test_cutout_agrees_with_torchvision() -> None:
    from torchvision.transforms.v2 import functional as T

    x, drawn, made = one_operation(Cutout(0.5))
    expected = []
    for image, (row, column) in zip(x, drawn.tolist(), strict=True):
        top, left = max(row - 4, 0), max(column - 4, 0)
        height, width = min(row + 4, SIZE) - top, min(column + 4, SIZE) - left
        expected.append(T.erase(image, top, left, height, width, torch.zeros(3, height, width)))
    torch.testing.assert_close(made, torch.stack(expected), rtol=0, atol=0)
