"""The trials of a sweep on Ray Tune: what differs between trials is trained, what they share is found in the store.

A trial with one worker runs in one of Tune's reused actors; with more, on Ray Train from a driver that holds no CPU.
Tune's own pickled state is never read again: resuming goes by the records of the trials (records.py).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray import tune
from ray.tune.integration.ray_train import TuneReportCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher

from gankd.errors import StageFailed, UserError
from gankd.method import flatten
from gankd.pipeline import Pipeline, run
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.launch import concurrency, train_on_ray
from gankd.sweep.plan import Resources, Sweep, trial_name
from gankd.sweep.points import Point, draw_points
from gankd.sweep.records import TrialRecord
from gankd.sweep.scoring import known_scores, make_scores, score_keys

# Brings Ray up at the first call; the cluster's resources.
Cluster = Callable[[], Mapping[str, float]]


def run_shared(sweep: Sweep, cluster: Cluster) -> None:
    """Make the shared stages on Ray Train, with its own worker count. Nothing happens when the store holds all of it."""
    stages = sweep.shared()
    if stages and sweep.shared_missing():
        cluster()
        train_on_ray(sweep.job({}, stages=stages), sweep.request.resources(sweep.request.shared_workers))


def run_trials(sweep: Sweep, cluster: Cluster) -> list[TrialRecord]:
    """Run the trials that have not ended yet; returns the records of all, the preset's first."""
    points = draw_points(sweep)
    for record in inherited(sweep, points):
        _note(sweep, record)
    ended = {record.trial: record for record in sweep.records.trials() if record.ended()}
    missing = [point for trial, point in points.items() if trial not in ended]
    if sweep.request.search == "optuna":
        missing = missing[: max(0, sweep.request.trials - len(ended))]  # only their number counts
    if missing:
        _fit(sweep, missing, ended, cluster(), _scheduler(sweep))
    records = list(sweep.records.trials())
    stopped = [record.knobs for record in records if record.status == "stopped"]
    if stopped and not any(record.status == "finished" for record in records):
        # The scheduler stopped trials in favour of one that failed later: let those go on, and none be stopped.
        _fit(sweep, stopped, ended, cluster(), FIFOScheduler())
    order = {trial: place for place, trial in enumerate(points)}
    return sorted(sweep.records.trials(), key=lambda record: (order.get(record.trial, len(order)), record.started))


def _fit(
    sweep: Sweep,
    missing: list[Point],
    ended: Mapping[str, TrialRecord],
    have: Mapping[str, float],
    scheduler: Any,
) -> None:
    need = sweep.request.resources(sweep.request.workers)
    scratch = tempfile.mkdtemp(prefix="gankd-tune-")
    try:
        tune.Tuner(
            _trainable(sweep, need),
            param_space={} if sweep.request.search == "random" else dict(sweep.space.samplers),
            tune_config=tune.TuneConfig(
                num_samples=len(missing),
                search_alg=_search(sweep, missing, ended, concurrency(need, have)),
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


class Listed(Searcher):
    """Gives Tune the points of a list, one after the other.

    Tune's own BasicVariantGenerator takes a list too, but copies the whole space for each of its points before the first starts.
    """

    def __init__(self, points: list[Point]) -> None:
        super().__init__()
        self.left = deque(points)

    def suggest(self, trial_id: str) -> Point | None:
        return self.left.popleft() if self.left else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned from a trial."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is kept: a resumed sweep goes by its records."""


def _search(sweep: Sweep, missing: list[Point], ended: Mapping[str, TrialRecord], slots: int) -> Any:
    if sweep.request.search == "random":
        return ConcurrencyLimiter(Listed(missing), max_concurrent=slots)
    from ray.tune.search.optuna import OptunaSearch

    known = [record for record in ended.values() if sweep.space.metric in record.metrics]
    search = OptunaSearch(
        metric=sweep.space.metric,
        mode=sweep.space.mode,
        points_to_evaluate=[record.knobs for record in known] or [sweep.space.preset_point(sweep.tree)],
        evaluated_rewards=[record.metrics[sweep.space.metric] for record in known] or None,
        seed=sweep.config.seed,
    )
    return ConcurrencyLimiter(search, max_concurrent=slots)


def _scheduler(sweep: Sweep) -> Any:
    horizon = sweep.watched_length()
    if sweep.request.scheduler == "fifo" or horizon < 2:
        return FIFOScheduler()
    # A trial that reached the end has its last stages still to run: it is never stopped there, nor is there a rung.
    return AsyncHyperBandScheduler(
        time_attr="step", max_t=horizon - 1, grace_period=max(1, horizon // 4), reduction_factor=2, stop_last_trials=False
    )


def _trainable(sweep: Sweep, need: Resources) -> Any:
    if need.workers == 1:
        trainable = tune.with_parameters(_trial_here, sweep=sweep)
        return tune.with_resources(trainable, {kind.lower(): each for kind, each in need.per_worker().items()})
    # The driver of a nested trial holds no CPU: Train's workers ask for their own, outside the trial's.
    no_cpu = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    return tune.with_resources(tune.with_parameters(_trial_on_train, sweep=sweep, need=need), no_cpu)


def _trial_here(knobs: dict[str, Any], sweep: Sweep) -> None:
    """One trial with one worker, in Tune's reused actor."""

    def train(record: TrialRecord) -> dict[str, float]:
        def report(metrics: Mapping[str, float], step: int) -> None:
            record.metrics = dict(metrics)  # what a trial is worth that is stopped here
            tune.report({**metrics, "step": step})

        return run(sweep.job(knobs, record.trial), report=report)

    _recorded(sweep, knobs, train)


def _trial_on_train(knobs: dict[str, Any], sweep: Sweep, need: Resources) -> None:
    """One trial with several workers: Ray Train inside Tune, its reports passed on."""

    def train(record: TrialRecord) -> dict[str, float]:
        job = sweep.job(knobs, record.trial)
        return train_on_ray(job, need, callbacks=[TuneReportCallback()], report=True)

    _recorded(sweep, knobs, train)


def inherited(sweep: Sweep, points: Mapping[str, Point]) -> list[TrialRecord]:
    """What an earlier sweep that asked for the same has found for these trials: also that its scheduler stopped one.

    Only trials of the very same artifacts count; those that failed are tried again.
    """
    if not sweep.request.reuse:
        return []
    own = {record.trial for record in sweep.records.trials()}
    earlier = list(sweep.records.twins(sweep.request.model_dump(mode="json")))
    latest = {record.trial: record for twin in earlier for record in twin if record.status in ("finished", "stopped")}
    return [
        latest[trial]
        for trial, knobs in points.items()
        if trial in latest and trial not in own and latest[trial].keys == Pipeline(sweep.job(knobs, trial)).keys
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
        record.keys = Pipeline(sweep.job(knobs, trial)).keys
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


def test_scores(sweep: Sweep, record: TrialRecord, cluster: Cluster) -> dict[str, float]:
    """The chosen trial's scores on the test part, measured on the cluster unless the store has them."""
    job = sweep.job(record.knobs, record.trial)
    scores = known_scores(job, record.keys)
    if scores is None:
        cluster()
        need = sweep.request.resources(1)
        task = ray.remote(num_cpus=need.cpus_per_worker, num_gpus=need.gpus_per_worker)(make_scores)
        scores = ray.get(task.remote(job, record.keys))
    Store(sweep.storage).refer(sweep.name, "test", score_keys(job, record.keys))
    found: dict[str, float] = scores
    return found
