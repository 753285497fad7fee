"""Picture files as uint8 arrays: any mode and size that Pillow reads. What it cannot read is told, not raised."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gankd.data.resize import resize_image
from gankd.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

# What Pillow registers that is no picture of pixels: drawings, videos, containers. EPS would be run by another program.
NO_RASTER = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# Pictures that Pillow does not read, and what the content of a picture starts with, whatever its file is called.
UNREAD = {".heic", ".heif", ".jxl", ".svg", ".exr", ".hdr", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2"}
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"8BPS")

LARGEST = 512  # pixels, as `data.image_size`
PNG = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112  # tag of EXIF


@cache
def suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the picture files that Pillow reads."""
    from PIL import Image

    return frozenset(
        suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind not in NO_RASTER
    )


def seems_picture(file: Path) -> bool:
    """Whether a file that is not read by its suffix may be meant as a picture."""
    if file.suffix.lower() in UNREAD:
        return True
    try:
        with file.open("rb") as stream:
            start = stream.read(16)
    except OSError:
        return False
    return start.startswith(STARTS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:8] == b"ftyp"


def decode(files: Sequence[Path], size: int | None, channels: int | None) -> list[np.ndarray | str]:
    """Each picture as uint8 (1 or 3, S, S), its central square, resized to `size`; or why it cannot be read.

    Raises UserError for a picture that is too large to be used as it is, before others are read.
    """
    # Pillow warns of large pictures and odd metadata; it decodes and resizes without holding the interpreter lock.
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:
        return list(pool.map(lambda file: _picture(file, size, channels), files))


def _picture(file: Path, size: int | None, channels: int | None) -> np.ndarray | str:
    from PIL import UnidentifiedImageError

    try:
        image = _readable(file)
        side = min(image.size)
        if size is None and side > LARGEST:
            raise UserError(f"{file} has {image.width} x {image.height} pixels: set data.image_size to a size in 8..{LARGEST}")
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        if channels is not None:
            image = image.convert("L" if channels == 1 else "RGB")
        pixels = np.asarray(image if size is None or size == side else resize_image(image, size))
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    except UserError:
        raise
    except UnidentifiedImageError:
        return "no picture that Pillow knows"
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # decoders raise nearly anything
        return " ".join(str(error).split()) or type(error).__name__


def _readable(file: Path) -> Image.Image:
    """The picture upright, as L or RGB; damaged metadata do not keep from reading the pixels."""
    from PIL import Image

    try:
        with Image.open(file) as opened:
            return _eight_bit(_upright(opened))
    except Exception:
        content = file.read_bytes()
        bare = without_metadata(content)
        if not content:
            raise ValueError("empty") from None
        if bare == content:
            raise
    with Image.open(io.BytesIO(bare)) as opened:
        return _eight_bit(_upright(opened))


def without_metadata(content: bytes) -> bytes:
    """A JPEG or PNG file with only what its pixels need; other files as they are."""
    kept, place = [], 0
    if content.startswith(b"\xff\xd8"):
        kept, place = [content[:2]], 2
        while content[place : place + 1] == b"\xff" and content[place + 1 : place + 2] not in (b"\xda", b""):
            length = 2 + int.from_bytes(content[place + 2 : place + 4], "big")
            # APP0 to APP15 and comments; APP14 tells how colours are coded.
            if not (0xE0 <= content[place + 1] <= 0xEF and content[place + 1] != 0xEE) and content[place + 1] != 0xFE:
                kept.append(content[place : place + length])
            place += length
    elif content.startswith(PNG):
        kept, place = [PNG], len(PNG)
        while place < len(content):
            length = 12 + int.from_bytes(content[place : place + 4], "big")
            kind = content[place + 4 : place + 8]
            if kind[:1].isupper() or kind == b"tRNS":
                kept.append(content[place : place + length])
            place += length
    return b"".join([*kept, content[place:]])


def _upright(image: Image.Image) -> Image.Image:
    """The picture as it was held. Where the metadata is damaged, the pixels as they are."""
    from PIL import Image

    image.load()
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    try:
        turn = turns.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # the pixels are there
        return image
    return image if turn is None else image.transpose(turn)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Any mode as L or RGB; 16-bit grey is scaled, transparency is put on white."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels, save it with 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 65535:
            raise ValueError(f"pixel values in {wide.min()}..{wide.max()}, allowed are 16 bits (0..65535)")
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    grey = image.mode in ("1", "L", "LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if grey else "RGB")
