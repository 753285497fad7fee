"""A folder of class folders: `<class>/*.png`, or `train/<class>/*.png` with `val/` (`valid/`) and `test/` beside it.

Without class folders, `*.png` or `train/*.png` are images of an unlabelled set.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gankd.data.dataset import Source, Split
from gankd.data.resize import resize_image
from gankd.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm"}
PARTS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def read_folder(root: Path, size: int | None, channels: int | None) -> Source:
    """Read all images, cropped to their central square and resized to `size`.

    Grey, palette, 16-bit and transparent pictures (put on white) are taken; hidden files and files that are no pictures
    are passed over. Without `channels` the set is grey only if every picture is. UserError names a broken picture.
    """
    if not root.is_dir():
        raise UserError(f"data.path {root} is a file; data.name=folder reads a folder of class folders")
    folders = {part: next((root / n for n in names if (root / n).is_dir()), None) for part, names in PARTS.items()}
    present = {part: folder for part, folder in folders.items() if folder is not None}
    if "train" not in present:
        if present and all(entry in present.values() for entry in _class_folders(root)):
            raise UserError(f"{root} holds {', '.join(sorted(f.name for f in present.values()))} but no train folder")
        present = {"train": root}
    class_names = tuple(folder.name for folder in _class_folders(present["train"]))
    unlabelled = not class_names and any(_is_picture(file, root) for file in present["train"].iterdir())
    if len(class_names) < 2 and not unlabelled:
        raise UserError(f"{present['train']} holds {len(class_names)} class folders; two at least are needed, one per class")
    lists = {part: _list_flat(folder) if unlabelled else _list_part(folder, class_names) for part, folder in present.items()}
    pictures = {part: _decode(files, size, channels) for part, (files, _) in lists.items()}
    depth = max(picture.shape[0] for part in pictures.values() for picture in part)
    parts = {part: Split(_stack(pictures[part], lists[part][0], depth), lists[part][1]) for part in present}
    return Source.of_parts(parts, class_names, unlabelled=unlabelled)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _list_part(folder: Path, class_names: tuple[str, ...]) -> tuple[list[Path], np.ndarray]:
    """All pictures below the class folders and their class indices."""
    files: list[Path] = []
    labels: list[int] = []
    for entry in _class_folders(folder):
        if entry.name not in class_names:
            raise UserError(f"{entry} is a class that the training part lacks (it has {', '.join(class_names[:10])})")
        found = sorted(file for file in entry.rglob("*") if _is_picture(file, entry))
        if not found:
            raise UserError(f"class folder {entry} holds no picture ({', '.join(sorted(SUFFIXES))})")
        files += found
        labels += [class_names.index(entry.name)] * len(found)
    if not files:
        raise UserError(f"{folder} holds no class folder with pictures")
    return files, np.array(labels, np.int64)


def _list_flat(folder: Path) -> tuple[list[Path], np.ndarray]:
    """All pictures right in a folder, of no known label."""
    if entries := _class_folders(folder):
        raise UserError(
            f"{entries[0]} is a class folder, but the training images have none: sort all parts into classes, or none"
        )
    files = sorted(file for file in folder.iterdir() if _is_picture(file, folder))
    if not files:
        raise UserError(f"{folder} holds no picture ({', '.join(sorted(SUFFIXES))})")
    return files, np.zeros(len(files), np.int64)


def _is_picture(file: Path, below: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(below).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _decode(files: list[Path], size: int | None, channels: int | None) -> list[np.ndarray]:
    with ThreadPoolExecutor() as pool:  # Pillow decodes and resizes without holding the interpreter lock
        return list(pool.map(lambda file: _picture(file, size, channels), files))


def _picture(file: Path, size: int | None, channels: int | None) -> np.ndarray:
    """One picture as uint8 (1 or 3, S, S)."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            image = _eight_bit(ImageOps.exif_transpose(opened), file)
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read as a picture: {error}; replace or remove it") from None
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image if size is None or size == side else resize_image(image, size))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _eight_bit(image: Image.Image, file: Path) -> Image.Image:
    """Any mode as L or RGB; 16-bit grey is scaled, transparency is put on white."""
    from PIL import Image

    if image.mode == "F":
        raise UserError(f"{file} holds floating-point pixels; save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise UserError(f"{file} holds pixel values in {wide.min()}..{wide.max()}; allowed are 16 bits (0..65535)")
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")


def _stack(pictures: list[np.ndarray], files: list[Path], depth: int) -> np.ndarray:
    """uint8 (N, depth, S, S); grey pictures among coloured ones are repeated to three channels."""
    for picture, file in zip(pictures, files):
        if picture.shape[1] != pictures[0].shape[1]:
            raise UserError(
                f"pictures differ in size ({files[0]}: {pictures[0].shape[1]} pixels, {file}: {picture.shape[1]}); "
                "set data.image_size"
            )
    return np.stack([np.broadcast_to(picture, (depth, *picture.shape[1:])) for picture in pictures])
