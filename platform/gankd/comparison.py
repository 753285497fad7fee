"""Methods side by side on a data set: students, their controls, and generators, the best sweep of each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from gankd.config import nearest
from gankd.data import NAMES
from gankd.errors import UserError
from gankd.model_registry import compare
from gankd.tracking import Tracker

# Heading -> metric of a sweep's run: accuracies in percent on the part that is named.
STUDENT = {
    "student val": "val/student",
    "student test": "test/student",
    "control test": "test/control",
    "baseline test": "test/baseline",
    "teacher test": "test/teacher",
}
# Of generators, on the validation part, in the features of an extractor whose name follows the metric's.
GENERATOR = {"FID": "fid", "KID": "kid", "intra-FID": "intra_fid", "precision": "precision", "recall": "recall"}


def comparison(dataset: str) -> Table:
    """A row for each method. Raises UserError when no sweep on this data set has finished."""
    if dataset not in NAMES:
        raise UserError(f"unknown data set {dataset!r}{nearest(dataset, NAMES)} (known: {', '.join(NAMES)})")
    uri = Tracker.default_uri(Path.cwd())
    rows = compare(uri, dataset)
    if not rows:
        raise UserError(f"no finished sweep on data set {dataset!r} is tracked at {uri}")
    table = Table(title=f"methods on {dataset}: best sweep of each, chosen on validation", title_justify="left")
    columns = STUDENT | generator_columns(rows)
    shown = {title: metric for title, metric in columns.items() if any(metric in row["metrics"] for row in rows)}
    table.add_column("method")
    for title in shown:
        table.add_column(title, justify="right")
    table.add_column("gain", justify="right")
    table.add_column("sweep")
    for row in rows:
        values = [row["metrics"].get(metric) for metric in shown.values()]
        table.add_row(row["method"], *map(_number, values), _number(row["gain"], "+"), row["sweep"])
    table.caption = " ".join(notes(rows))
    return table


def generator_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`FID[classifier]` -> `generator/fid_classifier`, and so on, for what some row has, extractor by extractor."""
    found = {name for row in rows for name in row["metrics"]}
    extractors = sorted(name.removeprefix("generator/fid_") for name in found if name.startswith("generator/fid_"))
    columns = {f"{title}[{e}]": f"generator/{metric}_{e}" for e in extractors for title, metric in GENERATOR.items()}
    return {title: name for title, name in columns.items() if name in found}


def notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What keeps numbers of different rows from being compared."""
    said = ["gain: over the method's control, on test where both are scored there, else on validation."]
    if len({row["data"] for row in rows}) > 1:
        said.append("These sweeps did not all read the same images: their data fingerprints differ.")
    if len({row["judge"] for row in rows if row["judge"]}) > 1:
        said.append("[classifier] is not the same classifier in all rows.")
    return said


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3g}" if abs(value) < 10 else f"{value:{sign}.2f}"
