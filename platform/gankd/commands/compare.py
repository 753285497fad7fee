"""Methods side by side on a data set: students, their controls, and generators, the best sweep of each method."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Group
from rich.markdown import Markdown

from gankd.config import nearest
from gankd.data import NAMES
from gankd.data.config import TITLE
from gankd.errors import UserError
from gankd.metrics.directions import direction, is_better
from gankd.page import Grid
from gankd.sweep.comparable import comparable_groups
from gankd.sweep.figures import figure
from gankd.tracking.client import public
from gankd.tracking.sweeps import FinishedSweep, filled_tables, finished_sweeps, tracked_datasets
from gankd.tracking.tracker import Tracker

# Heading -> metric of a sweep's run.
STUDENT = {
    "student val": "val/student",
    "student test": "test/student",
    "control test": "test/control",
    "gain": "gain",
    "baseline test": "test/baseline",
    "teacher test": "test/teacher",
}
# Of generators, on the validation part, in the features of an extractor whose name follows the metric's.
GENERATOR = {
    "FID": "fid", "KID": "kid", "intra-FID": "intra_fid", "SFID": "sfid", "label score": "label_score", "precision": "precision",
    "recall": "recall",
}  # fmt: skip
GAIN = "gain: over the control, each the best of the same trials; positive where the method helps; on test where it has one."


def comparison(dataset: str) -> Group:
    """The methods' students, what their generators make, and the newest of each table that was filled.

    Raises UserError when no sweep on this data set has finished.
    """
    sweeps, uri = sweeps_on(dataset), Tracker.default_uri(Path.cwd())
    tables: dict[str, str] = {}  # by title
    for sweep in filter(fills_a_table, sweeps):
        for page in filled_tables(uri, sweep):
            tables.setdefault(page.partition("\n")[0], page)
    return Group(*side_by_side_of(dataset, sweeps), *map(Markdown, tables.values()))


def sweeps_on(dataset: str) -> list[FinishedSweep]:
    """All finished sweeps on a data set, the newest first. Raises UserError when there is none."""
    uri = Tracker.default_uri(Path.cwd())
    sweeps = finished_sweeps(uri, dataset) if TITLE.fullmatch(dataset) else []
    if not sweeps:
        tracked = tracked_datasets(uri)
        near = nearest(dataset, [*tracked, *NAMES])
        there = f"there are sweeps on {', '.join(tracked)}" if tracked else "there are no sweeps yet"
        raise UserError(f"no finished sweep on data set {dataset!r} is tracked at {public(uri)}{near} ({there})")
    return sweeps


def side_by_side_of(dataset: str, finished: Sequence[FinishedSweep]) -> list[Grid]:
    """The tables of the best sweep of each method. None for sweeps that fill tables: these chose nothing."""
    sweeps, grids = best_of_each_method([sweep for sweep in finished if not fills_a_table(sweep)]), []
    if students := [sweep for sweep in sweeps if "val/student" in sweep.metrics]:
        title = f"students on {dataset}: best sweep of each method, chosen on validation"
        grids.append(side_by_side(title, "student", "val/student", STUDENT, students))
    columns = generator_columns(sweeps)
    if makers := [sweep for sweep in sweeps if any(name in sweep.metrics for name in columns.values())]:
        if any(sweep not in students for sweep in makers):
            columns["gain"] = "gain"  # a method with a student has its gain beside that
        title = f"generated images on {dataset}, against validation images"
        grids.append(side_by_side(title, "generator", next(iter(columns.values())), columns, makers, without_gain=students))
    if grids:
        grids[-1] = replace(grids[-1], notes=(*grids[-1].notes, GAIN))
    return grids


def fills_a_table(sweep: FinishedSweep) -> bool:
    """Whether it chose nothing and has the figures of a table's rows."""
    return any(name.startswith("table/") for name in sweep.metrics)


def best_of_each_method(sweeps: Sequence[FinishedSweep]) -> list[FinishedSweep]:
    """The best sweep of each method by its objective, among those whose objectives compare with its newest sweep's.

    `sweeps`: the newest first; it wins among equals.
    """
    best: dict[str, FinishedSweep] = {}
    for sweep in sweeps:
        holder = best.setdefault(sweep.method, sweep)
        if holder.facts.get("objective") == sweep.facts.get("objective") and holder.objective == sweep.objective:
            value, than = (found.metrics.get("objective", math.nan) for found in (sweep, holder))
            if is_better(sweep.objective, value, than):
                best[sweep.method] = sweep
    return list(best.values())


def side_by_side(
    title: str,
    of: str,
    main: str,
    columns: Mapping[str, str],
    sweeps: Sequence[FinishedSweep],
    without_gain: Sequence[FinishedSweep] = (),
) -> Grid:
    """A table with a row for each method and a column for each metric that some have, and what keeps rows from comparing.

    Rows are sorted by the metric `main` of role `of`, in that metric's direction. Rows of different letters do not compare.
    """
    letters, notes = comparable_groups([sweep.facts.get(of, {}) for sweep in sweeps])
    way = direction(str(sweeps[0].facts.get(of, {}).get("metric", main)))
    sign = 1 if way == "min" else -1
    order = sorted(range(len(sweeps)), key=lambda i: (letters[i], sign * sweeps[i].metrics.get(main, math.inf * sign)))
    shown = {heading: name for heading, name in columns.items() if any(name in sweep.metrics for sweep in sweeps)}
    headings = ("method", *([""] if notes else []), *shown, "sweep")
    rows = []
    for index in order:
        sweep = sweeps[index]
        values = {n: None if n == "gain" and sweep in without_gain else sweep.metrics.get(n) for n in shown.values()}
        cells = [figure(value, "+" if name == "gain" else "") for name, value in values.items()]
        rows.append((sweep.method, *([letters[index]] if notes else []), *cells, sweep.name))
    words = (0, *([1] if notes else []), len(headings) - 1)
    return Grid(title, headings, tuple(rows), words, tuple(notes), unbroken=(0,))


def generator_columns(sweeps: Iterable[FinishedSweep]) -> dict[str, str]:
    """`FID [classifier]` -> `generator/fid_classifier`, and so on, for what some sweep has, extractor by extractor."""
    names = {name for sweep in sweeps for name in sweep.metrics}
    extractors = sorted(name.removeprefix("generator/fid_") for name in names if name.startswith("generator/fid_"))
    columns = {f"{title}\n[{e}]": f"generator/{metric}_{e}" for e in extractors for title, metric in GENERATOR.items()}
    return {title: name for title, name in columns.items() if name in names}
