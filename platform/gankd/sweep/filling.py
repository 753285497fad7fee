"""Filling a table: every row, over seeds, is brought about and measured, on the test part where the table says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gankd.errors import UserError
from gankd.pictures import as_png, line
from gankd.pipeline import Job
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.filled import FilledTable, filled_table, needed_manifests, row_trial, seed_note
from gankd.sweep.jobs import Cluster, bring_about
from gankd.sweep.plan import Sweep
from gankd.sweep.report import sweep_report
from gankd.sweep.table import TableSpec


def fill(sweep: Sweep, spec: TableSpec, cluster: Cluster) -> FilledTable:
    """All rows, for the sweep's own seed or, when several are asked for, for those after it, which chose nothing.

    The rows of a seed run one after the other and find in the store what they share.
    """
    seeds, repetitions = sweep.request.seeds, _repetitions(sweep)
    jobs = [[_job(sweep, spec, number, repetition) for number in range(len(spec.rows))] for repetition in repetitions]
    if seeds:
        outcomes = bring_about(sweep, jobs, cluster, tracked=True)
    else:  # what the rows share has been made
        outcomes = [[outcome for (outcome,) in bring_about(sweep, [[job] for job in jobs[0]], cluster, tracked=True)]]
    by_row = [
        {sweep.config.seed + repetition: outcomes[place][number] for place, repetition in enumerate(repetitions)}
        for number in range(len(spec.rows))
    ]
    return filled_table(spec, by_row, needed_manifests(Store(sweep.storage), by_row))


def _repetitions(sweep: Sweep) -> range:
    return range(1, sweep.request.seeds + 1) if sweep.request.seeds else range(1)


def _job(sweep: Sweep, spec: TableSpec, number: int, repetition: int) -> Job:
    row = spec.rows[number]
    job = sweep.job(row.knobs, row_trial(sweep.config.seed + repetition, number), spec.stages_of(row))
    return replace(job, repetition=repetition)


def record_table(sweep: Sweep, filled: FilledTable, events: EventWriter, console: Console) -> None:
    """Show the table, keep it and its report with the sweep's run, and write its picture where it has one."""
    spec = filled.spec
    values = {
        f"table/{each.row.name}/{heading}": each.mean(heading)
        for each in filled.rows
        for heading in spec.metrics
        if each.values[heading]
    }
    note = seed_note(sweep.method, filled.seeds) if sweep.request.seeds else f"seed {sweep.config.seed}"
    events.emit("metrics", step=0, values=values)
    text = filled.markdown(spec.title, f"{sweep.dataset}; {note}")
    events.emit("text", name=f"tables/{Path(sweep.request.table or '').stem}.md", text=text)
    console.print(filled.grid(f"{spec.title}; {sweep.dataset}, {note}"))
    for sentence in filled.stage_notes():
        console.print(sentence, markup=False)
    for each in filled.rows:
        for failure in each.failures:
            console.print(f"{each.row.name}: {failure}", markup=False)
    if spec.plot:
        picture, out = plotted(filled), Path(f"{sweep.name}.png")
        picture.save(out)
        events.emit("image", name="table", step=0, png=as_png(picture))
        console.print(f"wrote {out}", markup=False)
    events.flush()
    events.emit("text", name="report.html", text=sweep_report(sweep.storage, sweep.name, spec))
    events.flush()
    if not values:
        failures = (failure for each in filled.rows for failure in each.failures)
        raise UserError(f"no row of the table could be filled: {next(failures, 'no stage reported what the table asks for')}")


def plotted(filled: FilledTable) -> Any:
    """Two columns of the table against each other, a point a row, as a PIL picture."""
    plot = filled.spec.plot
    assert plot is not None
    points = [(each.mean(plot.x), each.mean(plot.y), each.row.name) for each in filled.rows]
    return line(points, plot.x, plot.y, log_x=plot.log_x, title=filled.spec.title)
