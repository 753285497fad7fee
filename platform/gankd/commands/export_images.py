"""`gankd export --stage`: the images that a stage made, as HDF5 in cGAN-KD's layout or as a folder of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gankd.commands.export import prepare_folder
from gankd.commands.network import json_tag
from gankd.data import DataConfig, load
from gankd.errors import UserError
from gankd.store import Store
from gankd.store.storage import KEY
from gankd.tracking.model_registry import version_tags
from gankd.tracking.tracker import Tracker

IMAGES, LABELS = "images.npy", "labels.npy"
CHUNK = 1000  # images in memory at a time


def export_images(model: str, stage: str, kind: str, out: Path, storage: str) -> str:
    """Write the images of a stage of the trial behind a registered model to the new folder `out`; a sentence about them.

    Raises UserError for an unknown model, a stage without labelled images, an artifact that is not in the store, and for a
    folder of pictures whose labels are no classes.
    """
    tags = version_tags(Tracker.default_uri(Path.cwd()), model)
    key = json_tag(tags, "gankd.keys", model).get(stage, "")
    artifact = Store(storage).get(key) if isinstance(key, str) and KEY.fullmatch(key) else None
    if artifact is None:
        raise UserError(f"the trial of {model!r} has no stage {stage!r} in the store {storage}; give its sweep's --storage")
    if not {IMAGES, LABELS} <= artifact.manifest["files"].keys():
        raise UserError(f"the stage {stage!r} has made no images with labels; it made {', '.join(artifact.manifest['files'])}")
    images, labels = artifact.array(IMAGES), artifact.array(LABELS)
    prepare_folder(out)
    if kind == "hdf5":
        _write_hdf5(images, labels, out / "images.h5")
    else:
        data = load(DataConfig(**json_tag(tags, "gankd.data_config", model)))
        if data.classes is None:
            raise UserError(f"a folder of pictures has a folder for each class, and {data.name} has none; take --format hdf5")
        names = data.class_names or tuple(map(str, range(data.classes)))
        _write_pictures(images, labels, names, out)
    return f"wrote {len(labels):,} images of {key} to {out}"


def _write_hdf5(images: Any, labels: Any, path: Path) -> None:
    """fake_images uint8 (N, C, H, W) and fake_labels (N,)."""
    import h5py

    with h5py.File(path, "w") as file:
        rows = file.create_dataset("fake_images", images.shape, images.dtype, chunks=True, compression="gzip")
        for start in range(0, len(images), CHUNK):
            rows[start : start + CHUNK] = images[start : start + CHUNK]
        file.create_dataset("fake_labels", data=labels)


def _write_pictures(images: Any, labels: Any, names: tuple[str, ...], out: Path) -> None:
    """<class>/<row>.png, as gankd and torchvision read an image folder."""
    from PIL import Image

    for name in names:
        (out / name).mkdir()
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(out / names[int(label)] / f"{row:06}.png")
