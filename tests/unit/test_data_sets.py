"""The built-in sets, the config, splits, sizes and fingerprints."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from gankd.data import DataConfig, digits, load, splits, write_hdf5
from gankd.data.resize import set_channels, set_size
from gankd.errors import UserError


def rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_import_needs_nothing_heavy() -> None:
    code = "import sys, gankd.data; print([m for m in ('torch','torchvision','sklearn','h5py','PIL') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "platform"}
    )
    assert done.stdout.strip() == "[]"


def test_digits_are_sklearns_in_three_disjoint_parts() -> None:
    data = load(DataConfig())
    assert (data.image_size, data.image_channels, data.classes) == (8, 1, 10)
    assert data.class_names == tuple("0123456789")
    parts = (data.train, data.val, data.test)
    assert [len(part) for part in parts] == [1078, 120, 599]
    sums = sorted(int(image.sum()) for part in parts for image in part.images)
    expected = np.round(load_digits().images * 255 / 16).astype(np.uint8)
    assert sums == sorted(int(image.sum()) for image in expected)
    assert {pixel for part in parts for pixel in (part.images.min(), part.images.max())} == {0, 255}
    for part in parts:  # stratified
        share = np.bincount(part.labels) / len(part)
        assert np.abs(share - 0.1).max() < 0.012


def test_digits_are_the_same_by_sklearns_own_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = digits.read_digits()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # as if the file lay elsewhere
    slow = digits.read_digits()
    np.testing.assert_array_equal(quick.train.images, slow.train.images)
    np.testing.assert_array_equal(quick.train.labels, slow.train.labels)


def test_test_part_does_not_depend_on_seed_fraction_or_size_of_training_set() -> None:
    first = load(DataConfig(split_seed=0))
    other = load(DataConfig(split_seed=7, val_fraction=0.5, train_images=50))
    np.testing.assert_array_equal(first.test.images, other.test.images)
    np.testing.assert_array_equal(first.test.labels, other.test.labels)
    assert not np.array_equal(first.val.images[:60], other.val.images[:60])
    assert len(other.train) == 50
    np.testing.assert_array_equal(np.bincount(other.train.labels), [5] * 10)


def test_load_is_cached_and_repeatable() -> None:
    config = DataConfig(image_size=16)
    first = load(config)
    assert load(DataConfig(image_size=16)) is first
    load.cache_clear()
    assert load(config).fingerprint == first.fingerprint


@pytest.mark.parametrize("change", [{"image_size": 16}, {"image_channels": 3}, {"train_images": 100}, {"split_seed": 1}])
def test_fingerprint_covers_what_is_used(change: dict[str, int]) -> None:
    assert load(DataConfig(**change)).fingerprint != load(DataConfig()).fingerprint


def test_equal_bytes_by_another_route_have_an_equal_fingerprint(tmp_path) -> None:
    data = load(DataConfig(image_size=16))
    arrays = {
        f"{kind}_{part}": getattr(getattr(data, part), kind) for part in ("train", "val", "test") for kind in ("images", "labels")
    }
    np.savez(tmp_path / "copy.npz", **arrays)
    copy = load(DataConfig(name="npz", path=str(tmp_path / "copy.npz")))
    assert copy.fingerprint == data.fingerprint
    arrays["labels_val"] = np.roll(arrays["labels_val"], 1)
    np.savez(tmp_path / "changed.npz", **arrays)
    assert load(DataConfig(name="npz", path=str(tmp_path / "changed.npz"))).fingerprint != data.fingerprint


def test_digits_angle_turns_a_digit_by_its_label_and_keeps_copies_together() -> None:
    data = load(DataConfig(name="digits_angle"))
    parts = (data.train, data.val, data.test)
    assert sum(map(len, parts)) == 2706
    assert (data.classes, data.label_unit, data.label_range) == (None, "degree", (-90.0, 90.0))
    assert data.train.labels.dtype == np.float32
    assert min(part.labels.min() for part in parts) < -85
    assert max(part.labels.max() for part in parts) > 85
    # Turned back, the three copies of a digit resemble each other much more than copies of different digits do.
    upright = [_upright(part.images, part.labels) for part in parts]
    assert all(len(part) % 3 == 0 for part in upright)
    triples = upright[1].reshape(-1, 3, *upright[1].shape[1:])
    inside = np.abs(triples[:, 0] - triples[:, 1]).mean()
    across = np.abs(triples[:-1, 0] - triples[1:, 1]).mean()
    assert inside < 0.25 * across


def _upright(images: np.ndarray, angles: np.ndarray) -> np.ndarray:
    turned = [Image.fromarray(i[0]).rotate(-float(a), Image.Resampling.BICUBIC) for i, a in zip(images, angles, strict=True)]
    middle = slice(10, 22)  # the corners were cut off by turning
    return np.stack([np.asarray(image, np.float32)[middle, middle] for image in turned])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "cifar_10"}, "did you mean 'cifar10'"),
        ({"name": "zzz"}, "known: digits"),
    ],
)
def test_unknown_name_suggests_the_nearest(wrong: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DataConfig(**wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 7},
        {"image_size": 513},
        {"image_channels": 2},
        {"val_fraction": 0.01},
        {"val_fraction": 0.6},
        {"sise": 3},
    ],
)
def test_config_bounds(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        DataConfig(**wrong)


def test_every_field_says_what_it_is() -> None:
    for name, field in DataConfig.model_fields.items():
        assert field.description, name
        assert set(field.json_schema_extra) == {"unit", "origin"}, name


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"train_images": 1079}, "train_images=1079.*only 1078"),
        ({"train_images": 9}, "leaves classes without an image.*10 classes"),
        ({"name": "hdf5"}, "set data.path"),
        ({"name": "folder", "path": "/does/not/exist"}, "/does/not/exist does not exist"),
    ],
)
def test_load_refuses(config: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(DataConfig(**config))


labels = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(np.array)


@given(labels, st.floats(0.02, 0.5), st.integers(0, 5))
def test_cut_is_a_stratified_partition(classes: np.ndarray, fraction: float, seed: int) -> None:
    rest, held = splits.cut(classes, fraction, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate([rest, held])), np.arange(len(classes)))
    assert 1 <= len(held) <= len(classes) - 1
    for name in np.unique(classes):
        wanted = len(held) / len(classes) * (classes == name).sum()
        assert abs((classes[held] == name).sum() - wanted) <= 5  # one for each of the five classes at most


def test_cut_leaves_rare_classes_in_training() -> None:
    classes = np.array([0] * 50 + [1] * 49 + [2])
    for seed in range(20):
        rest, held = splits.cut(classes, 0.1, seed)
        assert 2 in classes[rest]
        np.testing.assert_array_equal(np.bincount(classes[held]), [5, 5])


@given(labels, st.integers(0, 5), st.data())
def test_balanced_choice_is_balanced_and_nested(classes: np.ndarray, seed: int, data: st.DataObject) -> None:
    large = data.draw(st.integers(1, len(classes)))
    small = data.draw(st.integers(1, large))
    chosen = splits.balanced(classes, large, seed)
    assert len(set(chosen.tolist())) == large
    assert set(splits.balanced(classes, small, seed)) <= set(chosen)
    counts = {name: (classes[chosen] == name).sum() for name in np.unique(classes)}
    highest = max(counts.values())
    for name, count in counts.items():  # a class has less than another only if it has no more to give
        assert count >= highest - 1 or count == (classes == name).sum()


def test_cut_groups_keeps_groups_whole() -> None:
    groups = np.repeat(np.arange(40), 3)
    rest, held = splits.cut_groups(groups, 0.25, 3)
    assert not set(groups[rest]) & set(groups[held])
    assert len(held) == 30


def test_luma_is_pillows() -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 3, 9, 9), dtype=np.uint8)
    expected = [np.asarray(Image.fromarray(i.transpose(1, 2, 0)).convert("L")) for i in images]
    np.testing.assert_array_equal(set_channels(images, 1)[:, 0], expected)
    np.testing.assert_array_equal(set_channels(images[:, :1], 3), np.repeat(images[:, :1], 3, 1))


def test_shrinking_by_a_whole_factor_is_the_area_mean() -> None:
    images = np.random.default_rng(1).integers(0, 256, (5, 3, 16, 16), dtype=np.uint8)
    mean = images.reshape(5, 3, 8, 2, 8, 2).mean((3, 5))
    assert np.abs(set_size(images, 8) - mean).max() <= 0.5
    assert set_size(images, 16) is images
    flat = np.full((1, 1, 8, 8), 77, np.uint8)
    np.testing.assert_array_equal(set_size(flat, 32), np.full((1, 1, 32, 32), 77))


def test_parts_share_no_image(tmp_path) -> None:
    rng = np.random.default_rng(0)
    write_hdf5(tmp_path / "x.h5", rng.integers(0, 256, (100, 1, 8, 8), dtype=np.uint8), np.arange(100) % 4)
    data = load(DataConfig(name="hdf5", path=str(tmp_path / "x.h5"), val_fraction=0.25))
    assert [len(data.train), len(data.val), len(data.test)] == [60, 20, 20]  # a fifth is held out for testing
    train, val, test = (rows(part.images) for part in (data.train, data.val, data.test))
    assert len(train | val | test) == 100


def test_a_set_without_its_test_part_is_the_same_set_and_says_who_may_test() -> None:
    data = load(DataConfig())
    shown = data.without_test()
    assert shown.fingerprint == data.fingerprint
    assert (shown.train, shown.val, shown.class_names) == (data.train, data.val, data.class_names)
    assert len(data.test) == 599
    with pytest.raises(RuntimeError, match="only a stage declared with test=True is handed the test part of data set 'digits'"):
        _ = shown.test


def test_a_uniform_draw_is_of_all_images_and_validates_with_the_others() -> None:
    whole, drawn = load(DataConfig(name="digits")), load(DataConfig(name="digits", train_draw="uniform", train_images=400))
    everything = np.concatenate([whole.train.images, whole.val.images])
    assert len(drawn.train) == 400
    assert len(np.unique(np.bincount(drawn.train.labels))) > 1  # not balanced
    known = {image.tobytes() for image in everything}
    assert {image.tobytes() for image in drawn.train.images} <= known
    assert not {image.tobytes() for image in drawn.train.images} & {image.tobytes() for image in drawn.val.images}
    smaller = load(DataConfig(name="digits", train_draw="uniform", train_images=200))
    assert np.array_equal(smaller.train.images, drawn.train.images[:200])  # in the order drawn
    assert drawn.fingerprint != load(DataConfig(name="digits", train_images=400)).fingerprint


def test_copies_of_what_trains_do_not_validate() -> None:
    """A digit is turned several times: by the middle of the picture its copies are known."""
    data = load(DataConfig(name="digits_angle", train_draw="uniform", train_images=300))
    source = digits_angle_groups()
    train, val = (np.array([source[image.tobytes()] for image in part.images]) for part in (data.train, data.val))
    assert len(val)
    assert not set(train) & set(val)


def digits_angle_groups() -> dict[bytes, int]:
    source = digits.read_digits_angle()
    assert source.groups is not None
    return {image.tobytes(): int(group) for image, group in zip(source.train.images, source.groups, strict=True)}
