"""`gankd status`: a sweep, running or not, seen from another terminal: from its records, events and leases alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from gankd.metrics.directions import is_better
from gankd.registry import find_method
from gankd.store.events import EventReader
from gankd.store.lease import holder, newest
from gankd.store.root import open_root
from gankd.store.storage import Storage
from gankd.sweep.progress import StageRun, cost, follow
from gankd.sweep.records import SweepRecords, TrialRecord


def sweep_status(name: str, storage: str) -> Group:
    """Stages in training, by whom and for how long still; trials by state, and the best. Raises UserError for no such sweep."""
    records = SweepRecords(storage, name)
    request, files = records.request(), open_root(storage)
    driver = holder(newest(files, f"sweep-{name}")[1])
    trials, events = list(records.trials()), list(EventReader(records.events).all())
    running = follow(events).running
    state = f"running: {driver}" if driver else "not running"
    parts: list[Any] = [f"{escape(name)}, {escape(str(request.get('method')))}, {escape(state)}"]
    if running:
        parts.append(stages_table(running.values(), files))
    parts.append(cost(events))
    parts.append(trials_sentence(trials, request))
    if best := best_trial(trials, find_method(str(request.get("method"))).objective):
        parts.append(escape(best))
    return Group(*parts)


def stages_table(runs: Iterable[StageRun], files: Storage) -> Table:
    """A row for each stage that has begun and not ended. One whose lease nobody holds was interrupted."""
    table = Table(title="stages in training", title_justify="left")
    for heading, justify in (("stage", "left"), ("trial", "left"), ("step", "right"), ("left", "right"), ("by", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for run in sorted(runs, key=lambda run: run.started):
        by, left = holder(newest(files, run.key)[1]), run.seconds_left()
        step = f"{run.step:,}/{run.total:,}" if run.total else ""
        table.add_row(run.stage, run.trial, step, duration(left) if by and left is not None else "", by or "interrupted")
    return table


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def trials_sentence(trials: Sequence[TrialRecord], request: Mapping[str, Any]) -> str:
    """How many trials are in which state, of how many."""
    counts = Counter(record.status for record in trials)
    asked = request.get("trials")
    of = "" if request.get("table") or not isinstance(asked, int) else f" of {asked}"
    listed = ", ".join(f"{count} {status}" for status, count in sorted(counts.items())) or "none has begun"
    return f"trials{of}: {listed}"


def best_trial(trials: Sequence[TrialRecord], objective: str) -> str:
    """The best of the trials that finished, by the method's objective; empty while none has."""
    values = {
        r.trial: r.metrics[objective]
        for r in trials
        if r.status == "finished" and math.isfinite(r.metrics.get(objective, math.nan))
    }
    best = ""
    for trial, value in values.items():
        if not best or is_better(objective, value, values[best]):
            best = trial
    return f"best: trial {best}, {objective} {values[best]:.4g}" if best else ""
