"""Data sets in the store: the same set, mapped, read from the user's files by one process alone."""

from __future__ import annotations

import multiprocessing
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankd.data import DataConfig, DataSet, load, prepared
from gankd.errors import UserError
from gankd.prepared_data import obtain
from gankd.store import Store


def npz(folder: Path, **changes: Any) -> DataConfig:
    rng = np.random.default_rng(0)
    arrays = {"images": rng.integers(0, 256, (60, 3, 8, 8), dtype=np.uint8), "labels": np.arange(60) % 4, **changes}
    np.savez(folder / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    return DataConfig(name="npz", path=str(folder / "a.npz"))


def assert_equal(one: DataSet, other: DataSet) -> None:
    for field in fields(DataSet):
        ours, theirs = getattr(one, field.name), getattr(other, field.name)
        if field.name in ("train", "val", "test_part"):
            np.testing.assert_array_equal(ours.images, theirs.images)
            np.testing.assert_array_equal(ours.labels, theirs.labels)
            assert (ours.images.dtype, ours.labels.dtype) == (theirs.images.dtype, theirs.labels.dtype)
        else:
            assert ours == theirs, field.name


@pytest.mark.parametrize("kind", ["classes", "continuous", "unlabelled"])
def test_what_is_read_is_what_was_written(tmp_path: Path, kind: str) -> None:
    labels = {"classes": np.arange(60) % 4, "continuous": np.linspace(-2, 5, 60), "unlabelled": None}[kind]
    config = npz(tmp_path, labels=labels)
    load.cache_clear()
    data = load(config)
    mapped = obtain(Store(tmp_path / "store"), config, test=True)
    assert_equal(mapped, data)
    assert isinstance(mapped.train.images.base, np.memmap)
    assert type(mapped.train.images) is np.ndarray
    with pytest.raises(ValueError, match="read-only"):
        mapped.train.images[0] = 0


def test_the_test_part_stays_closed_unless_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    prepared.write(load(DataConfig()), folder)
    (folder / "test_images.npy").unlink()
    assert prepared.read(folder, test=False).test_part is None
    with pytest.raises(FileNotFoundError):
        prepared.read(folder, test=True)


def test_a_known_fingerprint_is_found_without_the_users_files(tmp_path: Path) -> None:
    config, store = npz(tmp_path), Store(tmp_path / "store")
    first = obtain(store, config)
    Path(str(config.path)).unlink()
    assert obtain(store, config, first.fingerprint).fingerprint == first.fingerprint
    assert [entry.key for entry in store.ls()] == [f"data-{first.fingerprint[:20]}"]


def test_other_data_than_the_sender_saw_is_refused(tmp_path: Path) -> None:
    config, store = npz(tmp_path), Store(tmp_path / "store")
    seen = load(DataConfig()).fingerprint
    with pytest.raises(UserError, match=rf"data set 'a' has the fingerprint \w+ here and had {seen[:12]} where the sweep"):
        obtain(store, config, seen)
    assert not store.ls()


def test_equal_data_by_another_name_is_stored_once_and_keeps_its_name(tmp_path: Path) -> None:
    data, store = load(DataConfig()), Store(tmp_path / "store")
    parts = {"train": data.train, "val": data.val, "test": data.test}
    arrays = {f"{what}_{part}": getattr(split, what) for part, split in parts.items() for what in ("images", "labels")}
    np.savez(tmp_path / "a.npz", class_names=data.class_names, **arrays)
    copy = DataConfig(name="npz", path=str(tmp_path / "a.npz"))
    assert [obtain(store, config).name for config in (DataConfig(), copy)] == ["digits", "a"]
    assert len(store.ls()) == 1


def test_batches_of_a_mapped_set_are_those_of_the_set(tmp_path: Path) -> None:
    import torch  # here, because the processes below import this file

    from gankd.data.augment import Resident

    config = npz(tmp_path)
    sets = (load(config), obtain(Store(tmp_path / "store"), config))
    batches = [Resident(data.train, flip=True, crop_padding=1).batch(16, torch.Generator().manual_seed(0)) for data in sets]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one, other)


def read_all(storage: Path, config: DataConfig, fingerprint: str, barrier: Any, answers: Any) -> None:
    data = obtain(Store(storage), config, fingerprint)
    total = int(data.train.images.sum())
    barrier.wait(60)  # both have touched every page
    maps = Path("/proc/self/smaps").read_text().split("train_images.npy")[1]
    amounts = {name: int(re.search(rf"{name}:\s+(\d+) kB", maps)[1]) for name in ("Rss", "Pss", "Private_Dirty")}
    answers.put((total, amounts))
    barrier.wait(60)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux tells how memory is shared")
def test_two_processes_share_the_pages_of_a_set_that_one_has_prepared(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    config = npz(tmp_path, images=rng.integers(0, 256, (4000, 3, 32, 32), dtype=np.uint8), labels=np.arange(4000) % 4)
    data = load(config)
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(2), spawn.Queue()
    workers = [
        spawn.Process(target=read_all, args=(tmp_path / "store", config, data.fingerprint, barrier, answers)) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    found = [answers.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    size = data.train.images.nbytes / 1024
    for total, amounts in found:
        assert total == int(data.train.images.sum())
        assert amounts["Rss"] > 0.95 * size
        assert amounts["Pss"] < 0.55 * size
        assert amounts["Private_Dirty"] == 0
    assert len(Store(tmp_path / "store").ls()) == 1
