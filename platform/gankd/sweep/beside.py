"""The controls of trials that wait for no shared stage in training are made beside the shared stages, on what idles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from gankd.errors import StageFailed, UserError
from gankd.pipeline import Job, Pipeline, known_metrics, run
from gankd.store import Store
from gankd.sweep.jobs import Cluster, remote_options
from gankd.sweep.launch import lost
from gankd.sweep.nodes import Nodes, room
from gankd.sweep.plan import Sweep
from gankd.sweep.points import draw_points

MOST = 100  # controls: shared stages are done before more of them, and each is looked up beforehand


@contextmanager
def controls_beside(sweep: Sweep, cluster: Cluster) -> Iterator[None]:
    """While the block makes the shared stages, the trials' controls are made where there is room.

    Each of them is the artifact that its trial would make, which then finds it in the store; a failure is the trial's to tell.
    Entering starts Ray when there is something to make. Raises on leaving what a bug of ours raised.
    """
    controls = controls_to_make(sweep)
    started = _start(sweep, controls, cluster()) if controls else []
    yield
    if started:
        import ray
    for reference in started:
        try:
            ray.get(reference)
        except Exception as error:
            if not lost(error):
                raise


def controls_to_make(sweep: Sweep) -> list[Job]:
    """The controls of all trials, in order, when a shared stage is missing that they do not need; else none.

    Before them comes what they need of the shared stages, as a job of no trial. Trials that Optuna is to draw are not known
    yet, and those of several workers take Ray Train.
    """
    request, gain = sweep.request, sweep.method.gain
    if gain is None or request.search != "random" or request.workers > 1:
        return []
    shared = Pipeline(sweep.job({}, stages=sweep.shared()))
    store = Store(sweep.storage)
    missing = {name for name in shared.job.stages if not store.has(shared.keys[name])}
    needed = sweep.method.needed((gain.control,), sweep.config)
    if missing <= needed:
        return []
    jobs: dict[str, Job] = {}
    if first := tuple(name for name in shared.job.stages if name in missing & needed):
        jobs[""] = sweep.job({}, stages=first)
    for trial, knobs in islice(draw_points(sweep).items(), MOST):
        with suppress(UserError):  # knobs that do not go together: the trial itself says so, and fails
            job = sweep.job(knobs, trial, (gain.control,))
            jobs.setdefault(Pipeline(job).keys[gain.control], job)
    return list(jobs.values())


def make_until(jobs: Sequence[Job], done: Callable[[], bool]) -> int:
    """Run jobs one after the other, as long as not `done()`; returns how many. What fails is left to its trial."""
    for count, job in enumerate(jobs):
        if done():
            return count
        with suppress(StageFailed, UserError):
            run(job)
    return len(jobs)


def _start(sweep: Sweep, controls: Sequence[Job], nodes: Nodes) -> list[Any]:
    import ray

    need, shared = sweep.request.resources(1), sweep.job({}, stages=sweep.shared())
    slots = room(nodes, sweep.request.shared_resources(), need)
    task = ray.remote(**remote_options(need))(_make_beside)
    first, own = ([job for job in controls if bool(job.trial) is of_a_trial] for of_a_trial in (False, True))
    return [task.remote([*first, *own[slot::slots]], shared) for slot in range(min(slots, len(own)))]


def _make_beside(controls: Sequence[Job], shared: Job) -> int:
    """Until the shared stages are there: then the trials want the room."""
    return make_until(controls, lambda: known_metrics(shared) is not None)
