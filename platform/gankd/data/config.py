"""The knobs of the data: which set, at which size, how much of it, and how it is split."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gankd.errors import UserError

VISION = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10")
FILES = ("folder", "hdf5", "npz", "cifar_binary", "idx")
NAMES = ("digits", "digits_angle", *VISION, *FILES)

TITLE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
# What half of all folders and files are called: alone it tells no set from another.
COMMON = {"data", "dataset", "images", "pictures", "raw", "train", "training", "val", "valid", "validation", "test"}


def _about(unit: str, origin: str = "ours") -> dict[str, Any]:
    return {"unit": unit, "origin": origin}


class DataConfig(BaseModel):
    """Which images a run uses. Two configs that lead to the same bytes give the same fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("digits", description=f"data set: {', '.join(NAMES)}", json_schema_extra=_about(""))
    title: str | None = Field(
        None,
        description="what the set is called in experiments, models and comparisons; null = as its folder or file",
        json_schema_extra=_about(""),
    )
    path: str | None = Field(
        None,
        description="file or folder of the user's own data, or the folder that holds the downloaded sets",
        json_schema_extra=_about("path"),
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=512,
        description="side of the square images; null keeps the set's own",
        json_schema_extra=_about("pixels"),
    )
    image_channels: Literal[1, 3] | None = Field(
        None, description="1 (grey) or 3 (RGB); null keeps the set's own", json_schema_extra=_about("channels")
    )
    train_images: int | None = Field(
        None,
        ge=2,
        description="labelled training images to use, drawn as train_draw says; null uses all",
        json_schema_extra=_about("images"),
    )
    train_draw: Literal["balanced", "uniform"] = Field(
        "balanced",
        description="train_images by split_seed: equally many of each class, or uniform over all before the validation part is "
        "cut, as the data-limited GAN papers do (their images exactly, where the set has no validation part)",
        json_schema_extra=_about(""),
    )
    val_fraction: float = Field(
        0.1,
        ge=0.02,
        le=0.5,
        description="part of the training images kept for validation when the set has no validation part",
        json_schema_extra=_about("fraction"),
    )
    split_seed: int = Field(
        0, ge=0, lt=2**31, description="seed of the validation split and of train_images", json_schema_extra=_about("")
    )
    skip_broken: bool = Field(
        False, description="go on without the pictures of a folder that cannot be read", json_schema_extra=_about("")
    )
    download: bool = Field(False, description="may the set be downloaded if it is not there", json_schema_extra=_about(""))

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"unknown data set {name!r}{hint} (known: {', '.join(NAMES)})")
        return name

    @field_validator("title")
    @classmethod
    def _safe(cls, title: str | None) -> str | None:
        if title is not None and not TITLE.fullmatch(title):
            raise UserError(
                f"data.title cannot be {title!r}: it names folders, experiments and models, so it holds 1 to 60 ASCII letters, "
                f"digits, '.', '_' and '-' and starts with a letter or digit; {safe_title(title)!r} would do"
            )
        return title

    @field_validator("path")
    @classmethod
    def _a_place(cls, path: str | None) -> str | None:
        if path is None:
            return None
        if not path.strip() or "\0" in path:
            raise UserError(f"data.path cannot be {path!r}: give a file or folder, or null where the set needs none")
        try:
            Path(path).expanduser()
        except RuntimeError:
            raise UserError(f"data.path {path!r} begins with a user that this machine does not know") from None
        return path

    @property
    def dataset(self) -> str:
        """What the set is called where results are kept: its title, else the name of the user's files, else its own name."""
        if self.title is not None:
            return self.title
        if self.name not in FILES or self.path is None:
            return self.name
        path = Path(os.path.abspath(Path(self.path).expanduser()))  # not resolved: a link's name is the user's choice
        called = path.stem if self.name in ("hdf5", "npz") else path.name
        if called.lower() in COMMON and path.parent.name:
            called = f"{path.parent.name}-{called}"
        title = safe_title(called)
        return f"{title}-{self.name}"[:60] if title.lower() in NAMES else title


def safe_title(text: str) -> str:
    """`text` as a `data.title`. Where letters have no ASCII form, a few hex digits keep different texts different."""
    plain = unicodedata.normalize("NFKD", text)
    lost = any(char.isalnum() and not char.isascii() for char in plain)
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", plain.encode("ascii", "ignore").decode()).strip("._-")
    if lost or not safe or len(safe) > 60:
        mark = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:6]
        safe = f"{safe[:53]}-{mark}" if safe else f"data-{mark}"
    return safe
