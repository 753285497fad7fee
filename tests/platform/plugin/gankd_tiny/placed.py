"""A method whose stages train nothing and leave where they ran: what is placed on the nodes of a cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path

from gankd.config import MethodConfig, Section, knob
from gankd.context import Context
from gankd.data import DataSet
from gankd.method import Method, Stage
from gankd.store.artifact import Artifact


class PlaceConfig(Section):
    """Nothing but a number to tell trials apart."""

    number: int = knob(0, "tells trials apart", origin="ours", ge=0)


class PlacedConfig(MethodConfig):
    """All knobs."""

    first: PlaceConfig = PlaceConfig()
    second: PlaceConfig = PlaceConfig()


def tell(ctx: Context, cfg: PlaceConfig, data: DataSet, **inputs: Artifact) -> dict[str, float]:
    """The process that started this one, which is its node's raylet, and the GPUs that it may use."""
    place = {"raylet": os.getppid(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
    (ctx.out / "place.json").write_text(json.dumps(place))
    return {"val_accuracy": float(cfg.number)}


METHOD = Method(
    name="placed",
    title="Placed",
    summary="stages that tell where they ran",
    config=PlacedConfig,
    stages=(
        Stage("first", "gankd_tiny.placed:tell"),
        Stage("second", "gankd_tiny.placed:tell", inputs=("first",)),
    ),
    presets=Path(__file__).parent / "presets",
    objective="second/val_accuracy",
    space="gankd_tiny.placed_space",
)
