"""The knobs of the data: which set, at which size, how much of it, and how it is split."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from gankd.errors import UserError

VISION = ("mnist", "fashion_mnist", "cifar10", "cifar100", "svhn", "stl10")
FILES = ("folder", "hdf5", "npz", "cifar_binary", "idx")
NAMES = ("digits", "digits_angle", *VISION, *FILES)


def _about(unit: str, origin: str = "ours") -> dict[str, Any]:
    return {"unit": unit, "origin": origin}


class DataConfig(BaseModel):
    """Which images a run uses. Two configs that lead to the same bytes give the same fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field("digits", description=f"data set: {', '.join(NAMES)}", json_schema_extra=_about(""))
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
        description="labelled training images to use, drawn class-balanced by split_seed; null uses all",
        json_schema_extra=_about("images"),
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
    download: bool = Field(False, description="may the set be downloaded if it is not there", json_schema_extra=_about(""))

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(f"unknown data set {name!r}{hint} (known: {', '.join(NAMES)})")
        return name
