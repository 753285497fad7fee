"""Methods side by side on a data set: students, their controls, and generators, the best sweep of each method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from gankd.config import nearest
from gankd.data import NAMES
from gankd.errors import UserError
from gankd.tracking.model_registry import compare
from gankd.tracking.tracker import Tracker

# Heading -> metric of a sweep's run: accuracies in percent on the part that is named.
STUDENT = {
    "student val": "val/student",
    "student test": "test/student",
    "control test": "test/control",
    "gain": "gain",
    "baseline test": "test/baseline",
    "teacher test": "test/teacher",
}
# Of generators, on the validation part, in the features of an extractor whose name follows the metric's.
GENERATOR = {"FID": "fid", "KID": "kid", "intra-FID": "intra_fid", "precision": "precision", "recall": "recall"}


def comparison(dataset: str) -> Group:
    """The methods' students, and what their generators make. Raises UserError when no sweep on this data set has finished."""
    if dataset not in NAMES:
        raise UserError(f"unknown data set {dataset!r}{nearest(dataset, NAMES)} (known: {', '.join(NAMES)})")
    uri = Tracker.default_uri(Path.cwd())
    rows = compare(uri, dataset)
    if not rows:
        raise UserError(f"no finished sweep on data set {dataset!r} is tracked at {uri}")
    tables = []
    students = [row for row in rows if "val/student" in row["metrics"]]
    if students:
        tables.append(side_by_side(f"students on {dataset}: best sweep of each method, chosen on validation", STUDENT, students))
    columns = generator_columns(rows)
    makers = [row for row in rows if columns.keys() and any(name in row["metrics"] for name in columns.values())]
    if makers:
        if any(row not in students for row in makers):
            columns["gain"] = "gain"
        # A method with a student has its gain beside that.
        shown = [row | {"metrics": row["metrics"] | ({"gain": None} if row in students else {})} for row in makers]
        tables.append(side_by_side(f"generated images on {dataset}, against validation images", columns, shown))
    return Group(*tables, *notes(rows))


def side_by_side(title: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each method, a column for each metric that some of them have."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("method", no_wrap=True)
    shown = {heading: name for heading, name in columns.items() if any(row["metrics"].get(name) is not None for row in rows)}
    for heading in shown:
        table.add_column(escape(heading), justify="right")
    table.add_column("sweep", overflow="fold")
    for row in rows:
        values = {name: row["metrics"].get(name) for name in shown.values()}
        cells = [_number(value, "+" if name == "gain" else "") for name, value in values.items()]
        table.add_row(row["method"], *cells, row["sweep"])
    return table


def generator_columns(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """`FID [classifier]` -> `generator/fid_classifier`, and so on, for what some row has, extractor by extractor."""
    found = {name for row in rows for name in row["metrics"]}
    extractors = sorted(name.removeprefix("generator/fid_") for name in found if name.startswith("generator/fid_"))
    columns = {f"{title}\n[{e}]": f"generator/{metric}_{e}" for e in extractors for title, metric in GENERATOR.items()}
    return {title: name for title, name in columns.items() if name in found}


def notes(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """What keeps numbers of different rows from being compared, and what a gain is."""
    said = ["gain: over the method's control, positive where it helps; on test where both are scored there, else on validation."]
    if len({row["data"] for row in rows}) > 1:
        said.append("These sweeps did not all read the same images: their data fingerprints differ.")
    if len({row["feature_classifier"] for row in rows if row["feature_classifier"]}) > 1:
        said.append("The classifier in whose features images are compared is not the same in all rows.")
    return said


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3g}" if abs(value) < 10 else f"{value:{sign}.2f}"
