"""Which classes a set has: those with an image to train on, numbered from 0 without gaps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gankd.data.dataset import LEFT_OUT, Source, Split
from gankd.errors import UserError

TITLES = {"val": "validation", "test": "test"}


def present_classes(source: Source, where: str) -> Source:
    """The same parts with labels 0, 1, ..., of the classes that have a training image, and a remark on the others.

    Classes keep their names; without names their numbers are the names: labels 1..K become K classes "1".."K". A class
    without an image would be a share of all fakes, and nothing could tell what they should look like.

    Raises UserError where a held-out part has images of a class that cannot be trained on.
    """
    present = np.unique(source.train.labels)
    given = source.class_names or tuple(map(str, range(int(present[-1]) + 1)))
    parts = {"train": source.train, "val": source.val, "test": source.test}
    for part, split in parts.items():
        if split is None:
            continue
        absent = split.labels[~np.isin(split.labels, present)]
        if absent.size:
            label = int(absent[0])
            name = given[label] if label < len(given) else str(label)
            count = int((absent == label).sum())
            raise UserError(
                f"{where}: class {name!r} has {count} {TITLES[part]} image{'s' * (count != 1)} and none to train on "
                f"(the training images are of {_few([given[place] for place in present])}): add training images of it, "
                "or take it out"
            )
        parts[part] = Split(split.images, np.searchsorted(present, split.labels))
    missing = np.setdiff1d(np.arange(len(given)), present)
    said = source.remarks
    if missing.size:
        have, are = ("has", "is") if len(missing) == 1 else ("have", "are")
        said += (
            f"{len(missing)} of {len(given)} classes {have} {LEFT_OUT} {are} left out: "
            f"{_few([given[label] for label in missing])}",
        )
    return replace(source, **parts, class_names=tuple(given[label] for label in present), remarks=said)  # type: ignore[arg-type]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
