"""Puts a job's stages on Ray Train workers, and brings Ray itself up."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from gankd import interrupt
from gankd.errors import StageFailed, UserError
from gankd.pipeline import Job, World, run
from gankd.store.root import sweep_folder
from gankd.sweep.request import Resources
from gankd.text import first_line

T = TypeVar("T")

LOOPBACK = "GANKD_LOOPBACK"  # set where all workers are on this machine
# Measured reasons for these in docs/decisions.md: reports would block for two seconds, relative paths would break, and so on.
ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints a box at any verbosity
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
# For Ray on a cluster: a node that the autoscaler starts, or that replaces a lost one, needs minutes until it can be used.
CLUSTER = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "1800"}
LONGEST_FOLDER = 35  # bytes, which leave room for "/ray/session_<date and process>/sockets/plasma_store.<n>"
# For Ray on this machine alone.
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # read at the first import; else Ray listens on all addresses, whatever it is told
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less for each worker group
    "GLOO_SOCKET_IFNAME": "lo",
    LOOPBACK: "1",
}


def set_environment(address: str | None) -> None:
    """Settings that Ray reads from the environment. To be called before Ray is first imported."""
    settings = ENVIRONMENT | (CLUSTER if address else LOCAL)
    os.environ.update({name: value for name, value in settings.items() if name not in os.environ})


def start_ray(address: str | None) -> None:
    """Connect to the cluster at `address`, or start Ray on this machine alone (bound to loopback)."""
    set_environment(address)
    import ray

    logging.getLogger("ray.tune.execution.tune_controller").addFilter(Lost())
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "gankd"}
    if address:
        forwarded = _forwarded()
        try:
            ray.init(address=address, runtime_env={"env_vars": forwarded}, **quiet)
        except Exception as error:  # Ray has no class of its own for it, and of a node that is late it raises plain Exception
            raise UserError(
                f"cannot reach a Ray cluster at {address!r} ({first_line(error).rstrip('.: ')}); is `ray up` done?"
            ) from None
    else:
        memory = 256 * 1024**2  # artifacts travel through the store, not through Ray's shared memory
        folder = _short_folder()
        try:
            ray.init("local", include_dashboard=False, object_store_memory=memory, _temp_dir=folder, **quiet)
        except Exception as error:
            raise UserError(
                f"Ray does not start on this machine ({first_line(error).rstrip('.: ')}); it needs 2 GiB of memory and a core "
                "that is not busy: try again with --resume"
            ) from None
    if threading.current_thread() is threading.main_thread():
        interrupt.install()  # Ray has handlers of its own


def _short_folder() -> str | None:
    """Where Ray keeps its sockets, whose paths the kernel cuts at 107 bytes; None for Ray's own choice, where that is short."""
    chosen = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"
    return None if len(os.fsencode(chosen)) <= LONGEST_FOLDER else f"/tmp/ray-{os.getuid()}"


def _forwarded() -> dict[str, str]:
    names = [*ENVIRONMENT, *CLUSTER, "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"]
    return {name: os.environ[name] for name in names if name in os.environ}


def train_on_ray(
    job: Job, need: Resources, *, callbacks: list[Any] | None = None, report: tuple[str, str] | None = None
) -> dict[str, float]:
    """Run the job on a Ray Train worker group; returns its metrics.

    A worker that dies is replaced, twice, and the new group goes on from the running stage's last checkpoint. `report`: the
    objective, and the metric of the watched stage that stands for it while that trains; they go out through Ray Train.
    Raises what the stages raise.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from gankd.sweep.loopback import LoopbackConfig

    trainer = TorchTrainer(
        _worker,  # type: ignore[arg-type]  # TorchTrainer hands its return value on
        torch_config=LoopbackConfig() if os.environ.get(LOOPBACK) else TorchConfig(),
        train_loop_config={"job": job.as_dict(), "report": report},
        scaling_config=ScalingConfig(
            num_workers=need.workers, use_gpu=bool(need.gpus_per_worker), resources_per_worker=need.per_worker()
        ),
        run_config=RunConfig(
            # A fresh name each time: a finished run of the same name would be returned as it was. Going on after a
            # crash does not need the name, because checkpoints belong to the artifact's key.
            name=f"train-{uuid.uuid4().hex[:12]}",
            storage_path=sweep_folder(job.storage, job.sweep),
            failure_config=FailureConfig(max_failures=2),
            callbacks=callbacks or [],
            logging_config=LoggingConfig(log_level="ERROR"),  # type: ignore[call-arg]
        ),
    )
    try:
        outcome = _beside(trainer.fit).return_value
    except Exception as error:
        if what := lost(error):
            raise StageFailed(f"{what}, three times in a row; is there enough memory?") from error
        raise
    if "user_error" in outcome:
        raise UserError(outcome["user_error"])
    if "stage_failed" in outcome:
        raise StageFailed(outcome["stage_failed"])
    metrics: dict[str, float] = outcome["metrics"]
    return metrics


def lost(error: BaseException) -> str:
    """The sentence for a process or a machine that was lost; empty for an error that our own code raised."""
    from ray.exceptions import RayError, RayTaskError

    causes = list(getattr(error, "worker_failures", {}).values()) or [error]
    if any(isinstance(cause, RayTaskError) or type(cause).__name__ == "UserExceptionWithTraceback" for cause in causes):
        return ""
    if causes == [error] and not isinstance(error, RayError):
        return ""
    return f"a process that trained was lost ({first_line(causes[0]).rstrip('.: ')})"


class Lost(logging.Filter):
    """Tune prints a page of its own code for each process that dies. It starts the trial again: a line says that."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and (what := lost(error)):
            record.msg, record.args, record.exc_info = f"{what}; its trial goes on from the last checkpoint", (), None
        return True


def _beside(work: Callable[[], T]) -> T:
    """What `work` returns or raises, in a thread of its own: in the main one Ray Train takes Ctrl-C for itself, for ever."""
    outcome: Future[T] = Future()

    def run_there() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run_there, name="train", daemon=True).start()
    return outcome.result()


def _worker(config: dict[str, Any]) -> dict[str, Any]:
    """One Ray Train worker. What the user can mend comes back as a value: raising it would be retried."""
    import ray.train

    place = ray.train.get_context()
    world = World(rank=place.get_world_rank(), size=place.get_world_size())

    def report(metrics: Mapping[str, float], step: int) -> None:
        objective, watched = config["report"]
        ray.train.report({**metrics, objective: metrics.get(watched, math.nan), "step": step})

    with contextlib.redirect_stdout(None):
        try:
            return {"metrics": run(Job(**config["job"]), world, report if config["report"] else None)}
        except UserError as error:
            return {"user_error": str(error)}
        except StageFailed as error:
            return {"stage_failed": str(error)}
