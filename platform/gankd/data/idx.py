"""MNIST's IDX format, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from gankd.data.checks import check_part
from gankd.data.dataset import Source, Split
from gankd.errors import UserError

_UNSIGNED_BYTE = 8  # type code in the third byte of the magic number; the fourth is the number of dimensions


def read_array(path: Path) -> np.ndarray:
    """The uint8 array in an IDX file. Raises UserError if it is damaged."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a readable gzip file: download it again ({error})") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or not 1 <= content[3] <= 4:
        raise UserError(f"{path} is not an IDX file of unsigned bytes (it starts with {content[:4]!r})")
    dimensions, start = content[3], 4 + 4 * content[3]
    shape = tuple(int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    if len(content) - start != math.prod(shape):
        raise UserError(f"{path} is truncated: {len(content) - start} bytes where its header {shape} needs {math.prod(shape)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def find(folder: Path, stem: str) -> Path | None:
    """`stem` in `folder`, plain or gzipped."""
    return next((file for file in (folder / stem, folder / f"{stem}.gz") if file.is_file()), None)


def read_idx(folder: Path) -> Source:
    """A folder with `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with `t10k`; `.gz` or not."""
    parts: dict[str, Split] = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = find(folder, f"{prefix}-images-idx3-ubyte"), find(folder, f"{prefix}-labels-idx1-ubyte")
        if images and labels:
            parts[part] = check_part(read_array(images), read_array(labels), str(images), str(labels))
        elif part == "train" or images or labels:
            raise UserError(f"{folder} must hold {prefix}-images-idx3-ubyte and {prefix}-labels-idx1-ubyte, plain or .gz")
    return Source.of_parts(parts)
