"""What a sweep's events tell afterwards: what came of its trials, who made which artifact, its curves and pictures."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

from gankd.errors import UserError
from gankd.store.events import Event, EventReader
from gankd.store.root import open_root, sweep_events
from gankd.sweep.records import Outcome


@dataclass
class Traces:
    """Of one sweep or several.

    Attributes:
        outcomes: trial -> what came of it when it was tried last; without those that have not ended.
        makers: key -> (sweep, trial) that made it; the trial of shared stages is "".
        curves: key -> metric -> step -> value as it was logged first.
        pictures: key -> name -> (step, base64 of PNG) of its last step.
        figures: what a sweep said of itself as a whole.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    makers: dict[str, tuple[str, str]] = field(default_factory=dict)
    curves: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    pictures: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    _keys: dict[str, dict[str, str]] = field(default_factory=dict)

    def follow(self, events: Iterable[Event], sweep: str, only: Collection[str] | None = None) -> None:
        """Add what these events of a sweep tell; with `only`, no more than what they tell of the stages of these keys."""
        for event in events:
            key = event.get("key") or ""
            if only is None or key in only:
                handle = getattr(self, f"_on_{event['kind']}", None)
                if handle:
                    handle(event, key, sweep)

    def _on_trial_start(self, event: Event, _: str, __: str) -> None:
        self._keys[event["trial"]] = dict(event.get("keys") or {})

    def _on_trial_end(self, event: Event, _: str, __: str) -> None:
        failure = (event.get("reason") or event["status"]) if event["status"] == "failed" else ""
        keys = self._keys.get(event["trial"], {})
        self.outcomes[event["trial"]] = Outcome(dict(event["metrics"]), failure, keys)

    def _on_stage_end(self, event: Event, key: str, sweep: str) -> None:
        if event["status"] == "finished":
            self.makers.setdefault(key, (sweep, event.get("trial") or ""))

    def _on_metrics(self, event: Event, key: str, _: str) -> None:
        if key:
            for name, value in event["values"].items():
                self.curves.setdefault(key, {}).setdefault(name, {}).setdefault(event.get("step") or 0, value)
        elif not event.get("trial"):
            self.figures |= event["values"]

    def _on_image(self, event: Event, key: str, _: str) -> None:
        pictures, step = self.pictures.setdefault(key, {}), event.get("step") or 0
        if step >= pictures.get(event["name"], (0, ""))[0]:
            pictures[event["name"]] = step, event["png"]


def traces_of(storage: str, sweep: str) -> Traces:
    """Of this sweep; and of the artifacts that it used and other sweeps of the storage have made, what those tell of these."""
    traces = Traces()
    traces.follow(EventReader(sweep_events(storage, sweep)).all(), sweep)
    used = {key for outcome in traces.outcomes.values() for key in outcome.keys.values()}
    for other in open_root(storage).names("sweeps"):
        missing = used - traces.makers.keys()
        if not missing:
            break
        if other != sweep:
            with suppress(OSError, UserError):  # another user's
                traces.follow(EventReader(sweep_events(storage, other)).all(), other, missing)
    return traces
