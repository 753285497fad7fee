"""What comes of the trials: the choice, its test, the gain over the control, repetitions over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gankd.method import Stage
from gankd.pipeline import Job
from gankd.store import Store
from gankd.store.events import EventReader
from gankd.sweep.comparable import facts_of
from gankd.sweep.gains import TunedGain, choose, difference, tuned_gain
from gankd.sweep.jobs import Cluster, bring_about
from gankd.sweep.plan import Sweep, trial_name
from gankd.sweep.records import TrialRecord
from gankd.sweep.repeated import Repeated
from gankd.sweep.seeds import repeat


@dataclass(frozen=True)
class Conclusion:
    """What a sweep has found.

    Attributes:
        records, best: all trials, and the chosen one.
        tests: its metrics on the test part, `<test stage>/<metric>`.
        gain: the best trial of the method beside the best of its control, None for a method without one.
        gain_tests: the two test values of `gain`, each `<stage>/<metric>` of the side's own stage; empty without test.
        repeated: both over seeds, when asked for.
    """

    records: list[TrialRecord]
    best: TrialRecord
    tests: dict[str, float]
    gain: TunedGain | None
    gain_tests: tuple[dict[str, float], dict[str, float]]
    repeated: list[Repeated]


def draw_conclusion(sweep: Sweep, records: list[TrialRecord], cluster: Cluster) -> Conclusion:
    """Choose by validation, then measure on test what was chosen. Raises UserError when no trial finished."""
    best = choose(sweep, records)
    tune_control(sweep, records, cluster)
    gain = tuned_gain(sweep.method.gain, records, trial_name(sweep.space.preset_point(sweep.tree)))
    tests, gain_tests = _tests(sweep, best, gain, cluster)
    spec = sweep.method.gain
    repeated = repeat(sweep, spec, gain, cluster) if spec and gain and sweep.request.seeds else []
    return Conclusion(records, best, tests, gain, gain_tests, repeated)


def tune_control(sweep: Sweep, records: Sequence[TrialRecord], cluster: Cluster) -> None:
    """Give every trial that the scheduler stopped its control: the control is to be the best of as many trials as the method."""
    gain = sweep.method.gain
    if gain is None:
        return
    stopped = [r for r in records if r.status == "stopped" and f"{gain.control}/{gain.metric}" not in r.metrics]
    jobs = [[sweep.job(record.knobs, record.trial, (gain.control,))] for record in stopped]
    for record, (outcome,) in zip(stopped, bring_about(sweep, jobs, cluster), strict=True):
        record.metrics |= outcome.metrics
        sweep.records.save_trial(record)


def _tests(
    sweep: Sweep, best: TrialRecord, gain: TunedGain | None, cluster: Cluster
) -> tuple[dict[str, float], tuple[dict[str, float], dict[str, float]]]:
    """The chosen trial's metrics on the test part, and those of either side of the gain."""
    chains = [[_test_job(sweep, best, [stage for stage in sweep.method.stages if stage.test])]]
    spec = sweep.method.gain
    if spec and spec.tests and gain:
        sides = zip((gain.method, gain.control), spec.tests[:2], strict=True)
        chains += [[_test_job(sweep, record, [sweep.method.stage(test)])] for record, test in sides]
    measured = [outcome.metrics for (outcome,) in bring_about(sweep, chains, cluster)]
    if len(measured) == 1 or spec is None or spec.tests is None:
        return measured[0], ({}, {})
    metric = spec.tests[2]
    method, control = (m.get(f"{test}/{metric}") for m, test in zip(measured[1:], spec.tests[:2], strict=True))
    named = {f"{spec.stage}/{metric}": method}, {f"{spec.control}/{metric}": control}
    ours, theirs = ({name: value for name, value in side.items() if value is not None} for side in named)
    return measured[0], (ours, theirs)


def _test_job(sweep: Sweep, record: TrialRecord, stages: Sequence[Stage]) -> Job:
    return sweep.job(record.knobs, record.trial, tuple(stage.name for stage in stages))


def test_gain(sweep: Sweep, conclusion: Conclusion) -> float | None:
    """The gain on the test part."""
    spec = sweep.method.gain
    if spec is None or spec.tests is None:
        return None
    return difference(spec, spec.tests[2], *conclusion.gain_tests)


def summary(sweep: Sweep, conclusion: Conclusion) -> dict[str, float]:
    """The figures of the sweep's own run, besides all metrics of the chosen trial by name.

    `objective`; val/<role> and test/<role> of the chosen trial, but test/control of the tuned control, beside which the gain
    is; generator/<metric> of the stage that measures generators; `gain` over the tuned control (on test where there is a test,
    else on validation), gain/val, gain/test, gain/preset (validation); of the repetitions seeds/<tuned or preset>/{mean, sd,
    low, high, method, control}.
    """
    method, best = sweep.method, conclusion.best
    values = dict(best.metrics) | conclusion.tests | {"objective": best.metrics[sweep.space.metric]}
    for role, stage in method.roles.items():
        values |= {f"val/{role}": v for v in main_values(best.metrics, stage, "val_").values()}
        for test in method.tests_of(stage):
            values |= {f"test/{role}": v for v in main_values(conclusion.tests, test.name, "test_").values()}
    measured = method.registered.get("generator", "/").partition("/")[0] + "/"
    values |= {name.replace(measured, "generator/", 1): v for name, v in best.metrics.items() if name.startswith(measured)}
    if conclusion.gain and method.gain:
        gains = {
            "gain/val": conclusion.gain.on_validation(method.gain),
            "gain/test": test_gain(sweep, conclusion),
            "gain/preset": conclusion.gain.of_preset(method.gain),
        }
        values |= {name: value for name, value in gains.items() if value is not None}
        values["gain"] = values.get("gain/test", values.get("gain/val", float("nan")))
        if conclusion.gain_tests[1]:
            (values["test/control"],) = conclusion.gain_tests[1].values()
    for repeated in conclusion.repeated:
        values |= _seeds(repeated)
    return values


def _seeds(repeated: Repeated) -> dict[str, float]:
    p, start = repeated.paired, f"seeds/{repeated.what}"
    if p is None:
        return {}
    means = {"method": sum(repeated.method) / p.count, "control": sum(repeated.control) / p.count}
    figures = {"mean": p.mean, "sd": p.deviation, "low": p.low, "high": p.high, "count": float(p.count)} | means
    return {f"{start}/{name}": value for name, value in figures.items() if value == value}


def main_values(metrics: Mapping[str, float], stage: str, part: str) -> dict[str, float]:
    """The first metric of a stage on a part of the data ("val_", "test_"), as {metric: value}: its main one, or none."""
    names = [name for name in metrics if name.startswith(f"{stage}/{part}")]
    return {name: metrics[name] for name in names[:1]}


def validation_curves(sweep: Sweep, records: Sequence[TrialRecord]) -> dict[str, list[tuple[int, float]]]:
    """Trial -> (step, watched metric) as its watched stage reported them in this sweep; what came from the store has none."""
    trials = {record.keys.get(sweep.method.watched): record.trial for record in records}
    curves: dict[str, list[tuple[int, float]]] = {}
    for event in EventReader(sweep.records.events).all():
        if event["kind"] == "metrics" and event.get("key") in trials and sweep.watched_metric in event["values"]:
            point = (event["step"], event["values"][sweep.watched_metric])
            curves.setdefault(trials[event["key"]], []).append(point)
    return curves


def what_numbers_depend_on(sweep: Sweep, best: TrialRecord, store: Store) -> dict[str, dict[str, Any]]:
    """Of the objective, and of what each registered role is compared by: all that the number depends on."""
    metrics = {"objective": sweep.space.metric, **sweep.method.registered}
    return {of: comparable_facts(sweep, best, store, metric) for of, metric in metrics.items()}


def notes(best: TrialRecord, store: Store) -> list[str]:
    """What the stages of the chosen trial want its user to know."""
    manifests = (store.manifest(key) or {} for key in best.keys.values())
    return list(dict.fromkeys(note for manifest in manifests for note in manifest.get("notes", [])))


def comparable_facts(sweep: Sweep, record: TrialRecord, store: Store, metric: str) -> dict[str, Any]:
    """All that a trial's `<stage>/<metric>` depends on, see `facts_of`."""
    stage, _, name = metric.partition("/")
    return facts_of(name, store.manifest(record.keys[stage]) or {}, sweep.fingerprint)
