"""What the method is worth over its control, where both are tuned over the same trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gankd.errors import UserError
from gankd.method import Gain
from gankd.metrics.directions import direction
from gankd.sweep.plan import Sweep
from gankd.sweep.records import TrialRecord


def best(records: Sequence[TrialRecord], metric: str, mode: str) -> TrialRecord | None:
    """The record with the best finite value of a metric; the first of equals; None where none has one."""
    having = [record for record in records if math.isfinite(record.metrics.get(metric, math.nan))]
    pick = max if mode == "max" else min
    return pick(having, key=lambda record: record.metrics[metric]) if having else None


def choose(sweep: Sweep, records: Sequence[TrialRecord]) -> TrialRecord:
    """The finished trial with the best objective. Raises UserError when no trial finished."""
    metric = sweep.space.metric
    chosen = best([record for record in records if record.status == "finished"], metric, sweep.space.mode)
    if chosen is None:
        reasons = next((record.reason for record in records if record.reason), f"none reported {metric!r}")
        raise UserError(f"none of the {len(records)} trials finished: {reasons}")
    return chosen


def difference(gain: Gain, metric: str, method: Mapping[str, float], control: Mapping[str, float]) -> float | None:
    """How much better the method's stage is than its control, in the metric's own direction; None where one has no value.

    `metric` is the name both report. Positive where the method helps.
    """
    ours, theirs = method.get(f"{gain.stage}/{metric}"), control.get(f"{gain.control}/{metric}")
    if ours is None or theirs is None:
        return None
    return ours - theirs if direction(metric) == "max" else theirs - ours


@dataclass(frozen=True)
class TunedGain:
    """The best trial of the method and the best of its control by validation, over the same trials; the preset's own trial."""

    method: TrialRecord
    control: TrialRecord
    preset: TrialRecord | None
    trials: int

    def on_validation(self, gain: Gain) -> float | None:
        return difference(gain, gain.metric, self.method.metrics, self.control.metrics)

    def of_preset(self, gain: Gain) -> float | None:
        return difference(gain, gain.metric, self.preset.metrics, self.preset.metrics) if self.preset else None


def tuned_gain(gain: Gain | None, records: Sequence[TrialRecord], preset: str) -> TunedGain | None:
    """The gain of a sweep; None for a method without a control, or where a side has no value.

    `preset` is the name of the preset's own trial. A control counts also where its trial's method was stopped or failed.
    """
    if gain is None or direction(gain.metric) is None:
        return None
    mode = str(direction(gain.metric))
    method = best([record for record in records if record.status == "finished"], f"{gain.stage}/{gain.metric}", mode)
    control = best(records, f"{gain.control}/{gain.metric}", mode)
    if method is None or control is None:
        return None
    own = next((record for record in records if record.trial == preset), None)
    return TunedGain(method, control, own, len(records))
