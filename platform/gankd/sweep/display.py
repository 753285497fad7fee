"""What the terminal shows of a sweep: a bar per running stage while it goes on, a table at its end."""

from __future__ import annotations

import math
import threading
import time

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from gankd.metrics.collapse import collapse
from gankd.store.events import Event, EventReader
from gankd.sweep.figures import figure
from gankd.sweep.plan import Sweep

PERIOD_S = 1.0
METRICS_SHOWN = 5  # of a finished stage
PLAIN_PERIOD_S = 15.0  # between two lines of the same stage where the output is no terminal


class Live:
    """Follows the events of a sweep and shows them, as bars on a terminal and as lines elsewhere. A context manager."""

    def __init__(self, console: Console, sweep: Sweep, reader: EventReader) -> None:

        self.console, self.sweep, self.reader = console, sweep, reader
        self.trials = sweep.trials
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
        if (task := self._tasks.get(event["key"])) is not None:
            self.progress.update(task, completed=event["step"], total=event["total"], rate=rate)
        elif not self.console.is_terminal and time.monotonic() - self._said.get(event["key"], 0) > PLAIN_PERIOD_S:
            self._said[event["key"]] = time.monotonic()
            self.console.print(f"{self._title(event)}: {event['step']}/{event['total']} {rate}")

    def _on_stage_end(self, event: Event) -> None:
        if (task := self._tasks.pop(event["key"], None)) is not None:
            self.progress.remove_task(task)
        found = [f"{name.partition('/')[2]} {value:.4g}" for name, value in event["metrics"].items()]
        shown = ", ".join([*found[:METRICS_SHOWN], *(["..."] if len(found) > METRICS_SHOWN else [])])
        reason = escape(f": {event['reason']}") if event.get("reason") else ""
        self.console.print(f"[dim]{self._title(event)}[/]: {event['status']}{reason}  {shown}")
        for sentence in collapse(event["metrics"]):
            self.console.print(sentence, markup=False)

    def _on_damage(self, event: Event) -> None:
        self.console.print(event["text"], markup=False)

    def _on_trial_end(self, event: Event) -> None:
        self.done += 1
        if self.sweep.table is not None or self.done > self.trials:  # a row of a table, or a repetition of a trial
            place = "" if self.sweep.table is None else f" ({self.done} of {self.trials})"
            self.console.print(f"{event['trial']} {event['status']}{place}")
            return
        value = event["metrics"].get(self.sweep.space.metric, math.nan)
        better = value > self.best if self.sweep.space.mode == "max" else value < self.best
        self.best = value if better and event["status"] == "finished" else self.best
        best = figure(self.best) if math.isfinite(self.best) else "none yet"
        self.console.print(
            f"trial {event['trial']} {event['status']} ({self.done} of {self.trials}), "
            f"{self.sweep.space.metric} {figure(value)}, best {best}"
        )
