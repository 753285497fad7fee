"""Pictures as they come: whatever a decoder raises is told of its file, and readable pixels are used."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from gankd.data import DataConfig, DataSet, load
from gankd.data.decode import decode, suffixes, without_metadata
from gankd.errors import UserError


def read(path: Path, **more: object) -> DataSet:
    load.cache_clear()
    return load(DataConfig(name="folder", path=str(path), image_size=8, **more))  # type: ignore[arg-type]


def colours(seed: int = 0, height: int = 8, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def two_classes(root: Path, n: int = 6) -> Path:
    for name in ("ant", "bee"):
        (root / name).mkdir(parents=True)
        for i in range(n):
            colours(i).save(root / name / f"{i}.png")
    return root


def total(data: DataSet) -> int:
    return len(data.train) + len(data.val) + len(data.test)


def with_exif(jpeg: Path, *entries: tuple[int, int, int, bytes], tail: bytes = b"") -> Path:
    """The JPEG with an EXIF block of (tag, type, count, four bytes) entries, right or wrong."""
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    block += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4) + tail
    segment = b"Exif\0\0" + block
    content = jpeg.read_bytes()
    jpeg.write_bytes(content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:])
    return jpeg


def test_a_broken_rational_keeps_neither_the_pixels_nor_the_orientation_back(tmp_path: Path) -> None:
    colours(height=8, width=12).save(tmp_path / "a.jpg")
    plain = np.asarray(Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_270))
    orientation = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
    # -1/1 where no sign is allowed: Pillow cannot write it back, which `exif_transpose` tries.
    broken = with_exif(tmp_path / "a.jpg", orientation, (0x011A, 10, 1, struct.pack("<I", 38)), tail=struct.pack("<ii", -1, 1))
    with Image.open(broken) as image, pytest.raises(Exception, match=r".+"):
        ImageOps.exif_transpose(image)
    [pixels] = decode([broken], None, None)
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, 2), plain[2:10])


@pytest.mark.parametrize(
    "entries",
    [
        [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 5, 1, struct.pack("<I", 60_000))],
        [(0x0112, 3, 2, struct.pack("<HH", 6, 6))],
        [(0x0112, 2, 4, b"six\0")],
        [(0x0112, 99, 1, b"????")],
        [(0x0112, 3, 0xFFFFFFFF, b"\xff\xff\xff\xff")],
        [(0x8825, 4, 1, struct.pack("<I", 9999))],
    ],
)
def test_odd_metadata_leave_the_pixels(tmp_path: Path, entries: list[tuple[int, int, int, bytes]]) -> None:
    colours().save(tmp_path / "a.jpg")
    [picture] = decode([with_exif(tmp_path / "a.jpg", *entries)], None, None)
    assert isinstance(picture, np.ndarray), picture
    assert picture.shape == (3, 8, 8)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_png_whose_text_is_a_bomb_is_read_without_it(tmp_path: Path) -> None:
    picture = colours()
    picture.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    bomb = chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(80_000_000)))
    (tmp_path / "a.png").write_bytes(content[:33] + bomb + content[33:])
    with pytest.raises(ValueError, match="too large"), Image.open(tmp_path / "a.png") as opened:
        opened.load()
    [pixels] = decode([tmp_path / "a.png"], None, None)
    np.testing.assert_array_equal(np.moveaxis(pixels, 0, 2), np.asarray(picture))


def test_without_metadata_keeps_what_pixels_need(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "a.bmp"):
        colours().save(tmp_path / name)
        content = (tmp_path / name).read_bytes()
        (tmp_path / f"bare_{name}").write_bytes(without_metadata(content))
        np.testing.assert_array_equal(Image.open(tmp_path / f"bare_{name}"), Image.open(tmp_path / name))
    for cut in range(40):  # whatever is missing, it ends
        assert without_metadata((tmp_path / "a.jpg").read_bytes()[:cut]) is not None
        assert without_metadata((tmp_path / "a.png").read_bytes()[:cut]) is not None


BROKEN = {
    "empty.png": b"",
    "page.jpg": b"<!DOCTYPE html><html>404</html>",
    "lfs.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    "zeros.jpg": bytes(500),
    "short.gif": b"GIF89a",
    "short.tif": b"II*\0\x08\0\0\0",
    "short.webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    "short.bmp": b"BM" + bytes(20),
    "odd.tga": b"\xff" * 18,
    "odd.ico": b"\0\0\1\0\1\0" + b"\xff" * 16,
    "odd.psd": b"8BPS" + b"\xff" * 30,
    "odd.dds": b"DDS " + b"\xff" * 124,
    "odd.jp2": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\xff" * 30,
}


def test_all_broken_pictures_are_named_at_once(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    for name, content in BROKEN.items():
        (root / "bee" / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        read(root)
    said = str(error.value)
    assert said.startswith(f"{len(BROKEN)} of {12 + len(BROKEN)} pictures in {root} cannot be read: ")
    assert "bee/empty.png (empty)" in said
    named = sorted(BROKEN)
    assert [name for name in named[:10] if f"bee/{name} (" not in said] == []
    assert [name for name in named[10:] if name in said] == []
    assert said.endswith(f"and {len(BROKEN) - 10} more: replace or remove them, or go on without by data.skip_broken=true")
    assert "\n" not in said


def test_skip_broken_goes_on_without_and_says_how_many(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    before = read(root).fingerprint
    for name, content in BROKEN.items():
        (root / "bee" / name).write_bytes(content)
    data = read(root, skip_broken=True)
    assert (total(data), data.fingerprint) == (12, before)
    [remark] = data.remarks
    assert remark.startswith(
        f"{len(BROKEN)} of {12 + len(BROKEN)} pictures cannot be read and are left out: bee/empty.png (empty)"
    )
    (root / "wasp").mkdir()
    (root / "wasp" / "0.png").write_bytes(b"")
    assert "1 of 3 classes has no training image and is left out: wasp" in read(root, skip_broken=True).remarks


def test_a_set_of_which_nothing_can_be_read(tmp_path: Path) -> None:
    root = two_classes(tmp_path, n=2)
    for file in root.rglob("*.png"):
        file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match="holds no readable picture for the part 'train'"):
        read(root, skip_broken=True)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".jpg", ".tga", ".ppm", ".pcx", ".jp2", ".sgi", ".ico", ".qoi", ".dib"])
def test_what_pillow_reads_is_read(tmp_path: Path, suffix: str) -> None:
    root = two_classes(tmp_path)
    colours(9, 16, 16).save(root / "ant" / f"x{suffix}", format="JPEG" if suffix == ".jfif" else None)
    assert total(read(root)) == 13


def test_no_drawing_video_or_container_counts_as_a_picture() -> None:
    assert {".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".avif", ".ppm", ".pgm"} <= suffixes()
    assert not suffixes() & {".eps", ".ps", ".wmf", ".emf", ".h5", ".hdf", ".grib", ".mpg", ".mpeg", ".pdf"}


def test_files_that_may_be_meant_as_pictures_are_counted(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    for i in range(3):
        (root / "ant" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic")
        (root / "bee" / f"photo{i}").write_bytes((root / "bee" / "0.png").read_bytes())
    for name in ("notes.txt", "labels.csv", "README"):
        (root / "bee" / name).write_text("no picture")
    data = read(root)
    assert total(data) == 12
    assert data.remarks == (
        "files that may be pictures are not read by their suffix: 3 of .heic, 3 of no suffix; "
        "convert or rename them to .png or .jpg",
    )


def test_an_animation_gives_its_first_picture_and_a_folder_may_be_called_like_one(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    frames = [Image.new("L", (8, 8), value) for value in (0, 255)]
    frames[0].save(root / "ant" / "moving.gif", save_all=True, append_images=frames[1:])
    (root / "bee" / "folder.png").mkdir()
    [first] = decode([root / "ant" / "moving.gif"], None, 1)
    assert not first.any()  # type: ignore[union-attr]
    assert total(read(root)) == 13


def test_one_pixel_and_a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = two_classes(tmp_path)
    Image.new("RGB", (1, 1), (1, 2, 3)).save(root / "ant" / "dot.png")
    assert total(read(root)) == 13
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    colours(0, 12, 12).save(root / "ant" / "large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert total(read(root)) == 14  # up to twice the limit Pillow only warns, of which nothing is to be seen
    colours(0, 20, 20).save(root / "ant" / "bomb.png")
    with pytest.raises(UserError, match=r"ant/bomb.png \(Image size \(400 pixels\) exceeds limit"):
        read(root)


def test_large_pictures_without_a_size_are_refused_at_the_first(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    colours(0, 513, 600).save(root / "ant" / "large.png")
    assert total(read(root)) == 13
    load.cache_clear()
    with pytest.raises(UserError, match=r"ant/large.png has 600 x 513 pixels: set data.image_size to a size in 8..512"):
        load(DataConfig(name="folder", path=str(root)))


def test_a_link_to_nowhere_is_a_broken_picture(tmp_path: Path) -> None:
    root = two_classes(tmp_path)
    (root / "ant" / "annexed.png").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"ant/annexed.png \(No such file or directory\)"):
        read(root)
    assert total(read(root, skip_broken=True)) == 12
