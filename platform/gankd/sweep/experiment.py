"""A whole sweep from start to end: tracking, the shared stages, the trials, the choice, the test scores, the registry."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from gankd import __version__
from gankd.errors import StageFailed, UserError
from gankd.method import flatten
from gankd.pictures import trial_curves
from gankd.pipeline import stage_keys
from gankd.store import Store
from gankd.store.events import EventReader, EventWriter
from gankd.sweep.display import Live, score_table, trial_table
from gankd.sweep.plan import Sweep
from gankd.sweep.records import TrialRecord
from gankd.sweep.scoring import main_scores
from gankd.tracking.tracker import Tracker

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gankd.sweep.trials import Cluster


@dataclass
class Result:
    """What a sweep found: all trials, the chosen one, its test scores, and the registered models."""

    records: list[TrialRecord]
    best: TrialRecord
    scores: dict[str, float]
    registered: list[str]


def run_experiment(sweep: Sweep, address: str | None, console: Console) -> Result:
    """Run the sweep, or what is left of it. Raises UserError when nothing came out of it, KeyboardInterrupt as it comes."""
    from gankd.sweep.remarks import remarks  # imports Ray

    sweep.records.save_request(sweep.request.model_dump(mode="json"))
    with ExitStack() as stack:
        tracker = open_tracker(sweep)
        events = EventWriter(sweep.records.events, "sweep")
        outcome = "stopped"
        try:
            tracker.start()
            # Ray starts when something has to run; a sweep whose results are all known ends without it.
            cluster = cache(partial(_start_ray, sweep, address, stack))
            console.print(f"sweep [bold]{sweep.name}[/] in {sweep.storage}, tracked at {tracker.uri}")
            for sentence in remarks(sweep, this_machine=not address):
                console.print(sentence)
            with Live(console, sweep, EventReader(sweep.records.events)):
                records = _train(sweep, cluster)
            result = _conclude(sweep, records, cluster, tracker, events, console)
            outcome = "finished"
            return result
        except (UserError, StageFailed):
            outcome = "failed"
            raise
        finally:
            events.close()
            unsent = tracker.close(wait_s=30.0 if outcome == "finished" else 5.0)
            ended = tracker.finish(outcome)
            if unsent or not ended:
                console.print(
                    f"{unsent} events could not be sent to {tracker.uri}; they wait in {sweep.records.events} and "
                    f"`gankd tune --resume {sweep.name}` sends them"
                )


def open_tracker(sweep: Sweep) -> Tracker:
    """The sweep's run in MLflow. Raises UserError when the tracking store refuses."""
    here = Path.cwd()
    tracker = Tracker(
        Tracker.default_uri(here),
        sweep.experiment,
        here / "mlruns",
        sweep.name,
        EventReader(sweep.records.events),
        here / "mlruns" / ".sent" / f"{sweep.name}.json",
    )
    tags = {
        "gankd.method": sweep.method.name,
        "gankd.dataset": sweep.dataset,
        "gankd.data": sweep.fingerprint,
        "gankd.mode": sweep.space.mode,
        "gankd.metric": sweep.space.metric,
        "gankd.version": __version__,
    }
    if any(stage.name == "feature_classifier" for stage in sweep.method.stages):
        tags["gankd.feature_classifier"] = stage_keys(sweep.method, sweep.config, sweep.fingerprint)["feature_classifier"]
    tracker.open_sweep(flatten(sweep.tree), tags)
    return tracker


def _start_ray(sweep: Sweep, address: str | None, stack: ExitStack) -> Mapping[str, float]:
    import ray

    from gankd.sweep.launch import check_fits, start_ray

    have = start_ray(address)
    stack.callback(ray.shutdown)
    check_fits(sweep.request.resources(sweep.request.workers), have, "a trial")
    if sweep.shared():
        check_fits(sweep.request.resources(sweep.request.shared_workers), have, "the shared stages")
    return have


def _train(sweep: Sweep, cluster: Cluster) -> list[TrialRecord]:
    # Tune would swallow Ctrl-C and end as if all were well.
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    from gankd.sweep.trials import run_shared, run_trials

    try:
        run_shared(sweep, cluster)
    except StageFailed as error:
        raise UserError(f"the sweep cannot start, its shared stages failed: {error}") from None
    return run_trials(sweep, cluster)


def choose(sweep: Sweep, records: list[TrialRecord]) -> TrialRecord:
    """The finished trial with the best objective; the first of equals. Raises UserError when no trial finished."""
    metric = sweep.space.metric
    done = [r for r in records if r.status == "finished" and math.isfinite(r.metrics.get(metric, math.nan))]
    if not done:
        reasons = next((r.reason for r in records if r.reason), f"none reported {metric!r}")
        raise UserError(f"none of the {len(records)} trials finished: {reasons}")
    pick = max if sweep.space.mode == "max" else min
    return pick(done, key=lambda record: record.metrics[metric])


def _conclude(
    sweep: Sweep, records: list[TrialRecord], cluster: Cluster, tracker: Tracker, events: EventWriter, console: Console
) -> Result:
    from gankd.sweep.trials import test_scores

    best = choose(sweep, records)
    scores = test_scores(sweep, best, cluster)
    store = Store(sweep.storage)
    for key in {key for record in records for key in record.keys.values()}:
        if store.has(key):
            artifact = store.get(key)
            if artifact:
                tracker.stage_from_store(key, artifact.manifest)
    events.emit("metrics", step=0, values=_summary(sweep, best, scores))
    if curves := validation_curves(sweep, records):
        events.emit("image", name="trials", step=0, png=trial_curves(curves, sweep.space.metric))
    events.flush()
    console.print(trial_table(sweep, records, best))
    console.print(score_table(sweep, best, scores))
    registered = register_best(sweep, best, scores, tracker)
    for line in registered:
        console.print(line)
    return Result(records, best, scores, registered)


def validation_curves(sweep: Sweep, records: list[TrialRecord]) -> dict[str, list[tuple[int, float]]]:
    """Trial -> (step, objective) as its watched stage reported them in this sweep; what came from the store has none."""
    trials = {record.keys.get(sweep.method.watched): record.trial for record in records}
    curves: dict[str, list[tuple[int, float]]] = {}
    reader = EventReader(sweep.records.events)
    cursor: dict[str, int] = {}
    while True:
        seen, after = reader.read(cursor)
        for event in seen:
            if event["kind"] == "metrics" and event.get("key") in trials and sweep.space.metric in event["values"]:
                point = (event["step"], event["values"][sweep.space.metric])
                curves.setdefault(trials[event["key"]], []).append(point)
        if after == cursor:
            return curves
        cursor = after


def _summary(sweep: Sweep, best: TrialRecord, scores: Mapping[str, float]) -> dict[str, float]:
    """The chosen trial's figures for the sweep's own run, besides all its metrics by name.

    `objective`; `gain` over the control, positive where the method helps, on test where both are scored, else on validation;
    val/<role> and test/<role> for each scored stage, and for "student" and "control", whatever their stages are called;
    generator/<metric> of the stage that measures generators.
    """
    method, metric = sweep.method, sweep.space.metric
    name = metric.partition("/")[2]
    test = main_scores(scores, metric)
    ends = f"/{name}"
    val = {key.removesuffix(ends): value for key, value in best.metrics.items() if key.endswith(ends)}
    values = dict(best.metrics) | dict(scores) | {"objective": best.metrics[metric]}
    roles = {stage: stage for stage in method.scored}
    if "student" in method.registered:
        roles["student"] = method.registered["student"]
    if method.gain:
        roles["control"] = method.gain[1]
        both = test if set(method.gain) <= test.keys() else val
        if set(method.gain) <= both.keys():
            ours, control = (both[stage] for stage in method.gain)
            values["gain"] = (ours - control) * (1 if sweep.space.mode == "max" else -1)
    for part, found in (("val", val), ("test", test)):
        values.update({f"{part}/{role}": found[stage] for role, stage in roles.items() if stage in found})
    if method.generator_metric:
        measured = method.generator_metric[0].partition("/")[0] + "/"
        generator = {key.replace(measured, "generator/"): v for key, v in best.metrics.items() if key.startswith(measured)}
        values.update(generator)
    return values


def network_and_example(folder: Path) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A saved network and an example of what it takes, two of each: latents and labels, or images."""
    import torch

    from gankd import models

    network = models.load(folder)
    if hasattr(network, "dim_z"):
        return network, (torch.zeros(2, network.dim_z), torch.zeros(2, dtype=torch.long))
    size = network.recipe["image_size"]
    return network, (torch.zeros(2, network.recipe["image_channels"], size, size),)


def register_best(sweep: Sweep, best: TrialRecord, scores: Mapping[str, float], tracker: Tracker) -> list[str]:
    """Make the chosen trial's networks versions of `<dataset>-<role>`; a sentence about each."""
    from gankd.tracking.model_registry import register

    said = []
    for role, stage in sweep.method.registered.items():
        artifact = Store(sweep.storage).get(best.keys[stage])
        if artifact is None:
            continue
        metric, mode = sweep.space.metric, sweep.space.mode
        if role == "generator" and sweep.method.generator_metric:
            metric, mode = sweep.method.generator_metric
        done = register(
            tracker.uri,
            f"{sweep.dataset}-{role}",
            partial(network_and_example, artifact.path),
            artifact.path,
            key=artifact.key,
            metrics={**best.metrics, **scores},
            metric=metric,
            mode=mode,
            fingerprint=sweep.fingerprint,
            run_id=tracker.run_of(key=artifact.key),
            tags={
                "gankd.method": sweep.method.name,
                "gankd.sweep": sweep.name,
                "gankd.trial": best.trial,
                "gankd.data_config": json.dumps(sweep.config_of(best.knobs).data.model_dump(mode="json")),
                "gankd.config": json.dumps(flatten(sweep.config_of(best.knobs))),
                "gankd.keys": json.dumps(best.keys),
            },
        )
        state = "registered" if done.new else "already registered"
        said.append(f"{state} {done.name} version {done.version} ({done.alias}; {metric} {best.metrics[metric]:.4g})")
    return said
