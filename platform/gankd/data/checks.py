"""Checks of images and labels that a user brings. A failure is one sentence: the place, the value, what is allowed."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from gankd.data.dataset import Source, Split
from gankd.errors import UserError


class Described(Protocol):
    """What the header of an array says of it, before its content is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype: ...


def check_headers(images: Described, labels: Described | None, images_at: str, labels_at: str) -> None:
    """Everything that shape and type can tell, checked before the first byte of an array is read."""
    check_image_type(images.shape, images.dtype, images_at)
    check_memory(images.shape, images.dtype, images_at)
    if labels is not None:
        check_label_type(labels.shape, labels.dtype, images.shape[0], labels_at)


def check_memory(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Refuse an array that claims more bytes than this machine has free: a header may say anything."""
    import psutil

    needed, free = math.prod(shape) * dtype.itemsize, psutil.virtual_memory().available
    if needed > free:
        raise UserError(
            f"{where} has shape {shape}, which takes {needed / 2**30:.4g} GiB of memory, and {free / 2**30:.4g} GiB are "
            "free: write fewer images, or smaller ones"
        )


def check_image_type(shape: tuple[int, ...], dtype: np.dtype, where: str) -> None:
    """Refuse what cannot be square uint8 images, from shape and dtype alone, before anything is read."""
    if dtype.kind == "f":
        raise UserError(
            f"{where} holds {dtype} images, but only uint8 (0..255) is allowed: convert with "
            "(images * 255).round().astype('uint8') if they are in [0, 1], ((images + 1) * 127.5).round() if in [-1, 1]"
        )
    if dtype != np.uint8:
        raise UserError(f"{where} holds {dtype} images, but only uint8 (0..255) is allowed")
    grey = len(shape) == 3
    first = len(shape) == 4 and shape[1] in (1, 3) and shape[2] == shape[3]
    last = len(shape) == 4 and shape[3] in (1, 3) and shape[1] == shape[2]
    if not (first or last or (grey and shape[1] == shape[2])):
        raise UserError(
            f"{where} has shape {shape}, but square images are needed: (N, C, S, S), (N, S, S, C) or (N, S, S), with C 1 or 3"
        )
    if 0 in shape:
        raise UserError(f"{where} is empty (shape {shape})")


def channels_first(images: np.ndarray) -> np.ndarray:
    """(N, S, S), (N, S, S, C) or (N, C, S, S) as contiguous (N, C, S, S)."""
    if images.ndim == 3:
        return np.ascontiguousarray(images[:, None])
    if images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)


def check_label_type(shape: tuple[int, ...], dtype: np.dtype, count: int, where: str) -> None:
    """One number for each of `count` images, from shape and dtype alone."""
    if dtype.kind not in "iuf":
        raise UserError(
            f"{where} has type {dtype}, but labels are integers (classes) or floating-point values: of names, "
            "numpy.unique(names, return_inverse=True) makes class_names and labels"
        )
    if shape[:1] != (count,) or math.prod(shape) != count:
        rows = ": of one-hot rows, .argmax(1) makes labels" if len(shape) == 2 and shape[0] == count else ""
        raise UserError(f"{where} has shape {shape}, but one label for each of {count} images is needed{rows}")


def check_labels(labels: np.ndarray, count: int, where: str) -> np.ndarray:
    """int64 class indices or float32 values, (N,). Integers are classes, floating-point numbers values to regress."""
    check_label_type(labels.shape, labels.dtype, count, where)
    labels = labels.reshape(count)
    if labels.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
            values = labels.astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise UserError(f"{where} holds {bad.size} NaN or infinite labels, the first at index {bad[0]}: remove those images")
        return values
    if labels.min() < 0:
        raise UserError(
            f"{where} holds the class label {labels.min()}: labels count from 0 (regression labels are floating-point)"
        )
    if labels.max() > np.iinfo(np.int64).max // 2:
        raise UserError(f"{where} holds the class label {labels.max()}, which is no class index")
    return labels.astype(np.int64)


def check_part(images: np.ndarray, labels: np.ndarray | None, images_at: str, labels_at: str) -> Split:
    """Images and labels as a `Split`, checked; None for labels that are not known."""
    check_image_type(images.shape, images.dtype, images_at)
    if labels is None:
        return Split.unlabelled(channels_first(images))
    return Split(channels_first(images), check_labels(labels, len(images), labels_at))


def check_source(source: Source, where: str) -> None:
    """Check the parts against each other."""
    train = source.train
    for part in (source.val, source.test):
        if part is None:
            continue
        if part.images.shape[1:] != train.images.shape[1:]:
            raise UserError(
                f"{where}: the parts hold images of different shape, {train.images.shape[1:]} for training "
                f"and {part.images.shape[1:]}"
            )
        if part.labels.dtype != train.labels.dtype:
            raise UserError(f"{where}: the parts mix class labels (integers) and regression labels (floating point)")
    if source.unlabelled:
        return
    if len(np.unique(train.labels)) < 2:
        raise UserError(f"{where}: all training labels are {train.labels[0]}; two classes (or values) at least are needed")
    if train.labels.dtype == np.int64:
        check_class_labels(source, where)


def check_class_labels(source: Source, where: str) -> None:
    """Every label has its name, where there are names, and labels are no numbers to regress in disguise."""
    names = source.class_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{where}: two classes are named {twice[0]!r}; give every class a name of its own")
    for part in (source.train, source.val, source.test):
        if part is not None and names and part.labels.max(initial=0) >= len(names):
            raise UserError(
                f"{where}: class label {part.labels.max()} is out of range, the class names allow 0..{len(names) - 1}"
            )
    highest = int(source.train.labels.max())
    if not names and highest > len(source.train):
        raise UserError(
            f"{where}: class label {highest} would make {highest + 1} classes of {len(source.train)} training images; "
            "number the classes 0, 1, 2, ... (or store regression labels as floating-point values)"
        )
