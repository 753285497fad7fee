"""Jobs beside the trials: what is measured or repeated for what the trials have found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from gankd.errors import StageFailed, UserError
from gankd.method import flatten
from gankd.pipeline import Job, Pipeline, known_metrics, run
from gankd.store.events import EventWriter
from gankd.store.root import sweep_events
from gankd.sweep.launch import lost, train_on_ray
from gankd.sweep.nodes import Nodes, concurrency
from gankd.sweep.plan import Sweep
from gankd.sweep.records import Outcome
from gankd.sweep.request import Resources

# Brings Ray up at the first call; what its nodes have.
Cluster = Callable[[], Nodes]


def bring_about(sweep: Sweep, chains: Sequence[Sequence[Job]], cluster: Cluster, *, tracked: bool = False) -> list[list[Outcome]]:
    """Run chains of jobs, as many at once as fit, the jobs of a chain one after the other, so that they find in the store
    what they have in common. What the store has already is only read; Ray starts when something is missing.

    tracked: each job has a run in the tracker, beside those of the trials, and its outcome says its keys.
    """
    known = [[known_metrics(job) for job in chain] for chain in chains]
    missing = [index for index, chain in enumerate(known) if None in chain]
    outcomes = {index: [Outcome(metrics or {}) for metrics in chain] for index, chain in enumerate(known)}
    if tracked:
        for index in outcomes.keys() - set(missing):
            pairs = zip(chains[index], outcomes[index], strict=True)
            outcomes[index] = [_told(job, partial(_the, outcome)) for job, outcome in pairs]
    if missing:
        nodes = cluster()
        outcomes |= dict(zip(missing, _on_ray(sweep, [chains[index] for index in missing], nodes, tracked), strict=True))
    return [outcomes[index] for index in range(len(chains))]


def _on_ray(sweep: Sweep, chains: Sequence[Sequence[Job]], nodes: Nodes, tracked: bool) -> list[list[Outcome]]:
    import ray

    request = sweep.request
    need = request.resources(request.workers)
    if need.workers > 1:
        return [_run_chain(chain, tracked, partial(train_on_ray, need=need)) for chain in chains]
    task = ray.remote(**remote_options(need))(_run_chain)
    parts = in_parts(chains, concurrency(need, nodes))
    started = [[task.remote(part, tracked) for part in of_chain] for of_chain in parts]
    return [
        [outcome for reference, part in zip(*pair, strict=True) for outcome in _outcomes(ray.get, reference, part, tracked)]
        for pair in zip(started, parts, strict=True)
    ]


def in_parts(chains: Sequence[Sequence[Job]], slots: int) -> list[list[Sequence[Job]]]:
    """Each chain as the parts that run by themselves: whole, but for the last ones, which would leave some of `slots` idle.

    Where two parts of a chain need the same artifact, one of them makes it and the other waits, in a slot that is free.
    """
    left = len(chains) % slots
    whole = len(chains) - left
    parts: list[list[Sequence[Job]]] = [[chain] for chain in chains[:whole]]
    for chain in chains[whole:]:
        size = -(-len(chain) // (slots // left))
        parts.append([chain[start : start + size] for start in range(0, len(chain), size)])
    return parts


def remote_options(need: Resources) -> dict[str, Any]:
    """What a Ray task of one worker is to reserve."""
    own = {kind: each for kind, each in need.per_worker().items() if kind == need.pool}
    return {"num_cpus": need.cpus_per_worker, "num_gpus": need.gpus_per_worker, "resources": own}


def _outcomes(get: Callable[[Any], list[Outcome]], reference: Any, chain: Sequence[Job], tracked: bool) -> list[Outcome]:
    try:
        return get(reference)
    except Exception as error:
        what = lost(error)
        if not what:
            raise
        return [_told(job, partial(_the, Outcome(failure=what))) if tracked else Outcome(failure=what) for job in chain]


def _run_chain(chain: Sequence[Job], tracked: bool, train: Callable[[Job], dict[str, float]] = run) -> list[Outcome]:
    attempt = partial(_attempt, train)
    return [_told(job, attempt) if tracked else attempt(job) for job in chain]


def _attempt(train: Callable[[Job], dict[str, float]], job: Job) -> Outcome:
    try:
        return Outcome(train(job))
    except (StageFailed, UserError) as error:
        return Outcome(failure=str(error))


def _told(job: Job, work: Callable[[Job], Outcome]) -> Outcome:
    """The outcome of `work(job)`, with a run in the tracker that begins before it and ends after it."""
    pipeline = Pipeline(job)
    needed = pipeline.method.needed(job.stages, pipeline.config)
    keys = {stage: key for stage, key in pipeline.keys.items() if stage in needed}
    with closing(EventWriter(sweep_events(job.storage, job.sweep), job.trial)) as events:
        events.emit("trial_start", trial=job.trial, params=flatten(job.config) | {"repetition": job.repetition}, keys=keys)
        outcome = work(job)
        status = "failed" if outcome.failure else "finished"
        events.emit("trial_end", trial=job.trial, status=status, metrics=outcome.metrics, reason=outcome.failure)
    return replace(outcome, keys=keys)


def _the(outcome: Outcome, _: Job) -> Outcome:
    return outcome
