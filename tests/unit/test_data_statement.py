"""What a set says of itself: its name, where its parts came from, which classes it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gankd.data import DataConfig, DataSet, load
from gankd.data.config import TITLE, safe_title
from gankd.errors import UserError
from gankd.prepared_data import obtain
from gankd.store import Store


def images(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)


def npz(folder: Path, labels: np.ndarray | None, /, called: str = "signs.npz", **arrays: Any) -> str:
    training = {} if labels is None else {"images": images(len(labels)), "labels": labels}
    np.savez(folder / called, **training, **arrays)
    return str(folder / called)


def read(path: str, name: str = "npz", **more: Any) -> DataSet:
    load.cache_clear()
    return load(DataConfig(name=name, path=path, **more))


# Names.


@pytest.mark.parametrize(
    ("name", "path", "called"),
    [
        ("digits", None, "digits"),
        ("cifar10", "/data/sets", "cifar10"),
        ("folder", "/data/traffic signs", "traffic_signs"),
        ("folder", "/data/signs/", "signs"),
        ("folder", "/data/signs.v2", "signs.v2"),
        ("folder", "/data/fruit/../signs", "signs"),
        ("folder", "/data/signs/train", "signs-train"),
        ("folder", "/", "data-e3b0c4"),
        ("hdf5", "/data/signs.v2.h5", "signs.v2"),
        ("npz", "/signs/data.npz", "signs-data"),
        ("idx", "/data/MNIST/raw", "MNIST-raw"),
        ("folder", "/data/digits", "digits-folder"),
        ("hdf5", "/data/CIFAR10.h5", "CIFAR10-hdf5"),
        ("folder", "/data/--x--", "x"),
        ("folder", "/data/Äpfel", "Apfel"),
        ("folder", None, "folder"),
    ],
)
def test_a_set_is_called_as_its_folder_or_file(name: str, path: str | None, called: str) -> None:
    assert DataConfig(name=name, path=path).dataset == called


def test_a_title_of_the_users_own_counts_and_is_checked() -> None:
    assert DataConfig(name="folder", path="/data/x", title="signs").dataset == "signs"
    assert DataConfig(title="mine").dataset == "mine"
    for wrong in ("", "my set", "a/b", "-x", "x" * 61, "é", "a:b", "it's", "a\nb"):
        with pytest.raises(UserError, match=r"data.title cannot be .* would do"):
            DataConfig(title=wrong)


def test_names_without_ascii_letters_stay_different() -> None:
    called = {DataConfig(name="folder", path=f"/data/{name}").dataset for name in ("交通标志", "水果", "🙂", "🙃", "图1", "水1")}
    assert len(called) == 6


@given(st.text(max_size=200))
def test_every_text_has_a_safe_title(text: str) -> None:
    assert TITLE.fullmatch(safe_title(text))


def test_two_unrelated_sets_have_two_names_and_equal_ones_one_fingerprint(tmp_path: Path) -> None:
    labels = np.arange(60) % 3
    one, other = (read(npz(tmp_path, labels, called=name)) for name in ("signs.npz", "fruit.npz"))
    assert (one.name, other.name) == ("signs", "fruit")
    titled = read(npz(tmp_path, labels), title="third")
    assert titled.name == "third"
    assert one.fingerprint == other.fingerprint == titled.fingerprint


# Parts.


def test_digits_say_their_parts() -> None:
    assert load(DataConfig()).parts_sentence == (
        "data digits: 1078 images train, 120 validation (10 % cut from train), 599 test (a third, always the same); 10 classes"
    )
    assert load(DataConfig(train_images=200)).parts_sentence.startswith("data digits: 200 images train (200 of 1078 drawn), 120")
    assert load(DataConfig(name="digits_angle")).parts_sentence.endswith("; labels from -90 to 90 degree")
    assert load(DataConfig()).without_test().parts_sentence.count("test") == 0


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "43 images train, 5 validation (10 % cut from train), 12 test (20 % cut from all images)"),
        ({"images_valid": 9}, "54 images train, 6 validation (10 % cut from train), 9 test (from images_valid)"),
        (
            {"images_val": 9, "images_test": 7},
            "60 images train, 9 validation (from images_val), 7 test (from images_test)",
        ),
    ],
)
def test_arrays_say_their_parts(tmp_path: Path, arrays: dict[str, int], said: str) -> None:
    more = {name: images(n) for name, n in arrays.items()}
    more |= {name.replace("images", "labels"): np.arange(n) % 3 for name, n in arrays.items()}
    data = read(npz(tmp_path, np.arange(60) % 3, **more))
    assert data.parts_sentence == f"data signs: {said.replace('images train', 'images train (from images)')}; 3 classes"


def test_folders_say_their_parts_and_unlabelled_sets_that_they_are(tmp_path: Path) -> None:
    for part, n in (("Training", 30), ("val", 6)):
        for label in ("ant", "bee"):
            (tmp_path / "signs" / part / label).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(images(n)[i, 0]).save(tmp_path / "signs" / part / label / f"{i}.png")
    assert read(str(tmp_path / "signs"), "folder", val_fraction=0.2).parts_sentence == (
        "data signs: 48 images train (from Training/), 12 validation (20 % cut from train), 12 test (from val/); 2 classes"
    )
    flat = read(str(tmp_path / "signs" / "val" / "ant"), "folder")
    assert flat.parts_sentence.startswith("data ant: 4 images train, 1 validation")
    assert flat.parts_sentence.endswith("without labels")


def test_the_statement_survives_the_store(tmp_path: Path) -> None:
    config = DataConfig(name="npz", path=npz(tmp_path, np.arange(60) % 3 + 1))
    load.cache_clear()
    mapped = obtain(Store(tmp_path / "store"), config, test=True)
    assert mapped.parts_sentence == load(config).parts_sentence
    assert mapped.remarks == load(config).remarks != ()


# Classes.


def no_class_is_empty(data: DataSet) -> bool:
    assert data.classes is not None
    count = np.bincount(data.train.labels, minlength=data.classes)
    held_out = max(part.labels.max() for part in (data.val, data.test))
    return len(count) == data.classes == len(data.class_names) and bool(count.all()) and held_out < data.classes


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_labels_from_one_are_that_many_classes_and_keep_their_numbers_as_names(tmp_path: Path, kind: str) -> None:
    labels = np.arange(60) % 5 + 1
    path = npz(tmp_path, labels)
    if kind == "hdf5":
        path = str(tmp_path / "signs.h5")
        with h5py.File(path, "w") as file:
            file["images"], file["labels"] = images(60), labels
    data = read(path, kind)
    assert (data.classes, data.class_names) == (5, ("1", "2", "3", "4", "5"))
    assert data.remarks == ("1 of 6 classes has no training image and is left out: 0",)
    assert no_class_is_empty(data)
    counted_from_zero = read(npz(tmp_path, labels - 1))
    np.testing.assert_array_equal(data.train.labels, counted_from_zero.train.labels)
    np.testing.assert_array_equal(data.test.images, counted_from_zero.test.images)


def test_a_gap_and_names_without_images(tmp_path: Path) -> None:
    labels = np.array([0, 2, 5])[np.arange(60) % 3]
    data = read(npz(tmp_path, labels))
    assert (data.class_names, no_class_is_empty(data)) == (("0", "2", "5"), True)
    data = read(npz(tmp_path, labels, class_names=list("abcdefg")))
    assert (data.class_names, no_class_is_empty(data)) == (("a", "c", "f"), True)
    assert data.remarks == ("4 of 7 classes have no training image and are left out: b, d, e, g",)
    many = read(npz(tmp_path, labels, class_names=[f"c{i}" for i in range(1000)]))
    assert many.remarks[0].endswith("c10, c11, c12 and 987 more")


def test_a_set_without_gaps_says_nothing() -> None:
    assert load(DataConfig()).remarks == ()


@pytest.mark.parametrize("part", ["val", "test"])
def test_held_out_images_of_a_class_without_training_images_are_refused(tmp_path: Path, part: str) -> None:
    more = {f"images_{part}": images(8), f"labels_{part}": np.arange(8) % 4, "images_test": images(8)}
    more["labels_test"] = more.get("labels_test", np.arange(8) % 3)
    title = {"val": "validation", "test": "test"}[part]
    with pytest.raises(UserError, match=rf"class '3' has 2 {title} images and none to train on .*0, 1, 2\): add training"):
        read(npz(tmp_path, np.arange(60) % 3, **more))


@given(
    st.lists(st.integers(0, 6), min_size=8, max_size=60),
    st.sampled_from([0.02, 0.1, 0.5]),
    st.integers(0, 3),
    st.none() | st.integers(2, 20),
)
def test_no_set_has_a_class_without_a_training_image(
    tmp_path_factory: pytest.TempPathFactory, labels: list[int], val_fraction: float, seed: int, train_images: int | None
) -> None:
    path = npz(tmp_path_factory.getbasetemp(), np.array(labels))
    try:
        data = read(path, val_fraction=val_fraction, split_seed=seed, train_images=train_images)
    except UserError:
        return
    assert no_class_is_empty(data)
    assert set(data.class_names) <= set(map(str, labels))


def test_names_that_stand_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="two classes are named 'a'"):
        read(npz(tmp_path, np.arange(60) % 3, class_names=["a", "b", "a"]))


@pytest.mark.parametrize("labels", [None, np.array([0.0, 1.0])])
def test_a_part_without_an_image_is_refused(tmp_path: Path, labels: np.ndarray | None) -> None:
    path = npz(tmp_path, labels) if labels is not None else npz(tmp_path, None, images=images(2))
    with pytest.raises(UserError, match="has too few images: of 2 there are 1 to train, 0 to validate and 1 to test"):
        read(path)


@pytest.mark.parametrize("path", ["", " ", "a\0b", "~nobody-of-this-name/x"])
def test_a_path_that_is_none(path: str) -> None:
    with pytest.raises(UserError, match=r"data.path"):
        DataConfig(name="folder", path=path)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.eye(4)[np.arange(40) % 4], "one-hot rows, .argmax"),
        (np.array(["ant", "bee"] * 20), "numpy.unique"),
        (np.arange(40) % 4 - 1, "regression labels are floating-point"),
    ],
)
def test_labels_of_another_kind_are_told_how_to_become_labels(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read(npz(tmp_path, labels))
