"""Folders of class folders with all the pictures that people have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gankd.data import DataConfig, DataSet, load
from gankd.errors import UserError


def read(path: Path, **more: Any) -> DataSet:
    load.cache_clear()
    return load(DataConfig(name="folder", path=str(path), **more))


def noise(height: int, width: int, *channels: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def save(path: Path, pixels: np.ndarray | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def two_classes(root: Path, n: int = 6) -> Path:
    for i in range(n):
        save(root / "ant" / f"{i}.png", noise(10, 10 + 2 * i, 3))
        save(root / "bee" / ("deep" if i else "") / f"{i}.png", noise(12 + i, 10, 3))
    return root


def test_sizes_differ_pictures_are_cropped_to_the_centre(tmp_path: Path) -> None:
    data = read(two_classes(tmp_path), image_size=10)
    assert data.class_names == ("ant", "bee")
    assert data.train.images.shape[1:] == (3, 10, 10)
    assert len(data.train) + len(data.val) + len(data.test) == 12
    wide = noise(10, 20, 3)[:, 5:15].transpose(2, 0, 1)  # i = 5
    assert any(np.array_equal(wide, image) for part in (data.train, data.val, data.test) for image in part.images)
    with pytest.raises(UserError, match=r"differ in size .*ant/0.png: 10 pixels.*set data.image_size"):
        read(save(tmp_path / "ant" / "big.png", noise(16, 16, 3)).parents[1])


def test_train_valid_test_folders(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        two_classes(tmp_path / part, {"train": 5, "valid": 2, "test": 3}[part])
    data = read(tmp_path, image_size=8)
    assert [len(data.train), len(data.val), len(data.test)] == [10, 4, 6]
    save(tmp_path / "test" / "wasp" / "0.png", noise(8, 8))
    with pytest.raises(UserError, match="test/wasp is a class that the training part lacks"):
        read(tmp_path, image_size=8)


def test_only_val_beside_train_is_the_test_part(tmp_path: Path) -> None:
    two_classes(tmp_path / "train", 5)
    two_classes(tmp_path / "val", 2)
    data = read(tmp_path, image_size=8, val_fraction=0.2)
    assert [len(data.train), len(data.val), len(data.test)] == [8, 2, 4]


def modes() -> dict[str, tuple[Image.Image, tuple[int, ...]]]:
    """Pictures of one colour in many modes, and the RGB (or grey) value they must be read as."""
    half = Image.new("RGBA", (8, 8), (200, 100, 0, 0))
    palette = Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4)
    clear = Image.new("P", (8, 8), 1)
    clear.putpalette([9, 9, 9, 50, 60, 70])
    return {
        "grey.png": (Image.new("L", (8, 8), 90), (90,)),
        "bits.png": (Image.new("1", (8, 8), 1), (255,)),
        "wide.png": (Image.fromarray(np.full((8, 8), 100 * 257, np.uint16)), (100,)),
        "grey_alpha.png": (Image.new("LA", (8, 8), (90, 0)), (255,)),
        "transparent.png": (half, (255, 255, 255)),
        "half.png": (Image.new("RGBA", (8, 8), (0, 0, 0, 51)), (204, 204, 204)),
        "palette.png": (palette, (10, 200, 30)),
        "clear_palette.gif": (clear, (50, 60, 70)),
        "print.tif": (Image.new("CMYK", (8, 8), (0, 0, 0, 255)), (0, 0, 0)),
    }


@pytest.mark.parametrize("name", modes())
def test_every_mode(tmp_path: Path, name: str) -> None:
    image, colour = modes()[name]
    for part in ("train", "test"):
        for label in ("a", "b"):
            for i in range(2):
                save(tmp_path / part / label / f"{i}{name}", image)
    pixels = read(tmp_path).test.images
    assert pixels.shape == (4, len(colour), 8, 8)
    np.testing.assert_array_equal(pixels, np.broadcast_to(np.array(colour).reshape(1, -1, 1, 1), pixels.shape))


def test_transparent_palette_is_put_on_white(tmp_path: Path) -> None:
    clear = Image.new("P", (8, 8), 1)
    clear.putpalette([9, 9, 9, 50, 60, 70])
    for i in range(4):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", clear, transparency=1)
    assert read(tmp_path).train.images.min() == 255


def test_grey_and_colour_together_become_colour_and_can_be_made_grey(tmp_path: Path) -> None:
    two_classes(tmp_path)
    save(tmp_path / "ant" / "grey.png", noise(10, 10))
    assert read(tmp_path, image_size=8).image_channels == 3
    assert read(tmp_path, image_size=8, image_channels=1).image_channels == 1


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    two_classes(tmp_path)
    before = read(tmp_path, image_size=8).fingerprint
    for junk in ("ant/.hidden.png", ".git/x.png", "ant/.cache/x.png", "ant/notes.txt", "read_me.md"):
        (tmp_path / junk).parent.mkdir(exist_ok=True)
        (tmp_path / junk).write_bytes(b"no picture")
    assert read(tmp_path, image_size=8).fingerprint == before


def test_turned_photographs_are_turned_upright(tmp_path: Path) -> None:
    upright = noise(8, 8)
    exif = Image.Exif()
    exif[0x0112] = 3  # taken upside down
    for i in range(4):
        save(tmp_path / "ab"[i % 2] / f"{i}.png", upright[::-1, ::-1].copy(), exif=exif)
    np.testing.assert_array_equal(read(tmp_path).train.images[0, 0], upright)


@pytest.mark.parametrize("kind", ["truncated", "nonsense", "empty", "float"])
def test_a_broken_picture_is_named(tmp_path: Path, kind: str) -> None:
    broken = save(two_classes(tmp_path) / "bee" / "broken.png", noise(64, 64, 3))
    if kind == "float":
        broken.unlink()
        broken = save(tmp_path / "bee" / "broken.tif", Image.fromarray(np.zeros((9, 9), np.float32)))
    else:
        content = {"truncated": broken.read_bytes()[:2000], "nonsense": b"nonsense", "empty": b""}
        broken.write_bytes(content[kind])
    with pytest.raises(
        UserError, match=r"1 of 13 pictures in .* cannot be read: bee/broken\.\w+ \(.+\): replace or remove it"
    ) as error:
        read(tmp_path, image_size=8)
    assert "\n" not in str(error.value)


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 0 class folders"):
        read(tmp_path)
    save(tmp_path / "ant" / "0.png", noise(8, 8))
    with pytest.raises(UserError, match="holds 1 class folders"):
        read(tmp_path)
    (tmp_path / "bee").mkdir()
    with pytest.raises(UserError, match=r"pictures of one class only, 'ant'"):
        read(tmp_path)
    (tmp_path / "bee" / "0.heic").touch()
    with pytest.raises(UserError, match=r"class folder .*bee holds no picture, only 1 file of another kind \(.heic\)"):
        read(tmp_path)
    two_classes(tmp_path / "parts" / "test")
    with pytest.raises(UserError, match="holds test/ but no train folder: add train/"):
        read(tmp_path / "parts")
    with pytest.raises(UserError, match=r"is a file; data.name=folder"):
        read(tmp_path / "ant" / "0.png")


def test_pictures_without_class_folders_are_an_unlabelled_set(tmp_path: Path) -> None:
    for i in range(10):
        save(tmp_path / "flat" / f"{i}.png", noise(8, 8, 3))
        save(tmp_path / "parts" / "train" / f"{i}.png", noise(8, 8, 3))
    save(tmp_path / "parts" / "test" / "0.png", noise(8, 8, 3))
    flat, parts = read(tmp_path / "flat"), read(tmp_path / "parts")
    assert (flat.unlabelled, flat.classes, flat.class_names) == (True, None, ())
    assert [len(flat.train), len(flat.val), len(flat.test)] == [7, 1, 2]
    assert [len(parts.train), len(parts.val), len(parts.test)] == [9, 1, 1]
    save(tmp_path / "parts" / "test" / "ant" / "0.png", noise(8, 8, 3))
    with pytest.raises(UserError, match=r"test/ant is a class folder, but the training images have none"):
        read(tmp_path / "parts")
