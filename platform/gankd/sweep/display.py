"""What the terminal shows of a sweep: a bar per running stage while it goes on, a table at its end."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from gankd.store.events import Event, EventReader
from gankd.sweep.plan import Sweep
from gankd.sweep.records import TrialRecord
from gankd.sweep.scoring import main_scores

PERIOD_S = 1.0
METRICS_SHOWN = 5  # of a finished stage
PLAIN_PERIOD_S = 15.0  # between two lines of the same stage where the output is no terminal


class Live:
    """Follows the events of a sweep and shows them, as bars on a terminal and as lines elsewhere. A context manager."""

    def __init__(self, console: Console, sweep: Sweep, reader: EventReader) -> None:
        from gankd.sweep.points import trials_possible  # imports Ray

        self.console, self.sweep, self.reader = console, sweep, reader
        self.trials = trials_possible(sweep)
        self.best = -math.inf if sweep.space.mode == "max" else math.inf
        self.done = 0
        self._cursor: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._said: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="display", daemon=True)
        columns = (TextColumn("{task.description}"), BarColumn(24), TextColumn("{task.completed:.0f}/{task.total:.0f}"))
        rate = TextColumn("{task.fields[rate]}")
        self.progress = Progress(*columns, rate, TimeRemainingColumn(), console=console, transient=True)

    def __enter__(self) -> Live:
        _, self._cursor = self.reader.read({})  # what a resumed sweep showed before
        if self.console.is_terminal:
            self.progress.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()
        self.progress.stop()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self._look()

    def _look(self) -> None:
        events, self._cursor = self.reader.read(self._cursor)
        for event in events:
            show = getattr(self, f"_on_{event['kind']}", None)
            if show:
                show(event)

    @staticmethod
    def _title(event: Event) -> str:
        return f"{event.get('trial') or 'shared'} · {event['stage']}"

    def _on_stage_start(self, event: Event) -> None:
        if self.console.is_terminal:
            self._tasks[event["key"]] = self.progress.add_task(self._title(event), total=1, rate="")
        else:
            self.console.print(f"{self._title(event)}: started")

    def _on_progress(self, event: Event) -> None:
        rate = f"{event['rate']:,.0f} img/s" if event.get("rate") else ""
        if task := self._tasks.get(event["key"]):
            self.progress.update(task, completed=event["step"], total=event["total"], rate=rate)
        elif not self.console.is_terminal and time.monotonic() - self._said.get(event["key"], 0) > PLAIN_PERIOD_S:
            self._said[event["key"]] = time.monotonic()
            self.console.print(f"{self._title(event)}: {event['step']}/{event['total']} {rate}")

    def _on_stage_end(self, event: Event) -> None:
        if task := self._tasks.pop(event["key"], None):
            self.progress.remove_task(task)
        found = [f"{name.partition('/')[2]} {value:.4g}" for name, value in event["metrics"].items()]
        shown = ", ".join([*found[:METRICS_SHOWN], *(["..."] if len(found) > METRICS_SHOWN else [])])
        reason = f": {event['reason']}" if event.get("reason") else ""
        self.console.print(f"[dim]{self._title(event)}[/]: {event['status']}{reason}  {shown}")

    def _on_trial_end(self, event: Event) -> None:
        self.done += 1
        value = event["metrics"].get(self.sweep.space.metric, math.nan)
        better = value > self.best if self.sweep.space.mode == "max" else value < self.best
        self.best = value if better and event["status"] == "finished" else self.best
        best = f"{self.best:.2f}" if math.isfinite(self.best) else "none yet"
        self.console.print(
            f"trial {event['trial']} {event['status']} ({self.done} of {self.trials}), "
            f"{self.sweep.space.metric} {value:.2f}, best {best}"
        )


def trial_table(sweep: Sweep, records: list[TrialRecord], best: TrialRecord | None) -> Table:
    """All trials, best first: the searched knobs, the objective, its control, and the gain (positive where the method helps)."""
    metric, gain = sweep.space.metric, sweep.method.gain
    ends = Counter(knob.partition(".")[2] for knob in sweep.space.samplers)
    short = {knob: end if ends[end := knob.partition(".")[2]] == 1 else knob for knob in sweep.space.samplers}
    table = Table(title=f"{sweep.name}: {metric} on the validation part", title_justify="left")
    for heading in ("trial", *short.values()):
        table.add_column(heading, overflow="fold")
    for heading in (metric.partition("/")[0], *([gain[1], "gain"] if gain else [])):
        table.add_column(heading, justify="right")
    sign = -1 if sweep.space.mode == "max" else 1
    for record in sorted(records, key=lambda r: (r.status != "finished", sign * r.metrics.get(metric, math.inf))):
        value = record.metrics.get(metric)
        cells = [_number(value)]
        if gain:
            control = record.metrics.get(f"{gain[1]}/{metric.partition('/')[2]}")
            cells += [_number(control), _number(None if value is None or control is None else sign * (control - value), "+")]
        if record.status != "finished":
            cells[-1] = record.status
        mark = "* " if best and record.trial == best.trial else ""
        table.add_row(mark + record.trial, *(_knob(record.knobs.get(knob)) for knob in short), *cells)
    return table


def score_table(sweep: Sweep, record: TrialRecord, scores: Mapping[str, float]) -> Table:
    """Validation and test figures of the chosen trial and its baselines, with the parameters of each network."""
    table = Table(title=f"chosen trial {record.trial}: validation and, read once, test", title_justify="left")
    for heading in ("stage", "validation", "test", "parameters"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    metric, test = sweep.space.metric.partition("/")[2], main_scores(scores, sweep.space.metric)
    for stage in sweep.method.scored:
        parameters = record.metrics.get(f"{stage}/parameters")
        count = f"{parameters:,.0f}" if parameters else ""
        table.add_row(stage, _number(record.metrics.get(f"{stage}/{metric}")), _number(test.get(stage)), count)
    return table


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.2f}"


def _knob(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
