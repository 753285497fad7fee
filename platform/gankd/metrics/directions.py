"""Which way a metric is better: a property of the metric, not of who looks at it."""

from __future__ import annotations

from typing import Literal

Direction = Literal["max", "min"]

# By the metric's own name; the extractor's, and the part of the data, stand around it: "val_accuracy", "fid_classifier".
DIRECTIONS: dict[str, Direction] = {
    "accuracy": "max",
    "average_accuracy": "max",
    "best_val_accuracy": "max",
    "class_accuracy": "max",
    "coverage": "max",
    "density": "max",
    "fid": "min",
    "forgetting": "min",
    "intra_fid": "min",
    "is": "max",
    "kid": "min",
    "kmmd": "min",
    "label_score": "min",
    "loss": "min",
    "mae": "min",
    "mmd2_u": "min",
    "precision": "max",
    "recall": "max",
    "sfid": "min",
    "top5": "max",
}
PARTS = ("val_", "test_")


def direction(metric: str) -> Direction | None:
    """Of `<stage>/<metric>` or `<metric>`; None for one that has no better and worse (a count, a time)."""
    name = metric.rpartition("/")[2]
    for part in PARTS:
        name = name.removeprefix(part)
    known = [known for known in DIRECTIONS if name == known or name.startswith(f"{known}_")]
    return DIRECTIONS[max(known, key=len)] if known else None


def is_better(metric: str, value: float, than: float) -> bool:
    """Whether one value of a metric is better than another; False for a metric without a direction."""
    way = direction(metric)
    return value > than if way == "max" else value < than if way == "min" else False
