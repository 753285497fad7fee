"""The chosen trial, its control and the preset's, again with seeds that chose nothing: is the gain more than luck?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gankd.method import Gain
from gankd.pipeline import Job
from gankd.sweep.gains import TunedGain
from gankd.sweep.jobs import Cluster, bring_about
from gankd.sweep.plan import Sweep
from gankd.sweep.repeated import Repeated, repeated, repetition_trial


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
    found = []
    for place, what in enumerate(sides):
        pairs = {sweep.config.seed + r: tuple(outcomes[r - 1][2 * place : 2 * place + 2]) for r in repetitions}
        found.append(repeated(gain, what, pairs))
    return found


def _job(sweep: Sweep, gain: Gain, what: str, knobs: Mapping[str, object], side: int, repetition: int) -> Job:
    stage = (gain.stage, gain.control)[side]
    stages = (stage, gain.tests[side]) if gain.tests else (stage,)
    name = repetition_trial(sweep.config.seed + repetition, what, stage)
    return replace(sweep.job(knobs, name, stages), repetition=repetition)
