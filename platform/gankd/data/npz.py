"""numpy's .npz with image and label arrays."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gankd.data.arrays import find_pairs
from gankd.data.checks import check_headers, check_memory, check_part
from gankd.data.dataset import Source
from gankd.errors import UserError


class Header(NamedTuple):
    """What an array in the archive says of itself."""

    shape: tuple[int, ...]
    dtype: np.dtype


def read_npz(path: Path) -> Source:
    """Read `x_train`/`y_train`, `images_train`/`labels_train`, `images`/`labels`, ... Never unpickles object arrays.

    A file without any labels is an unlabelled set.
    """
    if path.is_dir():
        raise UserError(f"data.path {path} is a folder; data.name=npz reads one .npz file")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{path} is no .npz file, or a truncated one: data.name=npz reads an archive as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            pairs = find_pairs(set(file.files), str(path))
            for images, labels in pairs.values():
                heads = _header(file.zip, images, path), labels and _header(file.zip, labels, path)
                check_headers(heads[0], heads[1] or None, f"{images!r} in {path}", f"{labels!r} in {path}")
            arrays = {part: (file[images], None if labels is None else file[labels]) for part, (images, labels) in pairs.items()}
            names: tuple[str, ...] = ()
            if "class_names" in file.files:
                check_memory(*_header(file.zip, "class_names", path), f"'class_names' in {path}")
                names = tuple(map(str, file["class_names"].ravel()))
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path} is no readable .npz of plain arrays: write it again with numpy.savez ({reason})") from None
    parts = {
        part: check_part(*arrays[part], f"{images!r} in {path}", f"{labels!r} in {path}")
        for part, (images, labels) in pairs.items()
    }
    found = {part: images for part, (images, _) in pairs.items()}
    return Source.of_parts(parts, names, unlabelled=pairs["train"][1] is None, found=found)


def _header(archive: zipfile.ZipFile, name: str, path: Path) -> Header:
    """Shape and type of an array. Raises UserError where its size in the archive is another one."""
    member = next(each for each in (f"{name}.npy", name) if each in archive.namelist())
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        begins = stream.tell()
    if dtype.hasobject:
        raise UserError(f"{name!r} in {path} holds Python objects, which are never read: store it as a plain array")
    needed, there = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size - begins
    if needed != there:
        raise UserError(f"{name!r} in {path} is damaged: its header says {shape} {dtype}, {needed} bytes, and there are {there}")
    return Header(shape, dtype)
