"""Jobs beside the trials: what is measured or repeated for what the trials have found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gankd.errors import StageFailed, UserError
from gankd.pipeline import Job, known_metrics, run
from gankd.sweep.launch import lost, train_on_ray
from gankd.sweep.plan import Sweep

# Brings Ray up at the first call; the cluster's resources.
Cluster = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Outcome:
    """The metrics of a job's stages, or why there are none."""

    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""


def bring_about(sweep: Sweep, chains: Sequence[Sequence[Job]], cluster: Cluster) -> list[list[Outcome]]:
    """Run chains of jobs, as many at once as fit, the jobs of a chain one after the other, so that they find in the store
    what they have in common. What the store has already is only read; Ray starts when something is missing."""
    known = [[known_metrics(job) for job in chain] for chain in chains]
    missing = [index for index, chain in enumerate(known) if None in chain]
    outcomes = {index: [Outcome(metrics or {}) for metrics in chain] for index, chain in enumerate(known)}
    if missing:
        cluster()
        outcomes |= dict(zip(missing, _on_ray(sweep, [chains[index] for index in missing]), strict=True))
    return [outcomes[index] for index in range(len(chains))]


def _on_ray(sweep: Sweep, chains: Sequence[Sequence[Job]]) -> list[list[Outcome]]:
    import ray

    request = sweep.request
    need = request.resources(request.workers)
    if need.workers > 1:
        return [[_attempt(lambda job=job: train_on_ray(job, need)) for job in chain] for chain in chains]  # type: ignore[misc]
    task = ray.remote(num_cpus=need.cpus_per_worker, num_gpus=need.gpus_per_worker)(_run_chain)
    return [_outcomes(ray.get, reference, len(chain)) for reference, chain in [(task.remote(chain), chain) for chain in chains]]


def _outcomes(get: Callable[[Any], list[Outcome]], reference: Any, count: int) -> list[Outcome]:
    try:
        return get(reference)
    except Exception as error:
        if what := lost(error):
            return [Outcome(failure=what)] * count
        raise


def _run_chain(chain: Sequence[Job]) -> list[Outcome]:
    return [_attempt(lambda job=job: run(job)) for job in chain]  # type: ignore[misc]


def _attempt(work: Callable[[], dict[str, float]]) -> Outcome:
    try:
        return Outcome(work())
    except (StageFailed, UserError) as error:
        return Outcome(failure=str(error))
