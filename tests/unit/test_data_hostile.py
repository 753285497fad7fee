"""Files whose headers lie, and what a user points `data.path` at by mistake: one sentence, and no memory taken."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gankd.data import DataConfig, DataSet, load
from gankd.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
LABELS = np.arange(40) % 4
HUGE = (2**26, 1, 1024, 1024)  # 64 TiB


def refused(name: str, path: Path, words: str, **more: Any) -> str:
    load.cache_clear()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=words) as error:
            load(DataConfig(name=name, path=str(path), **more))
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value)
    return str(error.value)


def npy(shape: tuple[int, ...], descr: str = "|u1", content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue() + content


def archive(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def whole(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_an_npz_whose_header_claims_64_tib(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", images=npy(HUGE, content=bytes(100)), labels=whole(LABELS))
    refused("npz", path, r"'images' in .* is damaged: its header says \(67108864, 1, 1024, 1024\) uint8, 70368744177664 bytes")
    path = archive(tmp_path / "a.npz", images=whole(IMAGES), labels=npy((2**40,), "<i8"))
    refused("npz", path, "'labels' in .* is damaged: its header says")
    path = archive(tmp_path / "a.npz", images=whole(IMAGES), labels=whole(LABELS), class_names=npy((2**40,), "<U9"))
    refused("npz", path, "'class_names' in .* is damaged: its header says")


def test_an_npz_that_unpacks_to_what_labels_do_not_need_is_not_unpacked(tmp_path: Path) -> None:
    bomb = npy((2**25,), content=bytes(2**25))
    path = archive(tmp_path / "a.npz", images=whole(IMAGES), labels=bomb)
    refused("npz", path, r"'labels' in .* has shape \(33554432,\), but one label for each of 40 images is needed")
    path = archive(tmp_path / "a.npz", images=bomb, labels=whole(LABELS))
    refused("npz", path, r"'images' in .* has shape \(33554432,\), but square images are needed")
    archive(tmp_path / "a.npz", images=whole(IMAGES), labels=whole(LABELS), unused=bomb)
    load.cache_clear()
    assert load(DataConfig(name="npz", path=str(tmp_path / "a.npz"))).classes == 4


@pytest.mark.parametrize(
    "member", [b"", b"no array", b"\x93NUMPY", b"\x93NUMPY\x09\x00\x10\x00{'descr':", whole(IMAGES)[:70], whole(IMAGES)[:-5]]
)
def test_an_npz_with_a_damaged_member(tmp_path: Path, member: bytes) -> None:
    refused("npz", archive(tmp_path / "a.npz", images=member, labels=whole(LABELS)), r"a\.npz is|'images' in .*a\.npz is damaged")


def test_objects_in_an_npz_are_never_read(tmp_path: Path) -> None:
    bomb = pickle.dumps(IMAGES)
    for name in ("images", "labels", "class_names"):
        members = {"images": whole(IMAGES), "labels": whole(LABELS), name: npy((1,), "|O", bomb)}
        path = archive(tmp_path / "a.npz", **members)
        with pytest.raises(UserError, match=r"holds Python objects, which are never read|one label for each|only uint8"):
            load(DataConfig(name="npz", path=str(path)))


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04" + bytes(50)])
def test_what_is_no_npz(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    refused("npz", tmp_path / "a.npz", r"a\.npz is no \.npz file")


@pytest.mark.parametrize("chunks", [None, (1, 1, 1024, 1024)])
def test_an_hdf5_that_claims_64_tib(tmp_path: Path, chunks: tuple[int, ...] | None) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        images = file.create_dataset("images", HUGE, "uint8", chunks=chunks)
        file["labels"] = LABELS
        if chunks:
            images[0] = 1
    refused("hdf5", tmp_path / "a.h5", "takes 6.554e.04 GiB of memory" if chunks else "holds no data, its place was made")


def test_other_odd_hdf5(tmp_path: Path) -> None:
    def file_of(**arrays: Any) -> Path:
        (tmp_path / "a.h5").unlink(missing_ok=True)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, array in arrays.items():
                file[name] = array
        return tmp_path / "a.h5"

    refused("hdf5", file_of(images=h5py.Empty("uint8"), labels=LABELS), "'images' holds no data")
    refused("hdf5", file_of(images=IMAGES, labels=h5py.Empty("int64")), "'labels' holds no data")
    refused("hdf5", file_of(images=np.uint8(3), labels=LABELS), r"shape \(\), but square images")
    refused("hdf5", file_of(images=IMAGES, labels=np.array([b"x"] * 40)), "labels are integers")
    refused(
        "hdf5", file_of(images=IMAGES, labels=LABELS, class_names=np.array([b"\xff", b"a", b"b", b"a"])), "two classes are named"
    )
    refused(
        "hdf5", file_of(images=IMAGES, labels=np.where(LABELS, 1e300, 1.0)), "30 NaN or infinite labels, the first at index 1"
    )
    with h5py.File(tmp_path / "a.h5", "a") as file:
        del file["labels"]
        file.create_dataset("labels", (40, 2**30), "int64", chunks=(1, 2**16))[0, 0] = 1
    refused("hdf5", tmp_path / "a.h5", "one label for each of 40 images")


def idx(folder: Path, shape: tuple[int, ...], content: bytes, gz: bool = False) -> None:
    header = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape)
    name, pack = ("train-images-idx3-ubyte.gz", gzip.compress) if gz else ("train-images-idx3-ubyte", bytes)
    (folder / name).write_bytes(pack(header + content))
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 40) + LABELS.astype(np.uint8).tobytes())


@pytest.mark.parametrize("gz", [False, True])
def test_idx_headers_that_lie(tmp_path: Path, gz: bool) -> None:
    idx(tmp_path, (2**32 - 1, 2**16, 2**16), bytes(100), gz)
    refused("idx", tmp_path, "ubyte.* has shape .* GiB of memory, and .* are free")
    idx(tmp_path, (40, 8, 8), bytes(40 * 64 - 1), gz)
    refused("idx", tmp_path, "is truncated: 2559 bytes where its header .* needs 2560")
    idx(tmp_path, (40, 8, 8), bytes(2**25), gz)  # unpacked only as far as the header says
    refused("idx", tmp_path, "is longer than the 2560 bytes")
    idx(tmp_path, (0, 8, 8), b"", gz)
    refused("idx", tmp_path, "is empty")


# The folder of the files itself.


def cifar_batches(folder: Path) -> DataSet:
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (20, 3072), dtype=np.uint8)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        content = {"data": images, "labels": (np.arange(20) % 10).tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return load(DataConfig(name="cifar10", path=str(folder.parent)))


def test_cifar_by_the_folder_of_its_batches(tmp_path: Path) -> None:
    usual = cifar_batches(tmp_path / "cifar-10-batches-py")
    direct = load(DataConfig(name="cifar10", path=str(tmp_path / "cifar-10-batches-py")))
    assert direct.fingerprint == usual.fingerprint
    assert "100" not in direct.parts_sentence.partition(" images")[0]
    assert direct.origins["train"] == "from data_batch_1 to data_batch_5"
    (tmp_path / "cifar-10-batches-py").rename(tmp_path / "mine")
    load.cache_clear()
    assert load(DataConfig(name="cifar10", path=str(tmp_path / "mine"))).fingerprint == usual.fingerprint
    with pytest.raises(UserError, match=r"'cifar100' is not in .* \(wanted: cifar-100-binary/ or cifar-100-python/\)"):
        load(DataConfig(name="cifar100", path=str(tmp_path / "mine")))


@pytest.mark.parametrize("inner", ["MNIST/raw", "raw", "."])
def test_mnist_by_the_folder_of_its_files(tmp_path: Path, inner: str) -> None:
    (tmp_path / inner).mkdir(parents=True, exist_ok=True)
    idx(tmp_path / inner, (40, 8, 8), IMAGES[:, 0].tobytes())
    load.cache_clear()
    assert len(load(DataConfig(name="mnist", path=str(tmp_path))).test) == 8


def test_an_archive_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-python.tar.gz").touch()
    refused("cifar10", tmp_path / "cifar-10-python.tar.gz", "is no folder but a file, unpack it first")


@pytest.mark.parametrize(("train_images", "words"), [(200, "set data.train_images to 29 or less"), (3, "set it to 4 or more")])
def test_train_images_that_do_not_fit_say_what_to_set(tmp_path: Path, train_images: int, words: str) -> None:
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    assert "null" in refused("npz", tmp_path / "a.npz", words, train_images=train_images)
