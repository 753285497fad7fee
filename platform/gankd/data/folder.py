"""A folder of pictures: a folder per class, or the parts `train`, `val`, `test`, and classes in them.

Without class folders, pictures right in it or in its parts are an unlabelled set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gankd.data.dataset import Source, Split
from gankd.data.decode import decode, seems_picture
from gankd.data.layout import find_layout
from gankd.errors import UserError


def read_folder(root: Path, size: int | None, channels: int | None, skip_broken: bool = False) -> Source:
    """Read all pictures, cropped to their central square and resized to `size`.

    Grey, palette, 16-bit and transparent pictures (put on white) are taken. Without `channels` the set is grey only if
    every picture is. Raises UserError for a layout with two readings, and names all pictures that cannot be read, unless
    `skip_broken`.
    """
    if not root.is_dir():
        raise UserError(f"data.path {root} is a file; data.name=folder reads a folder of class folders")
    layout = find_layout(root)
    remarks = [*layout.remarks, *_unread(layout.others)]
    files = {part: list(part_files) for part, part_files in layout.files.items()}
    read = {part: decode([each.file for each in found], size, channels) for part, found in files.items()}
    if broken := [(each.file, why) for part in files for each, why in zip(files[part], read[part]) if isinstance(why, str)]:
        count, total = len(broken), sum(map(len, files.values()))
        names = "; ".join(f"{file.relative_to(root)} ({why})" for file, why in broken[:10])
        named = names + (f"; and {count - 10} more" if count > 10 else "")
        if not skip_broken:
            raise UserError(
                f"{count} of {total} pictures in {root} cannot be read: {named}: replace or remove "
                f"{'it' if count == 1 else 'them'}, or go on without by data.skip_broken=true"
            )
        remarks.append(f"{count} of {total} pictures cannot be read and {'is' if count == 1 else 'are'} left out: {named}")
    parts = {}
    whole = {
        part: [(each, picture) for each, picture in zip(files[part], read[part]) if not isinstance(picture, str)]
        for part in files
    }
    pictures = [(each.file, picture) for part in whole.values() for each, picture in part]
    depth = max((picture.shape[0] for _, picture in pictures), default=1)
    for part, kept in whole.items():
        if not kept:
            raise UserError(f"{root} holds no readable picture for the part {part!r}: replace the broken ones")
        images = _stack([(each.file, picture) for each, picture in kept], pictures[0], depth)
        parts[part] = Split(images, np.array([each.label for each, _ in kept], np.int64))
    return Source.of_parts(parts, layout.classes, unlabelled=layout.unlabelled, found=layout.origins, remarks=tuple(remarks))


def _unread(files: Sequence[Path]) -> Iterator[str]:
    """A sentence on files that are not read by their suffix and may be meant as pictures."""
    kinds = Counter(file.suffix.lower() or "no suffix" for file in files if seems_picture(file))
    if kinds:
        said = ", ".join(f"{count} of {suffix}" for suffix, count in kinds.most_common(5))
        yield f"files that may be pictures are not read by their suffix: {said}; convert or rename them to .png or .jpg"


def _stack(pictures: list[tuple[Path, np.ndarray]], first: tuple[Path, np.ndarray], depth: int) -> np.ndarray:
    """uint8 (N, depth, S, S); grey pictures among coloured ones are repeated to three channels."""
    for file, picture in pictures:
        if picture.shape[1] != first[1].shape[1]:
            raise UserError(
                f"pictures differ in size ({first[0]}: {first[1].shape[1]} pixels, {file}: {picture.shape[1]}); "
                "set data.image_size"
            )
    return np.stack([np.broadcast_to(picture, (depth, *picture.shape[1:])) for _, picture in pictures])
