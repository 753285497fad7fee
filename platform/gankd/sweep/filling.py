"""Filling a table: every row, over seeds, is brought about and measured, on the test part where the table says so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from gankd.errors import UserError
from gankd.metrics.directions import direction
from gankd.metrics.paired import Paired, paired
from gankd.pictures import as_png, line
from gankd.pipeline import Job, Pipeline
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.jobs import Cluster, Outcome, bring_about
from gankd.sweep.plan import Sweep
from gankd.sweep.seeds import seed_note
from gankd.sweep.table import Row, TableSpec
from gankd.sweep.tables import interval, mean_and_deviation, verdict


@dataclass(frozen=True)
class Filled:
    """A row with what was measured.

    Attributes:
        values: heading -> seed -> value; a seed that failed is missing.
        difference: its first metric less the reference's, seed by seed, positive where it is better; None without reference.
        failures: why seeds are missing.
    """

    row: Row
    values: Mapping[str, Mapping[int, float]]
    difference: Paired | None = None
    failures: tuple[str, ...] = ()

    def mean(self, heading: str) -> float:
        """Over seeds; NaN for none."""
        values = self.values[heading].values()
        return fmean(values) if values else math.nan


def fill(sweep: Sweep, spec: TableSpec, cluster: Cluster) -> list[Filled]:
    """All rows, for the sweep's own seed or, when several are asked for, for those after it, which chose nothing.

    The rows of a seed run one after the other and find in the store what they share.
    """
    seeds, repetitions = sweep.request.seeds, _repetitions(sweep)
    jobs = [[_job(sweep, spec, number, repetition) for number in range(len(spec.rows))] for repetition in repetitions]
    if seeds:
        outcomes = bring_about(sweep, jobs, cluster, tracked=True)
    else:  # what the rows share has been made
        outcomes = [[outcome for (outcome,) in bring_about(sweep, [[job] for job in jobs[0]], cluster, tracked=True)]]
    first = sweep.config.seed
    filled = [
        _filled(spec, row, {first + repetition: outcomes[place][number] for place, repetition in enumerate(repetitions)})
        for number, row in enumerate(spec.rows)
    ]
    return _compared(spec, filled)


def _repetitions(sweep: Sweep) -> range:
    return range(1, sweep.request.seeds + 1) if sweep.request.seeds else range(1)


def _job(sweep: Sweep, spec: TableSpec, number: int, repetition: int) -> Job:
    row = spec.rows[number]
    job = sweep.job(row.knobs, f"seed{sweep.config.seed + repetition}-row{number + 1}", spec.stages_of(row))
    return replace(job, repetition=repetition)


def _filled(spec: TableSpec, row: Row, outcomes: Mapping[int, Outcome]) -> Filled:
    metrics = spec.metrics_of(row)
    values = {
        heading: {seed: o.metrics[metrics[heading]] for seed, o in outcomes.items() if metrics.get(heading) in o.metrics}
        for heading in spec.metrics
    }
    return Filled(row, values, None, tuple(f"seed {seed}: {o.failure}" for seed, o in outcomes.items() if o.failure))


def _compared(spec: TableSpec, filled: list[Filled]) -> list[Filled]:
    """The rows with their differences to the reference, in the first metric."""
    if spec.reference is None:
        return filled
    heading, metric = next(iter(spec.metrics.items()))
    sign = -1 if direction(metric) == "min" else 1
    theirs = next(each for each in filled if each.row.labels == spec.reference).values[heading]

    def compared(each: Filled) -> Filled:
        ours = each.values[heading]
        differences = [sign * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs]
        return replace(each, difference=paired(differences)) if differences and each.row.labels != spec.reference else each

    return [compared(each) for each in filled]


def headings(spec: TableSpec) -> list[str]:
    """Of the whole table, in order."""
    paper = dict.fromkeys(heading for row in spec.rows for heading in row.paper)
    compared = [] if spec.reference is None else ["difference, 95 % interval", ""]
    return [*spec.columns, *spec.metrics, *compared, *(f"paper: {heading}" for heading in paper)]


def cells(spec: TableSpec, each: Filled) -> list[str]:
    """A row's texts, one for each heading."""
    paper = dict.fromkeys(heading for row in spec.rows for heading in row.paper)
    values = [mean_and_deviation(list(each.values[heading].values())) for heading in spec.metrics]
    compared = [] if spec.reference is None else ["the reference", ""] if each.row.labels == spec.reference else _difference(each)
    return [*each.row.labels, *values, *compared, *(_paper(each.row.paper.get(heading)) for heading in paper)]


def _difference(each: Filled) -> list[str]:
    p = each.difference
    said = [verdict(p)] if p is not None and p.count > 1 else []
    return ["" if p is None else interval(p), "; ".join([*said, *each.failures])]


def _paper(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else f"{value:.2f}"


def shown(sweep: Sweep, spec: TableSpec, filled: list[Filled]) -> Table:
    """The table as the terminal shows it."""
    note = seed_note(sweep) if sweep.request.seeds else f"seed {sweep.config.seed}"
    table = Table(title=f"{spec.title}; {sweep.dataset}, {note}", title_justify="left")
    for place, heading in enumerate(headings(spec)):
        table.add_column(heading, justify="left" if place < len(spec.columns) or not heading else "right", overflow="fold")
    for each in filled:
        table.add_row(*cells(spec, each))
    return table


def markdown(sweep: Sweep, spec: TableSpec, filled: list[Filled]) -> str:
    """The table as text for a page."""
    rows = [headings(spec), ["---"] * len(headings(spec)), *(cells(spec, each) for each in filled)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    note = seed_note(sweep) if sweep.request.seeds else f"seed {sweep.config.seed}"
    return f"# {spec.title}\n\n{sweep.dataset}; {note}.\n\n{lines}\n"


def record_table(sweep: Sweep, spec: TableSpec, filled: list[Filled], events: EventWriter, console: Console) -> None:
    """Show the table, keep it with the sweep's run, and write its picture where it has one."""
    values = {
        f"table/{each.row.name}/{heading}": each.mean(heading)
        for each in filled
        for heading in spec.metrics
        if each.values[heading]
    }
    events.emit("metrics", step=0, values=values)
    events.emit("text", name=f"tables/{Path(sweep.request.table or '').stem}.md", text=markdown(sweep, spec, filled))
    console.print(shown(sweep, spec, filled))
    for sentence in _notes(sweep, spec):
        console.print(sentence, markup=False)
    for each in filled:
        for failure in each.failures:
            console.print(f"{each.row.name}: {failure}", markup=False)
    if spec.plot:
        picture, out = plotted(spec, filled), Path(f"{sweep.name}.png")
        picture.save(out)
        events.emit("image", name="table", step=0, png=as_png(picture))
        console.print(f"wrote {out}", markup=False)
    events.flush()
    if not values:
        reason = next((failure for each in filled for failure in each.failures), "no stage reported what the table asks for")
        raise UserError(f"no row of the table could be filled: {reason}")


def _notes(sweep: Sweep, spec: TableSpec) -> list[str]:
    """What the stages of the rows say of their artifacts, each sentence once: who taught, what had been seen."""
    said = dict[str, None]()
    for manifest in manifests(sweep, spec).values():
        said |= dict.fromkeys(manifest.get("notes", []))
    return list(said)


def manifests(sweep: Sweep, spec: TableSpec) -> dict[str, dict[str, Any]]:
    """Key -> manifest of all that the rows were filled with, as far as it is there."""
    store, found = Store(sweep.storage), dict[str, dict[str, Any]]()
    for number, repetition in itertools.product(range(len(spec.rows)), _repetitions(sweep)):
        pipeline = Pipeline(_job(sweep, spec, number, repetition))
        for stage in pipeline.method.needed(pipeline.job.stages, pipeline.config):
            key = pipeline.keys[stage]
            if key not in found and (manifest := store.manifest(key)):
                found[key] = manifest
    return found


def plotted(spec: TableSpec, filled: list[Filled]) -> Any:
    """Two columns of the table against each other, a point a row, as a PIL picture."""
    assert spec.plot is not None
    x, y = spec.plot.x, spec.plot.y
    points = [(each.mean(x), each.mean(y), each.row.name) for each in filled]
    return line(points, x, y, log_x=spec.plot.log_x, title=spec.title)
