"""`gankd status`: a sweep, running or not, seen from another terminal: from its records, events and leases alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from gankd.metrics.directions import is_better
from gankd.registry import find_method
from gankd.store.events import Event, EventReader
from gankd.store.lease import holder, newest
from gankd.store.root import open_root
from gankd.store.storage import Storage
from gankd.sweep.records import SweepRecords, TrialRecord


@dataclass
class StageRun:
    """A stage that has begun: `step` of `total`, seen `at` (seconds since 1970); `first`: when and where it was first seen."""

    key: str
    stage: str
    trial: str
    started: float
    step: int = 0
    total: int = 0
    at: float = 0.0
    first: tuple[float, int] | None = None

    def seconds_left(self) -> float | None:
        """At the pace since it was first seen in this run."""
        if self.first is None or self.step <= self.first[1]:
            return None
        return (self.total - self.step) * (self.at - self.first[0]) / (self.step - self.first[1])


@dataclass
class Seen:
    """What the events of a sweep tell: the stages that have begun and not ended, and how many ended in which way."""

    running: dict[str, StageRun] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    device_seconds: float = 0.0


def sweep_status(name: str, storage: str) -> Group:
    """Stages in training, by whom and for how long still; trials by state, and the best. Raises UserError for no such sweep."""
    records = SweepRecords(storage, name)
    request, files = records.request(), open_root(storage)
    driver = holder(newest(files, f"sweep-{name}")[1])
    trials, seen = list(records.trials()), follow(all_events(EventReader(records.events)))
    state = f"running: {driver}" if driver else "not running"
    parts: list[Any] = [f"{escape(name)}, {escape(str(request.get('method')))}, {escape(state)}"]
    if seen.running:
        parts.append(stages_table(seen.running.values(), files))
    counts = ", ".join(f"{count} {status}" for status, count in sorted(seen.ended.items())) or "none has ended"
    parts.append(f"stages: {counts}; {seen.device_seconds:,.0f} device-seconds")
    parts.append(trials_sentence(trials, request))
    if best := best_trial(trials, find_method(str(request.get("method"))).objective):
        parts.append(escape(best))
    return Group(*parts)


def all_events(reader: EventReader) -> Iterator[Event]:
    """From the first to the last that is written now."""
    cursor: dict[str, int] = {}
    while True:
        events, after = reader.read(cursor)
        yield from events
        if after == cursor:
            return
        cursor = after


def follow(events: Iterable[Event]) -> Seen:
    """The stages' state after these events. A stage that was begun twice is as it was begun last."""
    seen = Seen()
    for event in events:
        kind, key, at = event["kind"], event.get("key", ""), event["time"] / 1000
        if kind == "stage_start":
            seen.running[key] = StageRun(key, event["stage"], event.get("trial") or "shared", started=at)
        elif kind == "progress" and (run := seen.running.get(key)):
            run.step, run.total, run.at = event["step"], event["total"], at
            run.first = run.first or (at, run.step)
        elif kind == "stage_end" and (ended := seen.running.pop(key, None)):
            seen.ended[event["status"]] += 1
            seen.device_seconds += at - ended.started
    return seen


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
