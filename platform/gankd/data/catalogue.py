"""`load`: from a `DataConfig` to a `DataSet`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gankd.data import cifar, digits, folder, hdf5, idx, npz, splits, vision
from gankd.data.checks import check_source
from gankd.data.config import VISION, DataConfig
from gankd.data.dataset import DataSet, Source, Split, fingerprint
from gankd.data.resize import set_channels, set_size
from gankd.errors import UserError

# A set without any held-out part gives a fifth of its images for testing, always the same ones.
TEST_FRACTION, TEST_SEED = 0.2, 20070201

_READERS: dict[str, Callable[[Path], Source]] = {
    "hdf5": hdf5.read_hdf5,
    "npz": npz.read_npz,
    "cifar_binary": cifar.read_binary,
    "idx": idx.read_idx,
}


@functools.lru_cache(maxsize=2)
def load(config: DataConfig) -> DataSet:
    """The data set that `config` names; kept for the next call in this process, so treat its arrays as read-only.

    Raises UserError when it is missing, damaged or not what a data set may be.
    """
    return read_config(config)


def read_config(config: DataConfig) -> DataSet:
    """As `load`, but not kept: the caller holds the only copy."""
    source = _read(config)
    where = config.path or config.name
    classes = check_source(source, where)
    if source.test is None:
        source = _hold_out_test(source)
    train, val, test = _parts(source, config, where)
    names = (source.class_names or tuple(map(str, range(classes)))) if classes else ()
    span = source.label_range
    if classes is None and span is None and not source.unlabelled:
        # Of all training images, whatever is drawn from them: a label means the same at every train_images.
        span = (float(source.train.labels.min()), float(source.train.labels.max()))
    unknown = ("unlabelled",) if source.unlabelled else ()  # zeros that are no class
    mark = fingerprint((train, val, test), names, source.label_unit, span, *unknown)
    return DataSet(config.name, train, val, test, classes, names, source.label_unit, span, mark, source.unlabelled)


def _read(config: DataConfig) -> Source:
    name = config.name
    if name == "digits":
        return digits.read_digits()
    if name == "digits_angle":
        return digits.read_digits_angle()
    if name in VISION:
        return vision.read_vision(name, config.path, config.download)
    if config.path is None:
        raise UserError(f"data.name={name} reads your own files: set data.path to where they are")
    path = Path(config.path).expanduser()
    if not path.exists():
        raise UserError(f"data.path {config.path} does not exist; give the file or folder that holds the {name} data")
    if name == "folder":
        return folder.read_folder(path, config.image_size, config.image_channels)
    return _READERS[name](path)


def _hold_out_test(source: Source) -> Source:
    rest, held = _cut(source, TEST_FRACTION, TEST_SEED)
    groups = None if source.groups is None else source.groups[rest]
    return replace(source, train=source.train.take(rest), test=source.train.take(held), groups=groups)


def _cut(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if source.groups is not None:
        return splits.cut_groups(source.groups, fraction, seed)
    return splits.cut(_strata(source.train), fraction, seed)


def _strata(part: Split) -> np.ndarray:
    return part.labels if part.labels.dtype == np.int64 else np.zeros(len(part))


def _parts(source: Source, config: DataConfig, where: str) -> tuple[Split, Split, Split]:
    """Train, validation and test, with as many training images as asked for, at the size and colour asked for."""
    train, val, test = source.train, source.val, source.test
    assert test is not None
    if val is None:
        rest, held = _cut(source, config.val_fraction, config.split_seed)
        train, val = train.take(rest), train.take(held)
    if config.train_images is not None:
        train = _draw(train, config.train_images, config.split_seed, where)
    size, channels = config.image_size, config.image_channels
    if size is None and not 8 <= train.images.shape[-1] <= 512:
        raise UserError(f"{where}: images of {train.images.shape[-1]} pixels; set data.image_size to a size in 8..512")

    def prepared(part: Split) -> Split:
        images = np.ascontiguousarray(set_size(set_channels(part.images, channels), size))
        return Split(images, np.ascontiguousarray(part.labels))

    return prepared(train), prepared(val), prepared(test)


def _draw(train: Split, size: int, seed: int, where: str) -> Split:
    if size > len(train):
        raise UserError(f"data.train_images={size}, but {where} has only {len(train)} training images")
    strata = _strata(train)
    classes = len(np.unique(strata))
    if size < classes:
        raise UserError(f"data.train_images={size} leaves classes without an image: {where} has {classes} classes")
    return train.take(splits.balanced(strata, size, seed))
