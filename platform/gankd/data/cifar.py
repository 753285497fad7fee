"""CIFAR-10 and CIFAR-100 from their binary version, or from their Python version without running code it may hold."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gankd.data.checks import check_labels
from gankd.data.dataset import Source, Split
from gankd.errors import UserError

PIXELS = 3 * 32 * 32
# The Python version names only these: what numpy needs to rebuild an array. Anything else could run code.
_ALLOWED = {
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


def read_binary(folder: Path) -> Source:
    """A folder with `data_batch_*.bin`, `test_batch.bin` (CIFAR-10) or `train.bin`, `test.bin` (CIFAR-100, fine)."""
    batches = sorted(folder.glob("data_batch_*.bin"))
    if batches:
        label_bytes, names_file, test = 1, "batches.meta.txt", folder / "test_batch.bin"
    else:
        label_bytes, names_file, test = 2, "fine_label_names.txt", folder / "test.bin"
        batches = [file for file in (folder / "train.bin",) if file.is_file()]
    if not batches:
        raise UserError(f"{folder} holds neither data_batch_*.bin (CIFAR-10) nor train.bin (CIFAR-100)")
    parts, found = {"train": _records(batches, label_bytes)}, {"train": _span(batches)}
    if test.is_file():
        parts["test"], found["test"] = _records([test], label_bytes), test.name
    return Source.of_parts(parts, _names(folder / names_file), found=found)


def _span(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"


def _names(file: Path) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, file.read_text(errors="replace").splitlines()))) if file.is_file() else ()


def _records(files: Iterable[Path], label_bytes: int) -> Split:
    rows = []
    for file in files:
        content = np.fromfile(file, np.uint8)
        record = label_bytes + PIXELS
        if not content.size or content.size % record:
            raise UserError(f"{file} is truncated: {content.size} bytes are no whole number of {record}-byte records")
        rows.append(content.reshape(-1, record))
    table = np.concatenate(rows)
    # The byte before the pixels is the label (CIFAR-100: coarse, then fine).
    return Split(table[:, label_bytes:].reshape(-1, 3, 32, 32), table[:, label_bytes - 1].astype(np.int64))


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which CIFAR's files do not")
        return super().find_class(module, name)


def _unpickle(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            content = _ArrayUnpickler(stream, encoding="latin1").load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise UserError(f"{file} is not a file of CIFAR's Python version: {error}; use the binary version") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a file of CIFAR's Python version: it holds no dictionary; use the binary version")
    return content


def read_python(folder: Path) -> Source:
    """A folder with `data_batch_1..5`, `test_batch` (CIFAR-10) or `train`, `test` (CIFAR-100), as torchvision does."""
    batches: Sequence[Path] = [folder / f"data_batch_{i}" for i in range(1, 6)]
    if batches[0].is_file():
        test, meta, labels, names = folder / "test_batch", folder / "batches.meta", "labels", "label_names"
    else:
        batches, test = [folder / "train"], folder / "test"
        meta, labels, names = folder / "meta", "fine_labels", "fine_label_names"
    parts = {"train": _pickled(batches, labels), "test": _pickled([test], labels)}
    class_names = tuple(map(str, _unpickle(meta).get(names, ()))) if meta.is_file() else ()
    return Source.of_parts(parts, class_names, found={"train": _span(batches), "test": test.name})


def _pickled(files: Iterable[Path], labels_key: str) -> Split:
    images, labels = [], []
    for file in files:
        content = _unpickle(file)
        data = content.get("data")
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
            raise UserError(f"{file} holds no CIFAR images ('data' must be uint8 of shape (N, {PIXELS}))")
        images.append(data.reshape(-1, 3, 32, 32))
        labels.append(check_labels(np.asarray(content.get(labels_key, ())), len(data), f"{labels_key!r} in {file}"))
    return Split(np.concatenate(images), np.concatenate(labels))
