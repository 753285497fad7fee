"""MNIST's IDX format, plain or gzipped."""

from __future__ import annotations

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

from gankd.data.checks import check_memory, check_part
from gankd.data.dataset import Source, Split
from gankd.errors import UserError

_UNSIGNED_BYTE = 8  # type code in the third byte of the magic number; the fourth is the number of dimensions


def read_array(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file. Raises UserError if it is damaged."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return _array(stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a readable{' gzip' * (path.suffix == '.gz')} file: download it again ({error})") from None


def _array(stream: io.BufferedIOBase, path: Path) -> np.ndarray:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != _UNSIGNED_BYTE or not 1 <= start[3] <= 4:
        raise UserError(f"{path} is not an IDX file of unsigned bytes (it starts with {start!r})")
    sides = stream.read(4 * start[3])
    shape = tuple(int.from_bytes(sides[place : place + 4], "big") for place in range(0, len(sides), 4))
    needed = math.prod(shape)
    check_memory(shape, np.dtype(np.uint8), str(path))
    content = stream.read(needed)
    if len(shape) < start[3] or len(content) < needed:
        raise UserError(f"{path} is truncated: {len(content)} bytes where its header {shape} needs {needed}")
    if stream.read(1):
        raise UserError(f"{path} is longer than the {needed} bytes that its header {shape} says: download it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def find(folder: Path, stem: str) -> Path | None:
    """`stem` in `folder`, plain or gzipped."""
    return next((file for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()), None)


def read_idx(folder: Path) -> Source:
    """A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`; `.gz` or not."""
    parts: dict[str, Split] = {}
    found: dict[str, str] = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = find(folder, f"{prefix}-images-idx3-ubyte"), find(folder, f"{prefix}-labels-idx1-ubyte")
        if images and labels:
            parts[part] = check_part(read_array(images), read_array(labels), str(images), str(labels))
            found[part] = images.name
        elif part == "train" or images or labels:
            raise UserError(f"{folder} must hold {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte, plain or .gz")
    return Source.of_parts(parts, found=found)
