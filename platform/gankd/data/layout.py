"""What the folders of a folder of pictures mean: parts, classes, or neither. What can be read in two ways is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gankd.data.decode import suffixes
from gankd.errors import UserError

PARTS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
FILLERS = {"the", "set", "data", "dataset", "images", "imgs", "pictures", "split", "part", "folder"}
# What archivers and file systems leave behind.
JUNK = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}


class Found(NamedTuple):
    """A picture file and the number of its class; 0 where there are no classes."""

    file: Path
    label: int


@dataclass
class Layout:
    """What was found below a folder.

    Attributes:
        files: the pictures of each part, sorted by class and path. origins: the folder each part was found in.
        classes: names of the class folders of the training part; empty for an unlabelled set.
        others: files that are no pictures by their suffix.
    """

    files: dict[str, list[Found]] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    others: list[Path] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def unlabelled(self) -> bool:
        return not self.classes


def part_of(name: str, shared: frozenset[str] = frozenset()) -> str | None:
    """'train', 'val' or 'test' for a folder's name that says so in any usual spelling: Train, testing, val_images, dev2017.

    `shared`: words that all folders beside it have in their names, and which tell nothing (mnist_train, mnist_test).
    """
    words = _words(name) - FILLERS - shared
    word = words.pop() if len(words) == 1 else ""
    return PARTS.get(word.removesuffix("set").removesuffix("data").removesuffix("images"))


def _words(name: str) -> set[str]:
    return {word for word in re.split(r"[^a-z]+", name.lower()) if word}


def find_layout(root: Path) -> Layout:
    """Parts, classes and pictures below `root`. Raises UserError for what can be read in two ways, saying both."""
    layout = Layout()
    given, root = root, _real_root(root)
    if root != given:
        layout.remarks.append(f"the pictures are taken from {root.relative_to(given)}/, the one folder in {given}")
    parts = _part_folders(root)
    layout.origins = {part: f"{folder.name}/" for part, folder in parts.items()}
    if parts:
        layout.remarks += _stray(root, "part")
    parts = parts or {"train": root}
    # A class folder without a file in it counts as one, so that its absence is told.
    layout.classes = tuple(folder.name for folder in subfolders(parts["train"]))
    flat = [file for file in _files(parts["train"]) if _is_picture(file)]
    if len(layout.classes) < 2 and not (flat and not layout.classes):
        raise UserError(
            f"{parts['train']} holds {len(layout.classes)} class folders; two at least are needed, one per class"
            " (pictures right in it would be a set without labels)"
        )
    for part, folder in parts.items():
        layout.files[part] = list(_of_classes(folder, layout) if layout.classes else _flat(folder, layout))
        if not layout.files[part]:
            raise UserError(f"{folder} holds no picture that can be read (.png, .jpg, .webp, ...)")
    if layout.classes and len({found.label for found in layout.files["train"]}) < 2:
        only = layout.classes[layout.files["train"][0].label]
        raise UserError(f"{parts['train']} holds pictures of one class only, {only!r}; two at least are needed")
    return layout


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, but hidden ones and what archivers and file systems leave behind."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name.lower() not in JUNK)
    return sorted(entry for entry in visible if entry.is_dir())


def _files(folder: Path) -> list[Path]:
    """The files in a folder, sorted, but hidden ones; a link to nowhere is one, so that it is told."""
    visible = (entry for entry in folder.iterdir() if not entry.name.startswith("."))
    return sorted(entry for entry in visible if entry.is_file() or (entry.is_symlink() and not entry.exists()))


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in suffixes()


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """All files in a folder and the folders in it, through links too."""
    real = folder.resolve()
    if real in above:
        raise UserError(f"{folder} is a link to a folder that it lies in: remove the link")
    yield from _files(folder)
    for inner in subfolders(folder):
        yield from _below(inner, (*above, real))


def _has_pictures(folder: Path) -> bool:
    return any(map(_is_picture, _below(folder)))


def _real_root(root: Path) -> Path:
    """`root`, or what lies in it, as archives unpack, when that is a lone folder of folders."""
    seen = {root.resolve()}
    while True:
        folders = subfolders(root)
        if len(folders) != 1 or part_of(folders[0].name) or any(map(_is_picture, _files(root))):
            return root
        inner = folders[0]
        if any(map(_is_picture, _files(inner))) or not subfolders(inner) or inner.resolve() in seen:
            return root
        seen.add(inner.resolve())
        root = inner


def _part_folders(root: Path) -> dict[str, Path]:
    """Part -> its folder; empty where the folders are classes."""
    parts: dict[str, Path] = {}
    words = [_words(folder.name) for folder in subfolders(root)]
    shared = frozenset(set.intersection(*words)) if len(words) > 1 else frozenset()
    folders = [folder for folder in subfolders(root) if part_of(folder.name, shared)]
    for folder in folders:
        part = part_of(folder.name, shared) or ""
        if part in parts:
            raise UserError(
                f"{root} holds {parts[part].name}/ and {folder.name}/, which both say {part!r}: join them, or {_as_class(folder)}"
            )
        parts[part] = folder
    if not parts:
        return {}
    others = [folder for folder in subfolders(root) if folder not in folders and _has_pictures(folder)]
    names = ", ".join(f"{folder.name}/" for folder in folders)
    if others:
        beside = ", ".join(f"{folder.name}/" for folder in others[:5]) + (", ..." if len(others) > 5 else "")
        raise UserError(
            f"{root} can be read in two ways: {names} as part of the data, then move {beside} out of it; or all as classes, then "
            f"{_as_class(folders[0])}"
        )
    if "train" not in parts:
        raise UserError(
            f"{root} holds {names} but no train folder: add train/ with the training images, or, if these are classes, "
            f"{_as_class(folders[0])}"
        )
    return dict(sorted(parts.items(), key=lambda each: ("train", "val", "test").index(each[0])))


def _as_class(folder: Path) -> str:
    return f"put all class folders into one new folder train/, so that the class is train/{folder.name}/"


def _of_classes(folder: Path, layout: Layout) -> Iterator[Found]:
    """All pictures below the class folders of a part."""
    layout.remarks += _stray(folder, "class folder")
    for entry in subfolders(folder):
        files = list(_below(entry))
        pictures = [file for file in files if _is_picture(file)]
        others = [file for file in files if not _is_picture(file)]
        layout.others += others
        if entry.name not in layout.classes:
            if not pictures:
                continue
            known = ", ".join(layout.classes[:10]) + (", ..." if len(layout.classes) > 10 else "")
            raise UserError(f"{entry} is a class that the training part lacks (it has {known}): rename or remove it")
        if not pictures and others:
            kinds = ", ".join(sorted({file.suffix.lower() or file.name for file in others})[:5])
            raise UserError(
                f"class folder {entry} holds no picture, only {len(others)} file{'s' * (len(others) != 1)} of another kind "
                f"({kinds}): convert them to .png or .jpg, or remove the folder"
            )
        if pictures and not any(file.parent == entry for file in pictures):
            inner = ", ".join(f"{each.name}/" for each in subfolders(entry)[:5])
            raise UserError(
                f"{entry} holds only folders ({inner}) and can be read in two ways: as one class, then move the pictures right "
                "into it; or as a folder of classes, then set data.path to it, or move its folders one level up"
            )
        yield from (Found(file, layout.classes.index(entry.name)) for file in sorted(pictures))


def _stray(folder: Path, missing: str) -> list[str]:
    stray = [file.name for file in _files(folder) if _is_picture(file)]
    if not stray:
        return []
    pictures, are = ("picture", "is") if len(stray) == 1 else ("pictures", "are")
    return [f"{len(stray)} {pictures} right in {folder}, in no {missing}, {are} not used ({', '.join(stray[:3])})"]


def _flat(folder: Path, layout: Layout) -> Iterator[Found]:
    """All pictures right in a folder, of no known label."""
    if entries := [entry for entry in subfolders(folder) if _has_pictures(entry)]:
        raise UserError(
            f"{entries[0]} is a class folder, but the training images have none: sort all parts into classes, or none"
        )
    for file in _files(folder):
        if _is_picture(file):
            yield Found(file, 0)
        else:
            layout.others.append(file)
