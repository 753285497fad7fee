"""numpy's .npz with image and label arrays."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from gankd.data.arrays import find_pairs
from gankd.data.checks import check_part
from gankd.data.dataset import Source
from gankd.errors import UserError


def read_npz(path: Path) -> Source:
    """Read `x_train`/`y_train`, `images_train`/`labels_train`, `images`/`labels`, ... Never unpickles object arrays.

    A file without any labels is an unlabelled set.
    """
    if path.is_dir():
        raise UserError(f"data.path {path} is a folder; data.name=npz reads one .npz file")
    try:
        opened = np.load(path, allow_pickle=False)
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise UserError(f"{path} holds one array; data.name=npz needs images and labels in one .npz file")
        with opened as file:
            pairs = find_pairs(set(file.files), str(path))
            arrays = {part: (file[images], None if labels is None else file[labels]) for part, (images, labels) in pairs.items()}
            names = tuple(map(str, file["class_names"].ravel())) if "class_names" in file.files else ()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is no readable .npz of plain arrays: write it again with numpy.savez ({reason})") from None
    parts = {
        part: check_part(*arrays[part], f"{images!r} in {path}", f"{labels!r} in {path}")
        for part, (images, labels) in pairs.items()
    }
    return Source.of_parts(parts, names, unlabelled=pairs["train"][1] is None)
