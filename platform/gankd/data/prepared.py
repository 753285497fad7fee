"""A data set as plain files that processes map into memory: N of them share its pages.

<part>_images.npy, <part>_labels.npy    of train, val and test: uncompressed, the test part in files of its own
facts.json                              all else that a `DataSet` says
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from gankd.data.dataset import DataSet, Split

FACTS = "facts.json"


def key(fingerprint: str) -> str:
    """What the files of the data set with this fingerprint are called in a store."""
    return f"data-{fingerprint[:20]}"


def write(data: DataSet, folder: Path) -> None:
    """Write a data set, with its test part, to a folder that exists."""
    for name, part in (("train", data.train), ("val", data.val), ("test", data.test)):
        np.save(folder / f"{name}_images.npy", part.images)
        np.save(folder / f"{name}_labels.npy", part.labels)
    facts = {
        "name": data.name,
        "classes": data.classes,
        "class_names": data.class_names,
        "label_unit": data.label_unit,
        "label_range": data.label_range,
        "fingerprint": data.fingerprint,
        "unlabelled": data.unlabelled,
        "origins": dict(data.origins),
        "remarks": data.remarks,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1))


def read(folder: Path, *, test: bool) -> DataSet:
    """The data set in a folder that `write` filled, mapped and read-only; without `test` its test part stays closed."""
    facts = json.loads((folder / FACTS).read_text())
    span = facts["label_range"]
    return DataSet(
        name=facts["name"],
        train=_part(folder, "train"),
        val=_part(folder, "val"),
        test_part=_part(folder, "test") if test else None,
        classes=facts["classes"],
        class_names=tuple(facts["class_names"]),
        label_unit=facts["label_unit"],
        label_range=None if span is None else (span[0], span[1]),
        fingerprint=facts["fingerprint"],
        unlabelled=facts["unlabelled"],
        origins=facts.get("origins", {}),  # absent from sets that were prepared before there were any
        remarks=tuple(facts.get("remarks", ())),
    )


def _part(folder: Path, name: str) -> Split:
    # A plain array over the map: results of arithmetic on np.memmap are np.memmap, which torch and json do not take alike.
    images, labels = (
        np.asarray(np.load(folder / f"{name}_{what}.npy", mmap_mode="r", allow_pickle=False)) for what in ("images", "labels")
    )
    return Split(images, labels)
