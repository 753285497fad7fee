"""What a data set is, and what a reader of one hands over."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

Array = np.ndarray
LEFT_OUT = "no training image and"  # in the remark on classes that are left out


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
        images: uint8 (N, C, H, W), C 1 or 3; an array in memory or a memory map.
        labels: int64 (N,) class indices, or float32 (N,) in the data set's `label_unit`. Zeros, int64, where they are not
            known: a batch then has labels of one class, which nothing should learn.
    """

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def unlabelled(cls, images: Array) -> Split:
        """Images whose labels are not known."""
        return cls(images, np.zeros(len(images), np.int64))

    def take(self, index: Array) -> Split:
        """The images and labels at `index`, in that order."""
        return Split(self.images[index], self.labels[index])


@dataclass(frozen=True, eq=False)
class Source:
    """What a reader hands over: checked parts, before validation is cut off and images are resized.

    Attributes:
        groups: one number per training image; images with the same number stay in one part (turned copies of a digit).
        class_names: empty when the source names none.
        label_range: the possible values of a regression label, where they are known beforehand.
        unlabelled: whether the labels are not known, of no part.
        origins: where each part was found ("from val/"), by the part it serves as; remarks: sentences on what was left out.
    """

    train: Split
    test: Split | None = None
    val: Split | None = None
    class_names: tuple[str, ...] = ()
    label_unit: str = ""
    label_range: tuple[float, float] | None = None
    groups: Array | None = None
    unlabelled: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @classmethod
    def of_parts(
        cls,
        parts: Mapping[str, Split],
        class_names: tuple[str, ...] = (),
        *,
        unlabelled: bool = False,
        found: Mapping[str, str] | None = None,
        remarks: tuple[str, ...] = (),
    ) -> Source:
        """From 'train', 'val' and 'test' parts. A lone held-out part is the test part, whatever its name.

        found: what each part was found as, in the user's own words: a folder, a file, an array.
        """
        origins = {part: f"from {place}" for part, place in (found or {}).items()}
        test, val = parts.get("test"), parts.get("val")
        if test is None:
            test, val = val, None
            origins = {"test" if part == "val" else part: place for part, place in origins.items()}
        return cls(parts["train"], test, val, class_names, unlabelled=unlabelled, origins=origins, remarks=remarks)


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images and labels in three parts that share no image. Only a test stage is handed a set with its test part.

    Attributes:
        test_part: the test images, or None where they are withheld; read them as `test`.
        classes: number of classes, each with a training image; None where the labels are no classes, or not known.
        class_names: one name per class; empty without classes.
        label_unit, label_range: unit and possible values (low, high) of a regression label.
        fingerprint: sha256 (hex) of everything that training and evaluation can see of the set.
        unlabelled: whether the labels are not known; they are zeros then.
        origins: where each part ("train", "val", "test") came from, in a few words; empty where that goes without saying.
        remarks: sentences that the user should read once: classes without images, pictures that were left out.
    """

    name: str
    train: Split
    val: Split
    test_part: Split | None
    classes: int | None
    class_names: tuple[str, ...]
    label_unit: str
    label_range: tuple[float, float] | None
    fingerprint: str
    unlabelled: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def parts_sentence(self) -> str:
        """What became of which images, on one line: "data signs: 480 images train (from train/), 53 validation (...), ..."."""
        said = []
        for part, title, split in (
            ("train", " images train", self.train),
            ("val", " validation", self.val),
            ("test", " test", self.test_part),
        ):
            if split is not None:
                said.append(f"{len(split)}{title}" + (f" ({self.origins[part]})" if self.origins.get(part) else ""))
        labels = f"{self.classes} classes"
        if self.unlabelled:
            labels = "without labels"
        elif self.label_range is not None:
            labels = f"labels from {self.label_range[0]:g} to {self.label_range[1]:g} {self.label_unit}".rstrip()
        return f"data {self.name}: {', '.join(said)}; {labels}"

    @property
    def test(self) -> Split:
        """The test part. Raises RuntimeError in a stage that is not a test stage."""
        if self.test_part is None:
            raise RuntimeError(f"only a stage declared with test=True is handed the test part of data set {self.name!r}")
        return self.test_part

    def without_test(self) -> DataSet:
        """The same set, of the same fingerprint, with its test part withheld."""
        return replace(self, test_part=None)

    @property
    def renumbered(self) -> bool:
        """Whether classes were left out, so that the others have not their source's numbers."""
        return any(LEFT_OUT in remark for remark in self.remarks)

    @property
    def image_size(self) -> int:
        """Side of the square images, in pixels."""
        return int(self.train.images.shape[-1])

    @property
    def image_channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return int(self.train.images.shape[1])


def fingerprint(parts: tuple[Split, ...], *facts: object) -> str:
    """sha256 (hex) of shapes, dtypes and bytes of `parts`, and of `facts` (class names, label range)."""
    total = hashlib.sha256(repr(facts).encode())
    for array in (array for part in parts for array in (part.images, part.labels)):
        total.update(f"{array.shape}{array.dtype.str}".encode())
        total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
