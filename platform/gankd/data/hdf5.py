"""HDF5 in cGAN-KD's layout: `images_train`, `labels_train`, `images_test` or `images_valid`, ...; `fake_images`, ..."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gankd.data.arrays import find_pairs
from gankd.data.checks import channels_first, check_headers, check_image_type, check_labels, check_memory
from gankd.data.dataset import Source, Split
from gankd.errors import UserError

if TYPE_CHECKING:
    import h5py


def read_hdf5(path: Path) -> Source:
    """Read the parts that the file holds; other datasets in it are ignored. `class_names` (texts) is optional.

    A generated set (`fake_images`) is read as training images. A file without any labels is an unlabelled set. Links to
    other files are refused, because a file from outside could pull in any file of this machine.
    """
    import h5py

    if path.is_dir():
        raise UserError(f"data.path {path} is a folder; data.name=hdf5 reads one HDF5 file")
    try:
        with h5py.File(path, "r") as file:
            pairs = find_pairs(set(file), str(path))
            parts = {part: _read_part(file, *keys, path) for part, keys in pairs.items()}
            names = _read_names(file, path)
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no readable HDF5 file, perhaps truncated: copy or write it again ({reason})") from None
    found = {part: images for part, (images, _) in pairs.items()}
    return Source.of_parts(parts, names, unlabelled=pairs["train"][1] is None, found=found)


def _dataset(file: h5py.File, key: str, path: Path) -> h5py.Dataset:
    """The dataset at `key`, if its data lies in this file."""
    import h5py

    link = file.get(key, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise UserError(f"{path}: {key!r} is an HDF5 {type(link).__name__}, only data inside the file is read: copy it in")
    dataset = file[key]
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: {key!r} is a {type(dataset).__name__}, not a dataset")
    if dataset.external or dataset.is_virtual:
        raise UserError(f"{path}: {key!r} keeps its data in other files, only data inside the file is read: copy it in")
    if dataset.shape is None or (dataset.size and not dataset.id.get_storage_size()):
        raise UserError(f"{path}: {key!r} holds no data, its place was made and nothing was written to it: write the file again")
    return dataset


def _read_part(file: h5py.File, images_key: str, labels_key: str | None, path: Path) -> Split:
    images = _dataset(file, images_key, path)
    labels = None if labels_key is None else _dataset(file, labels_key, path)
    labels_at = f"{labels_key!r} in {path}"
    check_headers(images, labels, f"{images_key!r} in {path}", labels_at)
    if labels is None:
        return Split.unlabelled(channels_first(images[...]))
    return Split(channels_first(images[...]), check_labels(np.asarray(labels[...]), len(images), labels_at))


def _read_names(file: h5py.File, path: Path) -> tuple[str, ...]:
    if "class_names" not in file:
        return ()
    dataset = _dataset(file, "class_names", path)
    check_memory(dataset.shape, dataset.dtype, f"'class_names' in {path}")
    names: Any = np.ravel(dataset[...]).tolist()
    return tuple(name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names)


def write_hdf5(path: str | os.PathLike[str], images: np.ndarray, labels: np.ndarray, gzip: int | None = None) -> None:
    """Write a generated set as cGAN-KD's tools read it: `fake_images` uint8 (N, C, S, S) and `fake_labels` (N,).

    Args:
        gzip: compression level 1..9; cGAN-KD's own files have 6. None is ten times as fast, and images hardly shrink.
    """
    import h5py

    path = Path(path)
    check_image_type(images.shape, images.dtype, "write_hdf5: images")
    labels = check_labels(np.asarray(labels), len(images), "write_hdf5: labels")
    options: dict[str, Any] = {}
    if gzip is not None:
        options = {"compression": "gzip", "compression_opts": gzip, "chunks": (min(len(images), 64), *images.shape[1:])}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(aside, "w") as file:
            file.create_dataset("fake_images", data=images, **options)
            file.create_dataset("fake_labels", data=labels)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
