"""A method's stage beside its control over seeds that chose nothing: values, paired differences, and how they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gankd.method import Gain
from gankd.metrics.directions import direction
from gankd.metrics.paired import Paired, paired
from gankd.page import Grid
from gankd.sweep.figures import interval, mean_and_deviation, verdict
from gankd.sweep.records import Outcome


@dataclass(frozen=True)
class Repeated:
    """A method's stage and its control over seeds.

    Attributes:
        what: "tuned", each side with the knobs that were best for it by validation, or "preset".
        metric: on the test part where the method measures there, else on the validation part.
        seeds: those of which both sides came to their end; method, control: the metric by seed.
        paired: the differences, positive where the method helps.
        failures: why seeds are missing.
    """

    what: str
    metric: str
    seeds: tuple[int, ...]
    method: tuple[float, ...]
    control: tuple[float, ...]
    paired: Paired | None
    failures: tuple[str, ...] = ()


def repetition_trial(seed: int, what: str, stage: str) -> str:
    """What the job is called that makes a side again."""
    return f"seed{seed}-{what}-{stage}"


def repeated_of(gain: Gain, outcomes: Mapping[str, Outcome]) -> list[Repeated]:
    """What came of the repetitions, from what came of trials by name; none where there were none."""
    found = []
    for what in ("tuned", "preset"):
        tried = (re.fullmatch(rf"seed(\d+)-{what}-.*", trial) for trial in outcomes)
        sides = {
            seed: tuple(outcomes.get(repetition_trial(seed, what, stage), Outcome()) for stage in (gain.stage, gain.control))
            for seed in sorted({int(match[1]) for match in tried if match})
        }
        if sides:
            found.append(repeated(gain, what, sides))
    return found


def repeated(gain: Gain, what: str, pairs: Mapping[int, tuple[Outcome, ...]]) -> Repeated:
    """From what came of the method's side and of the control's, by seed."""
    names = [f"{stage}/{gain.metric}" for stage in (gain.stage, gain.control)]
    metric = gain.metric
    if gain.tests:
        metric = gain.tests[2]
        names = [f"{stage}/{metric}" for stage in gain.tests[:2]]
    whole = {
        seed: (method.metrics[names[0]], control.metrics[names[1]])
        for seed, (method, control) in pairs.items()
        if names[0] in method.metrics and names[1] in control.metrics
    }
    sign = 1 if direction(metric) == "max" else -1
    failures = tuple(f"seed {seed}: {outcome.failure}" for seed, sides in pairs.items() for outcome in sides if outcome.failure)
    return Repeated(
        what,
        metric,
        tuple(whole),
        tuple(method for method, _ in whole.values()),
        tuple(control for _, control in whole.values()),
        paired([sign * (method - control) for method, control in whole.values()]) if whole else None,
        failures,
    )


def seeds_grid(gain: Gain | None, repeated: Sequence[Repeated], note: str) -> Grid:
    """Mean and standard deviation over seeds, and the paired difference with its 95 % interval."""
    names = (gain.stage, gain.control) if gain else ("method", "control")
    headings = ("knobs", "metric", "seeds", *names, "paired difference, 95 % interval", "")
    rows = []
    for row in repeated:
        if row.paired is None:
            rows.append((row.what, row.metric, "0", "", "", "", "; ".join(row.failures)))
            continue
        p = row.paired
        cells = (mean_and_deviation(row.method), mean_and_deviation(row.control), interval(p))
        rows.append((row.what, row.metric, str(p.count), *cells, "; ".join([verdict(p), *row.failures])))
    return Grid(f"over seeds: {note}", headings, tuple(rows), left=(0, 1, len(headings) - 1))
