"""Runs the stages of a method in order, each only when its artifact is missing. No Ray, no MLflow; torch only when training.

keys = stage_keys(method, config, fingerprint)     # what each artifact is called
metrics = run(Job(...))                            # {"student/val_accuracy": 0.91, ...}
"""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gankd import __version__
from gankd.config import MethodConfig, build_config, digest, identity
from gankd.data import load as load_data
from gankd.errors import StageFailed, UserError
from gankd.method import Method, Stage, flatten, named
from gankd.registry import find_method
from gankd.store import Artifact, Store
from gankd.store.events import EventWriter
from gankd.store.root import sweep_events
from gankd.store.storage import explain_full_disk
from gankd.world import World

if TYPE_CHECKING:
    from gankd.context import Report

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """All that a process needs to run stages of a method. Plain data, so that it travels.

    Attributes:
        method, config: the method's name and its resolved config as a tree.
        storage: root of the store and of the sweep's records (a folder or a bucket URI).
        stages: the stages to bring about, in the method's order; empty = all of them.
        sweep, trial: whom the work is for ("" = nobody in particular; a prefix has a sweep and no trial).
        fingerprint: of the data, when the sender knows it.
        threads: CPU threads to compute with (0 = leave torch's own choice).
        salt: goes into every key; a salted artifact is shared with nobody who has another salt.
    """

    method: str
    config: dict[str, Any]
    storage: str
    stages: tuple[str, ...] = ()
    sweep: str = ""
    trial: str = ""
    fingerprint: str = ""
    threads: int = 0
    checkpoint_seconds: float = 30.0
    salt: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def stage_keys(method: Method, config: MethodConfig, fingerprint: str, salt: str = "") -> dict[str, str]:
    """Stage name -> key of its artifact: a hash of the stage, its knobs, the seed, the data, and its inputs' keys."""
    keys: dict[str, str] = {}
    for stage in method.stages:
        content = {
            "stage": stage.name,
            "function": stage.run,
            "version": stage.version,
            "config": identity(stage.config(config)),
            "seed": config.seed,
            "data": fingerprint,
            "needs": {name: keys[name] for name in stage.inputs},
            "salt": salt,
        }
        if stage.sections:
            content["sections"] = {name: identity(section) for name, section in stage.also(config).items()}
        keys[stage.name] = f"{stage.name}-{digest(content)}"
    return keys


def run(job: Job, world: World | None = None, report: Report | None = None) -> dict[str, float]:
    """Bring about the job's stages; returns their metrics as {"<stage>/<metric>": value}.

    `report` receives the validation metrics of the method's watched stage while it trains. Every rank calls this.
    Raises StageFailed when a stage cannot go on, UserError for what the user can mend.
    """
    return Pipeline(job, world or World(), report).run()


@dataclass
class Pipeline:
    """One run of a job in one process."""

    job: Job
    world: World = field(default_factory=World)
    report: Report | None = None

    @cached_property
    def method(self) -> Method:
        return find_method(self.job.method)

    @cached_property
    def config(self) -> MethodConfig:
        return build_config(self.method.config, self.job.config)

    @cached_property
    def store(self) -> Store:
        return Store(self.job.storage)

    @cached_property
    def keys(self) -> dict[str, str]:
        fingerprint = self.job.fingerprint or load_data(self.config.data).fingerprint
        return stage_keys(self.method, self.config, fingerprint, self.job.salt)

    def run(self) -> dict[str, float]:
        artifacts: dict[str, Artifact] = {}
        if self.job.sweep and self.world.rank == 0:
            # Before anything is made: what a sweep refers to is never collected.
            self.store.refer(self.job.sweep, self.job.trial or "shared", self.keys)
        wanted = [s for s in self.method.stages if not self.job.stages or s.name in self.job.stages]
        for stage in wanted:
            artifacts[stage.name] = self.obtain(stage, artifacts)
        return {f"{name}/{metric}": value for name, a in artifacts.items() for metric, value in a.metrics.items()}

    def obtain(self, stage: Stage, artifacts: Mapping[str, Artifact]) -> Artifact:
        """The stage's artifact: from the store, or made here, by one maker at a time."""
        key, leader = self.keys[stage.name], self.world.rank == 0
        artifact = self.store.get(key) if leader else None
        if not self.world.from_leader(artifact is not None):
            with self.store.lease(key) if leader else contextlib.nullcontext():
                # Whoever held the lease before may have made it.
                artifact = self.store.get(key) if leader else None
                if not self.world.from_leader(artifact is not None):
                    artifact = self._make(stage, {name: artifacts[name] for name in stage.inputs})
        if not leader:
            artifact = self.store.get(key)
        if artifact is None:
            raise UserError(f"worker {self.world.rank} cannot see artifact {key} in {self.job.storage}; is it shared?")
        return artifact

    def _make(self, stage: Stage, inputs: Mapping[str, Artifact]) -> Artifact | None:
        """Train the stage on all ranks; rank 0 publishes. Failures are known to every rank and remembered by the sweep."""
        import torch

        key = self.keys[stage.name]
        self._refuse_known_failure(key)
        _, error = self._attempt(lambda: self._warm_up(stage))
        self._agree(key, error)
        started, cpu_started = time.time(), time.process_time()
        events = self._open_events(stage)
        end: dict[str, Any] = {"status": "stopped", "metrics": {}, "reason": ""}
        out = self.store.scratch(key)
        try:
            metrics, error = self._attempt(lambda: self._call(stage, inputs, out, events))
            self._agree(key, error)
            manifest = self._manifest(stage, inputs, metrics or {}) | {
                "created": started,
                "seconds": time.time() - started,
                "cpu_seconds": time.process_time() - cpu_started,
                "versions": {"gankd": __version__, "torch": torch.__version__},
            }
            artifact, error = self._attempt(lambda: self._publish(key, out, manifest))
            self._agree(key, error)
            end = {"status": "finished", "metrics": manifest["metrics"], "reason": ""}
            return artifact
        except (StageFailed, UserError) as failure:
            end = {"status": "failed", "metrics": {}, "reason": str(failure)}
            raise
        finally:
            shutil.rmtree(out, ignore_errors=True)
            if events:
                names = {f"{stage.name}/{name}": value for name, value in end.pop("metrics").items()}
                events.emit("stage_end", key=key, stage=stage.name, trial=self.job.trial, metrics=names, **end)
                events.close()

    def _warm_up(self, stage: Stage) -> None:
        """What a process does once, and what is therefore not part of the stage's time: imports, reading the data."""
        importlib.import_module("torch._dynamo")  # the first optimiser of a process would, in a second
        named(stage.run)
        load_data(self.config.data)

    def _publish(self, key: str, out: Path, manifest: Mapping[str, Any]) -> Artifact | None:
        return self.store.publish(key, out, manifest) if self.world.rank == 0 else None

    def _call(self, stage: Stage, inputs: Mapping[str, Artifact], out: Any, events: EventWriter | None) -> Any:
        import torch

        from gankd.context import Context, choose_device

        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        ctx = Context(
            stage=stage.name,
            key=self.keys[stage.name],
            seed=self.config.seed,
            out=out,
            store=self.store,
            device=choose_device(),
            rank=self.world.rank,
            world_size=self.world.size,
            events=events,
            trial=self.job.trial,
            report=self.report if stage.name == self.method.watched else None,
            checkpoint_seconds=self.job.checkpoint_seconds,
        )
        ctx.seed_layers(-1)
        with explain_full_disk(out):
            also = stage.also(self.config)
            return named(stage.run)(ctx, stage.config(self.config), load_data(self.config.data), **also, **inputs)

    @staticmethod
    def _attempt(call: Callable[[], T]) -> tuple[T | None, StageFailed | UserError | None]:
        try:
            return call(), None
        except (StageFailed, UserError) as error:
            return None, error

    def _agree(self, key: str, error: StageFailed | UserError | None) -> None:
        """Raise the first rank's error on every rank, so that none waits for one that gave up."""
        first = next((e for e in self.world.gather(error) if e is not None), None)
        if first is None:
            return
        if isinstance(first, StageFailed) and self.job.sweep and self.world.rank == 0:
            self.store.remember_failure(self.job.sweep, key, str(first))
        raise first

    def _refuse_known_failure(self, key: str) -> None:
        known = self.store.known_failure(self.job.sweep, key) if self.job.sweep and self.world.rank == 0 else None
        if reason := self.world.from_leader(known):
            raise StageFailed(reason)

    def _open_events(self, stage: Stage) -> EventWriter | None:
        if self.world.rank != 0 or not self.job.sweep:
            return None
        events = EventWriter(sweep_events(self.job.storage, self.job.sweep), f"{self.job.trial or 'prefix'}-{stage.name}")
        events.emit(
            "stage_start",
            key=self.keys[stage.name],
            stage=stage.name,
            config=flatten(stage.config(self.config)) | flatten(self._reads(stage)),
            inputs={name: self.keys[name] for name in stage.inputs},
            trial=self.job.trial,
        )
        return events

    def _reads(self, stage: Stage) -> dict[str, Any]:
        return {name: section.model_dump(mode="json") for name, section in stage.also(self.config).items()}

    def _manifest(self, stage: Stage, inputs: Any, metrics: Mapping[str, float]) -> dict[str, Any]:
        import torch

        return {
            "stage": stage.name,
            "function": stage.run,
            "version": stage.version,
            "method": self.method.name,
            "config": stage.config(self.config).model_dump(mode="json"),
            "sections": self._reads(stage),
            "data_config": self.config.data.model_dump(mode="json"),
            "seed": self.config.seed,
            "fingerprint": load_data(self.config.data).fingerprint,
            "inputs": {name: artifact.key for name, artifact in inputs.items()},
            "metrics": {name: float(value) for name, value in metrics.items()},
            "workers": self.world.size,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu x{os.cpu_count()}",
        }
