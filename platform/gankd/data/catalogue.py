"""`load`: from a `DataConfig` to a `DataSet`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gankd.data import cifar, digits, folder, hdf5, idx, npz, splits, vision
from gankd.data.checks import check_source
from gankd.data.classes import present_classes
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
    where = config.path or config.name
    try:
        source = _read(config)
    except OSError as error:
        raise UserError(f"{error.filename or where} cannot be read: {error.strerror or error}") from None
    check_source(source, where)
    if source.test is None:
        source = _hold_out_test(source)
    has_classes = source.train.labels.dtype == np.int64 and not source.unlabelled
    span = source.label_range
    if not has_classes and span is None and not source.unlabelled:
        # Of all training images, whatever is drawn from them: a label means the same at every train_images.
        span = (float(source.train.labels.min()), float(source.train.labels.max()))
    if config.train_images is not None and config.train_draw == "uniform":
        source = _draw_uniformly(source, config.train_images, config, where)
    elif source.val is None:
        source = _cut_validation(source, config)
    if config.train_images is not None and config.train_draw == "balanced":
        source = _draw(source, config.train_images, config.split_seed, where)
    if has_classes:
        source = present_classes(source, where)
    assert source.val is not None
    assert source.test is not None
    train, val, test = (_at_size(part, config, where) for part in (source.train, source.val, source.test))
    if not all(map(len, (train, val, test))):
        raise UserError(
            f"{where} has too few images: of {len(train) + len(val) + len(test)} there are {len(train)} to train, {len(val)} to "
            f"validate and {len(test)} to test, and each part needs one at least"
        )
    names = source.class_names if has_classes else ()
    unknown = ("unlabelled",) if source.unlabelled else ()  # zeros that are no class
    return DataSet(
        config.dataset,
        train,
        val,
        test,
        classes=len(names) if has_classes else None,
        class_names=names,
        label_unit=source.label_unit,
        label_range=span,
        fingerprint=fingerprint((train, val, test), names, source.label_unit, span, *unknown),
        unlabelled=source.unlabelled,
        origins=source.origins,
        remarks=source.remarks,
    )


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
        return folder.read_folder(path, config.image_size, config.image_channels, config.skip_broken)
    return _READERS[name](path)


def _hold_out_test(source: Source) -> Source:
    rest, held = _cut(source, TEST_FRACTION, TEST_SEED)
    groups = None if source.groups is None else source.groups[rest]
    origins = {**source.origins, "test": f"{100 * TEST_FRACTION:g} % cut from all images"}
    return replace(source, train=source.train.take(rest), test=source.train.take(held), groups=groups, origins=origins)


def _cut_validation(source: Source, config: DataConfig) -> Source:
    rest, held = _cut(source, config.val_fraction, config.split_seed)
    origins = {**source.origins, "val": f"{100 * config.val_fraction:g} % cut from train"}
    return replace(source, train=source.train.take(rest), val=source.train.take(held), groups=None, origins=origins)


def _cut(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    if source.groups is not None:
        return splits.cut_groups(source.groups, fraction, seed)
    return splits.cut(_strata(source.train), fraction, seed)


def _strata(part: Split) -> np.ndarray:
    return part.labels if part.labels.dtype == np.int64 else np.zeros(len(part))


def _check_size(size: int, train: Split, where: str) -> None:
    if size > len(train):
        raise UserError(
            f"data.train_images={size}, but {where} has only {len(train)} training images: set data.train_images to {len(train)} "
            "or less, or to null for all of them"
        )


def _drawn(source: Source, size: int) -> dict[str, str]:
    return {
        **source.origins,
        "train": ", ".join(filter(None, [source.origins.get("train"), f"{size} of {len(source.train)} drawn"])),
    }


def _draw_uniformly(source: Source, size: int, config: DataConfig, where: str) -> Source:
    """Draw of all training images; what validates is cut from those that were not drawn."""
    train = source.train
    _check_size(size, train, where)
    index = splits.uniform(len(train), size, config.split_seed)
    present, classes = np.unique(_strata(train.take(index))), np.unique(_strata(train))
    if len(present) < len(classes):
        raise UserError(
            f"data.train_images={size} with train_draw=uniform leaves {len(classes) - len(present)} of {len(classes)} classes of "
            f"{where} without an image: take more images, another data.split_seed, or train_draw=balanced"
        )
    drawn = replace(source, train=train.take(index), origins=_drawn(source, size), groups=None)
    if source.val is not None:
        return drawn
    rest = np.setdiff1d(np.arange(len(train)), index)
    if source.groups is not None:  # copies of what trains must not validate
        rest = rest[~np.isin(source.groups[rest], source.groups[index])]
    if len(rest) < len(classes):
        raise UserError(
            f"data.train_images={size} with train_draw=uniform leaves nothing of {where} to validate with: take fewer "
            "images, or train_draw=balanced"
        )
    groups = None if source.groups is None else source.groups[rest]
    others = _cut_validation(replace(source, train=train.take(rest), groups=groups), config)
    return replace(drawn, val=others.val, origins={**others.origins, **drawn.origins})


def _draw(source: Source, size: int, seed: int, where: str) -> Source:
    train = source.train
    _check_size(size, train, where)
    strata = _strata(train)
    classes = len(np.unique(strata))
    if size < classes:
        raise UserError(
            f"data.train_images={size} leaves classes without an image: {where} has {classes} classes, so set it to {classes} "
            "or more, or to null for all images"
        )
    return replace(source, train=train.take(splits.balanced(strata, size, seed)), origins=_drawn(source, size))


def _at_size(part: Split, config: DataConfig, where: str) -> Split:
    """The part at the size and colour asked for."""
    side = part.images.shape[-1]
    if config.image_size is None and not 8 <= side <= 512:
        raise UserError(f"{where}: images of {side} pixel{'s' * (side != 1)}; set data.image_size to a size in 8..512")
    images = np.ascontiguousarray(set_size(set_channels(part.images, config.image_channels), config.image_size))
    return Split(images, np.ascontiguousarray(part.labels))
