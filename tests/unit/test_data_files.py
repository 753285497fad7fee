"""Users' own files: HDF5, npz, CIFAR, IDX, and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import pickle
import struct
import sys
import types
from pathlib import Path
from typing import Any
from urllib.error import URLError

import h5py
import numpy as np
import pytest

from gankd.data import DataConfig, DataSet, load, write_hdf5
from gankd.errors import UserError


def images(n: int = 40, *shape: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, *(shape or (3, 8, 8))), dtype=np.uint8)


def labels(n: int = 40, classes: int = 4) -> np.ndarray:
    return np.arange(n) % classes


def read(name: str, path: Path, **more: Any) -> DataSet:
    load.cache_clear()  # tests write different files under one name
    return load(DataConfig(name=name, path=str(path), **more))


def hdf5(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def good(**changes: Any) -> dict[str, Any]:
    arrays = {
        "images_train": images(40),
        "labels_train": labels(40),
        "images_test": images(12),
        "labels_test": labels(12),
    }
    return {k: v for k, v in {**arrays, **changes}.items() if v is not None}


# HDF5


@pytest.mark.parametrize("held_out", ["test", "valid"])
def test_hdf5_in_cgan_kd_layout(tmp_path: Path, held_out: str) -> None:
    arrays = {
        "images_train": images(40),
        "labels_train": labels(40),
        f"images_{held_out}": images(12),
        f"labels_{held_out}": labels(12),
        "class_names": ["ant", "bee", "cat", "dog"],
        "coarse_labels_train": np.zeros(40),
    }
    data = read("hdf5", hdf5(tmp_path / "a.h5", **arrays))
    np.testing.assert_array_equal(data.test.images, images(12))
    assert [len(data.train), len(data.val)] == [36, 4]
    assert data.class_names == ("ant", "bee", "cat", "dog")


def test_hdf5_with_valid_and_test_keeps_all_three(tmp_path: Path) -> None:
    data = read("hdf5", hdf5(tmp_path / "a.h5", **good(images_valid=images(8), labels_valid=labels(8))))
    assert [len(data.train), len(data.val), len(data.test)] == [40, 8, 12]
    np.testing.assert_array_equal(data.val.images, images(8))


def test_hdf5_float_labels_are_a_regression(tmp_path: Path) -> None:
    values = np.linspace(-2, 5, 40)
    data = read("hdf5", hdf5(tmp_path / "a.h5", **good(labels_train=values, labels_test=values[:12])))
    assert data.classes is None
    assert data.train.labels.dtype == np.float32
    assert data.label_range == (-2.0, 5.0)


@pytest.mark.parametrize("gzip_level", [None, 6])
def test_write_hdf5_round_trip(tmp_path: Path, gzip_level: int | None) -> None:
    write_hdf5(tmp_path / "fake.h5", images(40), labels(40), gzip=gzip_level)
    with h5py.File(tmp_path / "fake.h5") as file:
        assert set(file) == {"fake_images", "fake_labels"}
        np.testing.assert_array_equal(file["fake_images"], images(40))
        assert file["fake_images"].compression == ("gzip" if gzip_level else None)
    assert [p.name for p in tmp_path.iterdir()] == ["fake.h5"]
    assert read("hdf5", tmp_path / "fake.h5").classes == 4
    with pytest.raises(UserError, match="float32"):
        write_hdf5(tmp_path / "no.h5", images(4).astype(np.float32), labels(4))


def test_labels_of_shape_n_1(tmp_path: Path) -> None:
    data = read("hdf5", hdf5(tmp_path / "a.h5", **good(labels_train=labels(40)[:, None])))
    assert data.train.labels.shape == (36,)


BAD_HDF5: list[tuple[dict[str, Any], str]] = [
    ({"images_train": images(40).astype(np.float32)}, "'images_train' in .* float32.*round"),
    ({"images_train": images(40).astype(np.int64)}, "int64 images, but only uint8"),
    ({"images_train": images(40, 3, 8, 9)}, r"\(40, 3, 8, 9\), but square"),
    ({"images_train": images(40, 5, 8, 8)}, r"\(40, 5, 8, 8\), but square.*C 1 or 3"),
    ({"images_train": images(40, 192)}, r"\(40, 192\), but square"),
    ({"images_train": images(0), "labels_train": labels(0)}, "is empty"),
    ({"images_test": images(12, 3, 9, 9)}, "images of different shape"),
    ({"labels_train": labels(39)}, r"\(39,\), but one label for each of 40 images"),
    ({"labels_train": np.zeros((40, 2))}, r"\(40, 2\), but one label for each of 40"),
    ({"labels_train": None}, "'images_train' but not 'labels_train'"),
    ({"labels_train": np.array([b"a"] * 40)}, "labels are integers"),
    ({"labels_train": np.where(labels(40) == 3, np.nan, 1.0)}, "10 NaN or infinite labels, the first at index 3"),
    ({"labels_train": labels(40) - 1}, "class label -1: labels count from 0"),
    ({"labels_train": labels(40) * 1000}, "class label 3000 would make 3001 classes of 40"),
    ({"labels_train": np.full(40, 2**63, np.uint64)}, "no class index"),
    ({"labels_test": labels(12) + 1}, "class '4' has 3 test images and none to train on .*0, 1, 2, 3.*add training images of it"),
    ({"class_names": ["a", "b", "c"]}, r"class label 3 is out of range, the class names allow 0\.\.2"),
    ({"labels_train": np.full(40, 2)}, "all training labels are 2; two classes"),
    ({"labels_test": np.linspace(0, 1, 12)}, "mix class labels"),
    ({"images_train": None}, "no training images: found images_test, labels_test, labels_train; wanted"),
    ({"images_train": images(40, 3, 6, 6), "images_test": images(12, 3, 6, 6)}, "6 pixels; set data.image_size"),
]


@pytest.mark.parametrize(("changes", "words"), BAD_HDF5, ids=[words[:30] for _, words in BAD_HDF5])
def test_bad_hdf5_is_one_clear_sentence(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = hdf5(tmp_path / "bad.h5", **good(**changes))
    with pytest.raises(UserError, match=words) as error:
        read("hdf5", path)
    assert "bad.h5" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_truncated_hdf5(tmp_path: Path, size: int) -> None:
    path = hdf5(tmp_path / "a.h5", **good())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"a\.h5 is no readable HDF5 file"):
        read("hdf5", path)


def test_hdf5_links_to_other_files_are_refused(tmp_path: Path) -> None:
    secret = hdf5(tmp_path / "secret.h5", **good())
    path = hdf5(tmp_path / "a.h5", **good(images_train=None))
    with h5py.File(path, "a") as file:
        file["images_train"] = h5py.ExternalLink(str(secret), "images_train")
    with pytest.raises(UserError, match="'images_train' is an HDF5 ExternalLink"):
        read("hdf5", path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        file["images_train"] = h5py.SoftLink("/images_test")
    with pytest.raises(UserError, match="'images_train' is an HDF5 SoftLink"):
        read("hdf5", path)


def test_hdf5_data_kept_in_other_files_is_refused(tmp_path: Path) -> None:
    path = hdf5(tmp_path / "a.h5", **good(images_train=None))
    (tmp_path / "raw").write_bytes(bytes(40 * 192))
    with h5py.File(path, "a") as file:
        external = [(str(tmp_path / "raw"), 0, 40 * 192)]
        file.create_dataset("images_train", (40, 3, 8, 8), "uint8", external=external)
    with pytest.raises(UserError, match="keeps its data in other files"):
        read("hdf5", path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        layout = h5py.VirtualLayout((40, 3, 8, 8), "uint8")
        layout[:12] = h5py.VirtualSource(str(tmp_path / "b.h5"), "images_test", (12, 3, 8, 8))
        file.create_virtual_dataset("images_train", layout)
    with pytest.raises(UserError, match="keeps its data in other files"):
        read("hdf5", path)
    with h5py.File(path, "a") as file:
        del file["images_train"]
        file.create_group("images_train")
    with pytest.raises(UserError, match="is a Group, not a dataset"):
        read("hdf5", path)


# npz


def test_npz_of_keras_channels_last(tmp_path: Path) -> None:
    x = images(40, 8, 8, 3)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=labels(40)[:, None], x_test=x[:9], y_test=labels(9))
    data = read("npz", tmp_path / "a.npz")
    np.testing.assert_array_equal(data.test.images, x[:9].transpose(0, 3, 1, 2))
    np.savez(tmp_path / "b.npz", images=x[..., 0], labels=labels(40))
    assert read("npz", tmp_path / "b.npz").train.images.shape[1:] == (1, 8, 8)


class Explosive:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.array([Explosive()]), labels=labels(1))
    with pytest.raises(UserError, match=r"'images' in .*a.npz holds Python objects, which are never read"):
        read("npz", path)
    np.savez(path, images=images(40), labels=labels(40))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UserError, match=r"a.npz is no .npz file, or a truncated one"):
        read("npz", path)
    with path.open("wb") as stream:
        np.save(stream, images(4))
    with pytest.raises(UserError, match=r"is no .npz file"):
        read("npz", path)
    with pytest.raises(UserError, match="is a folder"):
        read("npz", tmp_path)


# CIFAR


def cifar_rows(n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    return images(n, 3, 32, 32), labels(n, classes)


def write_cifar(path: Path, x: np.ndarray, *label_bytes: np.ndarray) -> None:
    table = np.concatenate([*(b[:, None].astype(np.uint8) for b in label_bytes), x.reshape(len(x), -1)], 1)
    table.tofile(path)


def test_cifar10_binary(tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = cifar_rows(40, 10), cifar_rows(20, 10)
    write_cifar(tmp_path / "data_batch_1.bin", x[:25], y[:25])
    write_cifar(tmp_path / "data_batch_2.bin", x[25:], y[25:])
    write_cifar(tmp_path / "test_batch.bin", x_test, y_test)
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    data = read("cifar_binary", tmp_path, val_fraction=0.25)
    np.testing.assert_array_equal(data.test.images, x_test)
    np.testing.assert_array_equal(data.test.labels, y_test)
    assert len(data.train) + len(data.val) == 40
    assert data.class_names == tuple("abcdefghij")
    (tmp_path / "data_batch_2.bin").write_bytes(b"x" * 5000)
    with pytest.raises(UserError, match=r"data_batch_2.bin is truncated: 5000 bytes"):
        read("cifar_binary", tmp_path)


def test_cifar100_binary_takes_fine_labels_also_through_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    x, y = cifar_rows(40, 20)
    write_cifar(folder / "train.bin", x, np.zeros(40), y)
    write_cifar(folder / "test.bin", x, np.zeros(40), y)
    data = read("cifar100", tmp_path)
    np.testing.assert_array_equal(data.test.labels, y)
    assert data.classes == 20
    with pytest.raises(UserError, match="holds neither"):
        read("cifar_binary", tmp_path)


def test_cifar_python_version_is_read_but_runs_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    x, y = cifar_rows(20, 10)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = {"data": x.reshape(20, -1), "labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    data = read("cifar10", tmp_path)
    np.testing.assert_array_equal(data.test.images, x)
    assert len(data.train) + len(data.val) == 100
    old = (folder / "test_batch").read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    (folder / "test_batch").write_bytes(old)  # as numpy 1 wrote it
    np.testing.assert_array_equal(read("cifar10", tmp_path).test.images, x)
    (folder / "data_batch_3").write_bytes(pickle.dumps({"data": Explosive()}))
    with pytest.raises(UserError, match="data_batch_3 is not a file of CIFAR's Python version: it names"):
        read("cifar10", tmp_path)
    (folder / "data_batch_3").write_bytes(b"\x80nonsense")
    with pytest.raises(UserError, match="data_batch_3 is not a file"):
        read("cifar10", tmp_path)


# IDX, MNIST, torchvision


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_mnist(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, n in (("train", 40), ("t10k", 12)):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(idx_bytes(images(n, 28, 28)))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels(n))))


def test_idx_and_mnist(tmp_path: Path) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    data = read("mnist", tmp_path)
    np.testing.assert_array_equal(data.test.images, images(12, 28, 28)[:, None])
    assert data.fingerprint == read("idx", tmp_path / "MNIST" / "raw").fingerprint


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("train-images-idx3-ubyte", idx_bytes(images(40, 28, 28))[:-7], "is truncated: 31353 bytes"),
        ("train-images-idx3-ubyte", b"\x89PNG....", "not an IDX file"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(labels(40)), mtime=0)[:-9], "not a readable gzip"),
        ("train-labels-idx1-ubyte.gz", b"plain", "not a readable gzip"),
        ("t10k-images-idx3-ubyte", None, "must hold t10k-images"),
    ],
    ids=["truncated", "another format", "truncated gzip", "no gzip", "absent"],
)
def test_bad_idx(tmp_path: Path, file: str, content: bytes | None, words: str) -> None:
    write_mnist(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read("idx", tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_set_says_how_to_get_it(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"{name}.*is not in {tmp_path}.*data.download=true.*data.path"):
        read(name, tmp_path)


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, **members: Any) -> None:
    """torchvision with only `members` in torchvision.datasets (and .utils): no network, no seconds of import."""
    utils = types.SimpleNamespace(**members)
    datasets = types.SimpleNamespace(utils=utils, **members)
    for name, module in {
        "": types.SimpleNamespace(datasets=datasets),
        ".datasets": datasets,
        ".datasets.utils": utils,
    }.items():
        monkeypatch.setitem(sys.modules, f"torchvision{name}", module)


def test_download_only_when_allowed_and_no_connection_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(url: str, *_: Any, **__: Any) -> None:
        raise URLError("no route")

    mnist = types.SimpleNamespace(resources=[("a.gz", "0")], mirrors=["http://a/", "http://b/"])
    fake_torchvision(monkeypatch, download_and_extract_archive=unreachable, download_url=unreachable, MNIST=mnist)
    for name in ("cifar10", "mnist"):
        with pytest.raises(UserError, match=f"cannot download {name}.*no route.*data.path"):
            read(name, tmp_path, download=True)


def test_download_cifar_then_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, root: str, md5: str) -> None:
        assert url.endswith("/cifar-10-binary.tar.gz")
        assert len(md5) == 32
        folder = Path(root) / "cifar-10-batches-bin"
        folder.mkdir()
        write_cifar(folder / "data_batch_1.bin", *cifar_rows(40, 10))
        write_cifar(folder / "test_batch.bin", *cifar_rows(20, 10))

    fake_torchvision(monkeypatch, download_and_extract_archive=fetch)
    assert read("cifar10", tmp_path, download=True).classes == 10


def test_svhn_and_stl10_come_from_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class SVHN:
        def __init__(self, root: str, split: str, download: bool) -> None:
            if download:
                raise RuntimeError("Dataset not found or corrupted.")
            n = {"train": 40, "test": 20}[split]
            self.data, self.labels = images(n, 3, 32, 32), labels(n, 10)

    class STL10(SVHN):
        classes = ("airplane", "bird")

        def __init__(self, root: str, split: str, download: bool) -> None:
            super().__init__(root, split, download)
            self.labels = (self.labels % 2).astype(np.uint8)

    fake_torchvision(monkeypatch, SVHN=SVHN, STL10=STL10)
    assert read("svhn", tmp_path).classes == 10
    assert read("stl10", tmp_path).class_names == ("airplane", "bird")
    with pytest.raises(UserError, match=r"svhn.*is not in"):
        read("svhn", tmp_path, download=True)


# Unlabelled sets


@pytest.mark.parametrize("kind", ["hdf5", "npz"])
def test_a_file_without_labels_is_an_unlabelled_set(tmp_path: Path, kind: str) -> None:
    arrays = {"images_train": images(40), "images_test": images(12)}
    path = hdf5(tmp_path / "a.h5", **arrays) if kind == "hdf5" else tmp_path / "a.npz"
    if kind == "npz":
        np.savez(path, **arrays)
    data = read(kind, path, val_fraction=0.25)
    assert data.unlabelled
    assert (data.classes, data.class_names, data.label_range) == (None, (), None)
    assert [len(data.train), len(data.val), len(data.test)] == [30, 10, 12]
    assert not data.train.labels.any()
    np.testing.assert_array_equal(data.test.images, images(12))
    smaller = read(kind, path, val_fraction=0.25, train_images=7)
    assert (len(smaller.train), smaller.unlabelled) == (7, True)


def test_equal_unlabelled_images_have_equal_fingerprints_and_labels_change_them(tmp_path: Path) -> None:
    bare = {"images_train": images(40), "images_test": images(12)}
    np.savez(tmp_path / "a.npz", **bare)
    unlabelled = read("npz", tmp_path / "a.npz").fingerprint
    assert unlabelled == read("hdf5", hdf5(tmp_path / "a.h5", **bare)).fingerprint
    assert unlabelled != read("hdf5", hdf5(tmp_path / "b.h5", **good())).fingerprint


def test_labels_of_some_parts_only_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images_train=images(40), images_test=images(12), labels_test=labels(12))
    with pytest.raises(UserError, match="holds 'images_train' but not 'labels_train': add the labels"):
        read("npz", tmp_path / "a.npz")


def test_stages_that_need_labels_say_so(tmp_path: Path) -> None:
    from gankd.stages.checks import check_classes
    from gankd.stages.sections import GanConfig

    np.savez(tmp_path / "a.npz", images=images(40))
    data = read("npz", tmp_path / "a.npz")
    with pytest.raises(UserError, match="stage 'biggan' needs labels, but data set 'a' has none: add them"):
        check_classes("biggan", GanConfig(), data)
