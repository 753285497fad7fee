"""How far a sweep is, from its events: the stages in training with the time they still take, and what it has cost so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from gankd.store.events import Event


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


def cost(events: Iterable[Event]) -> str:
    """What the ended stages of a sweep took, in words."""
    seen = follow(events)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(seen.ended.items())) or "none has ended"
    return f"stages: {counts}; {seen.device_seconds:,.0f} device-seconds"
