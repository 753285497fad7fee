"""The chosen trial, its control and the preset's, again with seeds that chose nothing: is the gain more than luck?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from gankd.method import Gain
from gankd.metrics.directions import direction
from gankd.metrics.paired import Paired, paired
from gankd.pipeline import Job
from gankd.sweep.gains import TunedGain
from gankd.sweep.jobs import Cluster, Outcome, bring_about
from gankd.sweep.plan import Sweep


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


def repeat(sweep: Sweep, gain: Gain, tuned: TunedGain, cluster: Cluster) -> list[Repeated]:
    """Repeat both sides with the seeds seed + 1 ... seed + `--seeds`. What only measures is not made anew.

    The jobs of one seed run one after the other and share all stages that their knobs do not touch.
    """
    sides = {"tuned": (tuned.method.knobs, tuned.control.knobs)}
    if tuned.preset is not None:
        sides["preset"] = (tuned.preset.knobs, tuned.preset.knobs)
    repetitions = range(1, sweep.request.seeds + 1)
    chains = [
        [_job(sweep, gain, what, knobs, side, repetition) for what, pair in sides.items() for side, knobs in enumerate(pair)]
        for repetition in repetitions
    ]
    outcomes = bring_about(sweep, chains, cluster, tracked=True)
    repeated = []
    for place, what in enumerate(sides):
        pairs = {sweep.config.seed + r: tuple(outcomes[r - 1][2 * place : 2 * place + 2]) for r in repetitions}
        repeated.append(_repeated(gain, what, pairs))
    return repeated


def _job(sweep: Sweep, gain: Gain, what: str, knobs: Mapping[str, object], side: int, repetition: int) -> Job:
    stage = (gain.stage, gain.control)[side]
    stages = (stage, gain.tests[side]) if gain.tests else (stage,)
    name = f"seed{sweep.config.seed + repetition}-{what}-{stage}"
    return replace(sweep.job(knobs, name, stages), repetition=repetition)


def _repeated(gain: Gain, what: str, pairs: Mapping[int, tuple[Outcome, ...]]) -> Repeated:
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


def seed_note(sweep: Sweep) -> str:
    """Which seed each stage of the repetitions sees."""
    first, last = sweep.config.seed + 1, sweep.config.seed + sweep.request.seeds
    once = [stage.name for stage in sweep.method.stages if not stage.per_seed]
    note = f"seeds {first} to {last} chose nothing; every stage sees them"
    return f"{note}, but {', '.join(once)}, which only measure and keep seed {sweep.config.seed}" if once else note
