"""The pool of images, and the views that are taken of images."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gankd.data.augment import normalise, to_uint8
from gankd.data.views import draw, viewed
from methods.rgal.pool import Pool
from methods.rgal.views import global_view, local_view
from tests.methods.rgal_fixtures import arrays, context


def images(n: int, value: int) -> torch.Tensor:
    return torch.full((n, 1, 4, 4), value, dtype=torch.uint8)


def test_truncation_matches_the_reference_and_rounding_does_not_lose_a_level() -> None:
    reference = arrays("pool")
    stored = to_uint8(reference["images"] * 2 - 1, truncate=True)
    # 2 x - 1 and back may cost a rounding that truncation turns into a level, at whole levels only.
    whole = (reference["images"] * 255).frac().abs() < 1e-4
    assert torch.equal(stored[~whole], reference["stored_uint8"][~whole])
    assert int((stored.int() - reference["stored_uint8"].int()).abs().max()) <= 1
    reloaded = (normalise(reference["stored_uint8"]) + 1) / 2
    torch.testing.assert_close(reloaded, reference["reloaded"], rtol=0, atol=1e-6)
    grey = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(normalise(grey)), grey)


@pytest.mark.parametrize(("value", "level"), [(0.5, 127), (0.999, 254), (-0.2, 0), (1.3, 255)])
def test_worked_truncation(value: float, level: int) -> None:
    assert int(to_uint8(torch.tensor(2 * value - 1), truncate=True)) == level


def test_the_ring_wraps_and_keeps_the_newest() -> None:
    pool = Pool(5, 1, 4)
    for value in range(4):
        pool.append(images(2, value), torch.full((2,), value))
        assert len(pool) == min(5, 2 * (value + 1))
    newest, labels = pool.newest(5)
    assert labels.tolist() == [1, 2, 2, 3, 3]
    assert newest[:, 0, 0, 0].tolist() == [1, 2, 2, 3, 3]
    pool.append(torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 4, 4), torch.arange(8))
    assert pool.newest(9)[1].tolist() == [3, 4, 5, 6, 7]


def test_a_pool_is_saved_and_restored(tmp_path: Path) -> None:
    pool, other = Pool(5, 1, 4), Pool(5, 1, 4)
    pool.append(images(7, 9), torch.arange(7))
    torch.save(pool.state_dict(), tmp_path / "pool.pt")
    other.load_state_dict(torch.load(tmp_path / "pool.pt", weights_only=True))
    ctx = context(tmp_path)
    assert other.written == 7
    assert torch.equal(pool.images, other.images)
    assert torch.equal(pool.walk(ctx, 3, 9), other.walk(ctx, 3, 9))


def test_draws_cover_the_pool_evenly(tmp_path: Path) -> None:
    pool, ctx = Pool(30, 1, 4), context(tmp_path)
    pool.append(images(20, 0), torch.zeros(20, dtype=torch.int64))
    drawn = torch.cat([pool.walk(ctx, i * 8, 8) for i in range(10)])
    assert drawn.bincount(minlength=30).tolist() == [4] * 20 + [0] * 10
    before = pool.walk(ctx, 0, 8)
    pool.append(images(2, 0), torch.zeros(2, dtype=torch.int64))
    assert not torch.equal(pool.walk(ctx, 0, 8), before)


def test_crops_move_whole_pixels_over_a_black_border_and_are_differentiable() -> None:
    batch = torch.rand(64, 2, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    made = viewed(global_view(3, flip=True), batch, torch.Generator().manual_seed(1), slice(0, 64), 64)
    padded = torch.nn.functional.pad(batch.detach(), (3,) * 4, value=-1.0)
    found = set()
    for source, view in zip(padded, made.detach()):
        places = [
            (y, x, flip)
            for y in range(7)
            for x in range(7)
            for flip in (False, True)
            if torch.equal(view.flip(-1) if flip else view, source[:, y : y + 8, x : x + 8])
        ]
        assert places
        found.add(places[0])
    assert len(found) > 30
    made.sum().backward()
    assert set(batch.grad.unique().tolist()) == {0.0, 1.0}  # every pixel is in its view once, or cut off


def test_without_border_and_flip_a_view_is_the_image() -> None:
    batch = torch.rand(4, 3, 32, 32) * 2 - 1
    assert torch.equal(viewed(global_view(0, flip=False), batch, torch.Generator(), slice(0, 4), 4), batch)


def test_local_views_stay_inside_and_cover_a_quarter_to_all() -> None:
    (boxes,) = draw(local_view(flip=True), 500, 8, torch.Generator().manual_seed(0))
    centre, extent = boxes[:, :2], boxes[:, 2:].abs()
    assert bool((centre.abs() + extent <= 1 + 1e-6).all())
    area = extent.prod(1)
    assert 0.2 < float(area.min()) < 0.3
    assert 0.9 < float(area.max()) <= 1.001
    assert 0.4 < float((boxes[:, 3] < 0).float().mean()) < 0.6


def test_draws_are_those_of_earlier_versions() -> None:
    """Offsets, then flips; area, aspect, centre, then flips: other draws would be another training."""
    offsets, flips = draw(global_view(2, flip=True), 4, 8, torch.Generator().manual_seed(3))
    by_hand = torch.Generator().manual_seed(3)
    assert torch.equal(offsets, torch.randint(5, (2, 4), generator=by_hand).T)
    assert torch.equal(flips, torch.rand(4, generator=by_hand) < 0.5)
    (boxes,) = draw(local_view(flip=True), 4, 8, torch.Generator().manual_seed(3))
    by_hand = torch.Generator().manual_seed(3)
    area, aspect = 0.25 + 0.75 * torch.rand(4, generator=by_hand), torch.rand(4, generator=by_hand)
    torch.testing.assert_close(boxes[:, 2] * boxes[:, 3].abs(), area)
    torch.testing.assert_close(boxes[:, 3].abs() / boxes[:, 2], (aspect * 2 - 1).mul(math.log(4 / 3)).exp())
    centre = (2 * torch.rand(2, 4, generator=by_hand) - 1).T * (1 - boxes[:, 2:].abs())
    torch.testing.assert_close(boxes[:, :2], centre)
    assert torch.equal(boxes[:, 3] < 0, torch.rand(4, generator=by_hand) < 0.5)
