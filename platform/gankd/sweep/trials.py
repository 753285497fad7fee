"""The trials of a sweep on Ray Tune: what differs between trials is trained, what they share is found in the store.

A trial with one worker runs in one of Tune's reused actors; with more, on Ray Train from a driver that holds no CPU.
Tune's own pickled state is never read again: resuming goes by the records of the trials (records.py).
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler

from gankd.errors import StageFailed, UserError
from gankd.method import flatten
from gankd.pipeline import Pipeline, known_metrics, run
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.jobs import Cluster
from gankd.sweep.launch import train_on_ray
from gankd.sweep.nodes import Nodes
from gankd.sweep.plan import Sweep, trial_name
from gankd.sweep.points import Point, draw_points
from gankd.sweep.records import TrialRecord
from gankd.sweep.request import Resources
from gankd.sweep.searcher import AsManyAsFit, searcher

SETTLE_S = 30.0
LOOKED_UP = 1000  # trials that are looked up beforehand, a few milliseconds each; of more, each trial finds out for itself


def run_shared(sweep: Sweep, cluster: Cluster) -> None:
    """Make the shared stages on Ray Train, with their own worker count. Nothing happens when the store holds all of them."""
    need = sweep.request.shared_resources()
    job = replace(sweep.job({}, stages=sweep.shared()), threads=need.threads())
    if job.stages and known_metrics(job) is None:
        cluster()
        train_on_ray(job, need)


def run_trials(sweep: Sweep, cluster: Cluster) -> list[TrialRecord]:
    """Run the trials that have not ended yet; returns the records of all, the preset's first."""
    points = draw_points(sweep)
    for record in inherited(sweep, points):
        _note(sweep, record)
    ended = {r.trial: r for r in sweep.records.trials() if r.ended() and _is_borne_out(sweep, r)}
    if sweep.request.search == "random":
        ended |= _in_the_store(sweep, {trial: knobs for trial, knobs in points.items() if trial not in ended})
    missing = [point for trial, point in points.items() if trial not in ended]
    if sweep.request.search == "optuna":
        # What the store no longer bears out is tried again; of the others only the number counts.
        again = [r.knobs for r in sweep.records.trials() if r.ended() and r.trial not in ended]
        missing = [*again, *missing][: max(len(again), sweep.request.trials - len(ended))]
    if missing:
        _fit(sweep, missing, ended, cluster(), _scheduler(sweep))
    records = list(sweep.records.trials())
    stopped = [record.knobs for record in records if record.status == "stopped"]
    if stopped and not any(record.status == "finished" for record in records):
        # The scheduler stopped trials in favour of one that failed later: let those go on, and none be stopped.
        _fit(sweep, stopped, ended, cluster(), FIFOScheduler())
    order = {trial: place for place, trial in enumerate(points)}
    return sorted(sweep.records.trials(), key=lambda record: (order.get(record.trial, len(order)), record.started))


def _is_borne_out(sweep: Sweep, record: TrialRecord) -> bool:
    """Whether a trial's artifacts are those that it would make today, of this data, by this code, and are still there."""
    if record.status == "failed":
        return True
    job = sweep.job(record.knobs, record.trial)
    return record.keys == Pipeline(job).trial_keys and (record.status == "stopped" or known_metrics(job) is not None)


def _in_the_store(sweep: Sweep, points: Mapping[str, Point]) -> dict[str, TrialRecord]:
    """The trials whose artifacts other sweeps have made already, noted as finished: they need no Ray."""
    found: dict[str, TrialRecord] = {}
    if not sweep.request.reuse or len(points) > LOOKED_UP:
        return found
    for trial, knobs in points.items():
        with suppress(UserError):  # knobs that do not go together: the trial itself says so, and fails
            job = sweep.job(knobs, trial)
            if (metrics := known_metrics(job)) is not None:
                found[trial] = TrialRecord(trial, knobs, "finished", metrics, Pipeline(job).trial_keys)
                _note(sweep, found[trial])
    return found


def _fit(
    sweep: Sweep,
    missing: list[Point],
    ended: Mapping[str, TrialRecord],
    nodes: Nodes,
    scheduler: Any,
) -> None:
    need = sweep.request.resources(sweep.request.workers)
    scratch = tempfile.mkdtemp(prefix="gankd-tune-")
    try:
        tune.Tuner(
            _trainable(sweep, need),
            param_space={},  # the searcher knows it
            tune_config=tune.TuneConfig(
                num_samples=len(missing),
                search_alg=AsManyAsFit(searcher(sweep, missing, ended), need, nodes),
                scheduler=scheduler,
                metric=sweep.space.metric,
                mode=sweep.space.mode,
                reuse_actors=need.workers == 1,
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=scratch,
                failure_config=tune.FailureConfig(max_failures=2),
                verbose=0,
            ),
        ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    _settle(sweep)


def _settle(sweep: Sweep) -> None:
    """Wait for the records of trials whose end Tune knows before they have written it down: a stopped trial ends in its own
    thread. One that stays silent is lost with its process."""
    deadline = time.monotonic() + SETTLE_S
    while silent := [record for record in sweep.records.trials() if not record.ended()]:
        if time.monotonic() > deadline:
            for record in silent:
                record.status, record.reason = "failed", "its process ended without a word"
                sweep.records.save_trial(record)
            return
        time.sleep(0.1)


def _scheduler(sweep: Sweep) -> Any:
    horizon = sweep.watched_length()
    if sweep.request.scheduler == "fifo" or horizon < 2:
        return FIFOScheduler()
    # A trial that reached the end has its last stages still to run: it is never stopped there, nor is there a rung.
    preset = sweep.space.preset_point(sweep.tree)
    return KeepsPreset(
        preset, time_attr="step", max_t=horizon - 1, grace_period=max(1, horizon // 4), reduction_factor=2, stop_last_trials=False
    )


class KeepsPreset(AsyncHyperBandScheduler):
    """ASHA that never stops the preset's own trial: a gain is always reported beside the gain at the preset."""

    def __init__(self, preset: Mapping[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.preset = trial_name(preset)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision: str = super().on_trial_result(tune_controller, trial, result)
        return self.CONTINUE if trial_name(trial.config) == self.preset else decision


def _trainable(sweep: Sweep, need: Resources) -> Any:
    if need.workers == 1:
        trainable = tune.with_parameters(_trial_here, sweep=sweep)
        return tune.with_resources(trainable, tune.PlacementGroupFactory([need.per_worker()]))
    # The driver of a nested trial holds no CPU: Train's workers ask for their own, outside the trial's.
    no_cpu = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    return tune.with_resources(tune.with_parameters(_trial_on_train, sweep=sweep, need=need), no_cpu)


def _trial_here(knobs: dict[str, Any], sweep: Sweep) -> None:
    """One trial with one worker, in Tune's reused actor."""

    def train(record: TrialRecord) -> dict[str, float]:
        def report(metrics: Mapping[str, float], step: int) -> None:
            record.metrics = dict(metrics)  # what a trial is worth that is stopped here
            tune.report({**metrics, sweep.space.metric: metrics.get(sweep.watched_metric, math.nan), "step": step})

        return run(sweep.job(knobs, record.trial), report=report)

    _recorded(sweep, knobs, train)


def _trial_on_train(knobs: dict[str, Any], sweep: Sweep, need: Resources) -> None:
    """One trial with several workers: Ray Train inside Tune, its reports passed on."""

    def train(record: TrialRecord) -> dict[str, float]:
        job = sweep.job(knobs, record.trial)
        return train_on_ray(job, need, callbacks=[TuneReportCallback()], report=(sweep.space.metric, sweep.watched_metric))

    _recorded(sweep, knobs, train)


def inherited(sweep: Sweep, points: Mapping[str, Point]) -> list[TrialRecord]:
    """What an earlier sweep that asked for the same has found for these trials: also that its scheduler stopped one.

    Only trials of the very same artifacts count; those that failed are tried again.
    """
    if not sweep.request.reuse:
        return []
    own = {record.trial for record in sweep.records.trials()}
    earlier = list(sweep.records.of_the_same_request(sweep.request.model_dump(mode="json")))
    latest = {record.trial: record for twin in earlier for record in twin if record.status in ("finished", "stopped")}
    return [
        latest[trial]
        for trial, knobs in points.items()
        if trial in latest and trial not in own and latest[trial].keys == Pipeline(sweep.job(knobs, trial)).trial_keys
    ]


def _note(sweep: Sweep, record: TrialRecord) -> None:
    """Take over an ended trial: its record, its references, its run in the tracker."""
    Store(sweep.storage).refer(sweep.name, record.trial, record.keys)
    sweep.records.save_trial(record)
    events = EventWriter(sweep.records.events, f"trial-{record.trial}")
    params = flatten(sweep.config_of(record.knobs))
    events.emit("trial_start", trial=record.trial, params=params, keys=record.keys, searched=record.knobs)
    events.emit("trial_end", trial=record.trial, status=record.status, metrics=record.metrics, reason=record.reason)
    events.close()


def _recorded(sweep: Sweep, knobs: dict[str, Any], train: Callable[[TrialRecord], dict[str, float]]) -> None:
    """Run a trial and keep its record: finished with metrics, stopped by the scheduler, or failed with a reason.

    A failure is not raised: Tune would try again what fails for a reason of its own.
    """
    trial = trial_name(knobs)
    record = TrialRecord(trial=trial, knobs=knobs)
    events = EventWriter(sweep.records.events, f"trial-{trial}")
    try:
        record.keys = Pipeline(sweep.job(knobs, trial)).trial_keys
        sweep.records.save_trial(record)
        events.emit("trial_start", trial=trial, params=flatten(sweep.config_of(knobs)), keys=record.keys, searched=knobs)
        record.metrics = train(record)
        record.status = "finished"
    except (StageFailed, UserError) as error:
        record.status, record.reason, record.metrics = "failed", str(error), {}
    except Exception as error:  # a bug or a lost machine: Tune tries again
        record.status, record.reason, record.metrics = "failed", f"{type(error).__name__}: {error}", {}
        raise
    except SystemExit:  # how Tune stops a trial, inside tune.report
        record.status = "stopped"
        raise
    finally:
        # The objective first: MLflow's page of comparison starts with the metric that a run got first.
        metrics = dict(sorted(record.metrics.items(), key=lambda item: item[0] != sweep.space.metric))
        events.emit("trial_end", trial=trial, status=record.status, metrics=metrics, reason=record.reason)
        events.close()
        # Last: a trial whose end could not be told is not over, and a resumed sweep runs it again.
        sweep.records.save_trial(record)
    last = {"step": max(1, sweep.watched_length())}
    tune.report({sweep.space.metric: record.metrics.get(sweep.space.metric, math.nan), **last})
