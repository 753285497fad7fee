"""Names under which image and label arrays are found in HDF5 and npz files."""

from __future__ import annotations

from collections.abc import Collection

from gankd.errors import UserError

# (images, labels) pairs of each part, the first that is there counts. `images_train`, `images_valid` and `fake_images`
# are cGAN-KD's names, `x_train` Keras's.
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("images_train", "labels_train"),
        ("x_train", "y_train"),
        ("train_images", "train_labels"),
        ("fake_images", "fake_labels"),
        ("images", "labels"),
    ),
    "val": (
        ("images_valid", "labels_valid"),
        ("images_val", "labels_val"),
        ("x_val", "y_val"),
        ("val_images", "val_labels"),
    ),
    "test": (("images_test", "labels_test"), ("x_test", "y_test"), ("test_images", "test_labels")),
}


def find_pairs(keys: Collection[str], where: str) -> dict[str, tuple[str, str | None]]:
    """Part -> keys of its images and labels among `keys`; labels None in all parts where there are no labels at all.

    UserError without training images, or where some labels are there and others are not.
    """
    found: dict[str, tuple[str, str | None]] = {}
    labels_known = any(labels in keys for pairs in PAIRS.values() for _, labels in pairs)
    for part, pairs in PAIRS.items():
        pair = next((pair for pair in pairs if pair[0] in keys), None)
        if pair is None:
            continue
        if labels_known and pair[1] not in keys:
            raise UserError(f"{where} holds {pair[0]!r} but not {pair[1]!r}: add the labels under that name")
        found[part] = pair if labels_known else (pair[0], None)
    if "train" not in found:
        names = ", ".join(sorted(keys)[:8]) or "nothing"
        wanted = ", ".join(f"{images}/{labels}" for images, labels in PAIRS["train"])
        raise UserError(f"{where} holds no training images: found {names}; wanted one of {wanted}")
    return found
