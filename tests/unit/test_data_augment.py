"""Batches: equal to the slow per-image way for the same draws, the same for any number of workers, true passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.data.augment import Resident, normalise
from gankd.data.dataset import Split
from gankd.errors import UserError

N, SHAPE = 50, (3, 9, 9)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def split(n: int = N) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), np.arange(n) % 4)


def rng(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def slow(image: np.ndarray, flip: bool, row: int, column: int, padding: int) -> np.ndarray:
    """One image by definition: mirror, pad with black, cut, scale to [-1, 1]."""
    if flip:
        image = image[:, :, ::-1]
    padded = np.zeros((image.shape[0], *(side + 2 * padding for side in image.shape[1:])), np.uint8)
    padded[:, padding : padding + image.shape[1], padding : padding + image.shape[2]] = image
    cut = padded[:, row : row + image.shape[1], column : column + image.shape[2]]
    return cut.astype(np.float32) / np.float32(127.5) - np.float32(1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("flip", "padding"), [(False, 0), (True, 0), (False, 3), (True, 3)])
def test_batch_equals_the_per_image_reference(device: str, flip: bool, padding: int) -> None:
    data = split()
    images, labels = Resident(data, device, flip=flip, crop_padding=padding).batch(32, rng(5, device))
    draws = rng(5, device)
    index = torch.randint(N, (32,), generator=draws, device=device).tolist()
    flips = (torch.rand(32, generator=draws, device=device) < 0.5).tolist() if flip else [False] * 32
    offsets = torch.zeros(2, 32, dtype=torch.long)
    if padding:
        offsets = torch.randint(2 * padding + 1, (2, 32), generator=draws, device=device).cpu()
    expected = [slow(data.images[i], f, *o, padding) for i, f, o in zip(index, flips, offsets.T.tolist(), strict=True)]
    assert images.device.type == device
    torch.testing.assert_close(images.cpu(), torch.from_numpy(np.stack(expected)), rtol=0, atol=0 if device == "cpu" else 1e-7)
    assert labels.tolist() == data.labels[index].tolist()
    if flip:
        assert 5 < sum(flips) < 27
    if padding:
        assert set(offsets.flatten().tolist()) == set(range(2 * padding + 1))


def test_uint8_ends_at_minus_one_and_one() -> None:
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("world", [2, 4])
def test_workers_share_what_one_worker_would_draw(world: int) -> None:
    data = Resident(split(), flip=True, crop_padding=2)
    wanted = torch.arange(8) % 4
    for draw in (
        lambda **where: data.batch(8, rng(3), **where),
        lambda **where: data.batch_for(wanted, rng(3), **where),
        lambda **where: data.epoch_batch(7, 8, rng(3), 1, **where),
    ):
        whole = draw()
        shares = [draw(rank=rank, world=world) for rank in range(world)]
        for part in (0, 1):
            assert torch.equal(torch.cat([share[part] for share in shares]), whole[part])
    with pytest.raises(UserError, match="batch of 9 cannot be split evenly over 2 workers"):
        data.batch(9, rng(), world=2)


def test_the_set_itself_is_never_changed() -> None:
    data = split()
    before = data.images.copy()
    resident = Resident(data, flip=True, crop_padding=2)
    for step in range(5):
        resident.batch(16, rng(step))
        resident.epoch_batch(step, 16, rng(step), 0)
    np.testing.assert_array_equal(data.images, before)


def test_batch_is_uniform_with_replacement() -> None:
    data = Resident(Split(split(4).images, np.arange(4)))
    counts = data.batch(4000, rng())[1].bincount()
    assert ((counts - 1000).abs() < 150).all()


@pytest.mark.parametrize("device", DEVICES)
def test_batch_for_draws_from_the_wanted_class(device: str) -> None:
    data = Split(split(7).images, np.array([0, 2, 1, 2, 1, 2, 2]))
    resident = Resident(data, device)
    wanted = torch.tensor([2, 0, 1, 2] * 200)
    images, labels = resident.batch_for(wanted, rng(0, device))
    assert torch.equal(labels.cpu(), wanted)
    originals = normalise(torch.from_numpy(data.images))
    source = [int((originals == image).flatten(1).all(1).nonzero()) for image in images.cpu()]
    assert data.labels[source].tolist() == wanted.tolist()
    assert set(source) == set(range(7))
    share = np.bincount(source)[[1, 3, 5, 6]] / 400
    assert np.abs(share - 0.25).max() < 0.08


def test_batch_for_an_empty_class_is_refused() -> None:
    data = Resident(Split(split(4).images, np.array([0, 2, 0, 2])))
    assert data.batch_for(torch.tensor([0, 2]), rng())[1].tolist() == [0, 2]
    for empty in (1, 3):
        with pytest.raises(UserError, match=f"class {empty} has no image"):
            data.batch_for(torch.tensor([0, empty]), rng())


@pytest.mark.parametrize("n", [7, 10, 50, 64, 120])
def test_every_pass_shows_every_image_once(n: int) -> None:
    data = Resident(Split(split().images, np.arange(N)))
    seen = torch.cat([data.epoch_batch(step, n, rng(step), 3)[1] for step in range(data.steps_for(4, n))])[: 4 * N]
    passes = seen.view(4, N)
    for one in passes:
        assert one.sort().values.tolist() == list(range(N))
    assert not torch.equal(passes[0], passes[1])


def test_epoch_batch_depends_on_step_and_seed_alone() -> None:
    walked, fresh = Resident(split(), crop_padding=1), Resident(split(), crop_padding=1)
    steps = [walked.epoch_batch(step, 16, rng(step), 9) for step in range(12)]
    for part in (0, 1):
        assert torch.equal(fresh.epoch_batch(11, 16, rng(11), 9)[part], steps[11][part])
    assert not torch.equal(fresh.epoch_batch(11, 16, rng(11), 10)[0], steps[11][0])


@pytest.mark.parametrize(("epochs", "n", "steps"), [(1, 50, 1), (1, 49, 2), (3, 20, 8), (2, 100, 1), (0.5, 10, 3)])
def test_steps_for(epochs: float, n: int, steps: int) -> None:
    assert Resident(split()).steps_for(epochs, n) == steps


@pytest.mark.parametrize("world", [1, 3])
def test_in_order_gives_every_image_once_unchanged(world: int) -> None:
    data = split()
    resident = Resident(data, flip=True, crop_padding=2)
    batches = [list(resident.in_order(8, rank, world)) for rank in range(world)]
    ordered = [batches[k % world][k // world] for k in range(7)]
    assert torch.equal(torch.cat([images for images, _ in ordered]), normalise(torch.from_numpy(data.images)))
    assert torch.cat([labels for _, labels in ordered]).tolist() == data.labels.tolist()
    assert sum(map(len, batches)) == 7


def test_repeated_index_gives_independent_views() -> None:
    images, _ = Resident(split(), crop_padding=3).take(torch.tensor([4] * 16), rng())
    assert len({image.numpy().tobytes() for image in images}) > 8


@pytest.mark.parametrize("device", DEVICES)
def test_memory_map_streams_and_gives_the_same(tmp_path: Path, device: str) -> None:
    data = split()
    np.save(tmp_path / "images.npy", data.images)
    mapped = Split(np.load(tmp_path / "images.npy", mmap_mode="r"), data.labels)
    streamed = Resident(mapped, device, flip=True, crop_padding=2, limit_bytes=0)
    kept = Resident(data, device, flip=True, crop_padding=2)
    for one, other in zip(streamed.batch(20, rng(1, device)), kept.batch(20, rng(1, device)), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(
        streamed.epoch_batch(4, 20, rng(1, device), 2), kept.epoch_batch(4, 20, rng(1, device), 2), strict=True
    ):
        assert torch.equal(one, other)


def test_regression_labels_stay_float32() -> None:
    data = Resident(Split(split(8).images, np.linspace(-1, 1, 8).astype(np.float32)))
    images, labels = data.batch(4, rng())
    assert (images.dtype, labels.dtype) == (torch.float32, torch.float32)


def test_an_empty_part_is_refused() -> None:
    with pytest.raises(UserError, match="no images"):
        Resident(Split(np.zeros((0, 1, 8, 8), np.uint8), np.zeros(0, np.int64)))
