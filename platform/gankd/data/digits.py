"""The built-in sets: scikit-learn's 1,797 handwritten digits, and the same turned by an angle (a regression task)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from gankd.data.dataset import Source, Split
from gankd.data.resize import each_picture, set_size
from gankd.data.splits import cut

TEST_FRACTION, TEST_SEED = 1 / 3, 1797
ORIGINS = {"test": "a third, always the same"}

# Digits that cannot be taken for a turned copy of themselves or of each other.
TURNED_DIGITS = (2, 3, 4, 5, 7)
COPIES, MAX_ANGLE, ANGLE_SIZE = 3, 90.0, 32


def _digits() -> Split:
    table = _table()
    images = np.round(table[:, :64] * (255 / 16)).astype(np.uint8)
    return Split(images.reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64))


def _table() -> np.ndarray:
    """(1797, 65): 64 pixels 0..16 and the digit."""
    # Importing sklearn.datasets takes seconds in every worker; the file inside the package takes 0.05 s to read.
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    file = Path(folders[0], "datasets", "data", "digits.csv.gz") if folders else None
    if file and file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.column_stack([bunch.data, bunch.target])


def read_digits() -> Source:
    """8 x 8 grey images (N, 1, 8, 8) of 10 classes; a third, always the same and stratified, is the test part."""
    digits = _digits()
    rest, held = cut(digits.labels, TEST_FRACTION, TEST_SEED)
    return Source(digits.take(rest), digits.take(held), class_names=tuple("0123456789"), origins=ORIGINS)


def read_digits_angle() -> Source:
    """Digits 2, 3, 4, 5 and 7 at 32 x 32, three copies each, turned by uniform angles: the label, in degrees.

    Positive is counter-clockwise. All copies of a digit lie in one part: `groups` numbers the digit a copy comes from.
    """
    digits = _digits()
    digits = digits.take(np.flatnonzero(np.isin(digits.labels, TURNED_DIGITS)))
    rest, held = cut(digits.labels, TEST_FRACTION, TEST_SEED)
    # One stream for the whole set, drawn before the cut: an angle belongs to its digit, not to the split.
    angles = np.random.Generator(np.random.PCG64(TEST_SEED)).uniform(-MAX_ANGLE, MAX_ANGLE, (len(digits), COPIES))
    train, test = (_turned(digits.images[part], angles[part].astype(np.float32)) for part in (rest, held))
    span, groups = (-MAX_ANGLE, MAX_ANGLE), np.repeat(rest, COPIES)
    return Source(train, test, label_unit="degree", label_range=span, groups=groups, origins=ORIGINS)


def _turned(images: np.ndarray, angles: np.ndarray) -> Split:
    """Images (N, 1, 8, 8) and angles (N, COPIES) in degrees -> N * COPIES turned images."""
    from PIL import Image

    labels = angles.ravel()
    large = np.repeat(set_size(images, ANGLE_SIZE), COPIES, axis=0)
    turned = each_picture(large, lambda i, picture: picture.rotate(float(labels[i]), Image.Resampling.BICUBIC))
    return Split(turned, labels)
