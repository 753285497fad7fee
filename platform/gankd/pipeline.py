"""Runs the stages of a method in order, each only when its artifact is missing. No Ray, no MLflow; torch only when training.

keys = name_artifacts(method, config, fingerprint).keys      # what each artifact is called
metrics = run(Job(...))                                      # {"student/val_accuracy": 0.91, ...}
"""

from __future__ import annotations

import contextlib
import importlib
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from gankd import __version__
from gankd.config import MethodConfig, build_config
from gankd.data import DataSet, prepared
from gankd.errors import StageFailed, UserError
from gankd.job import Job
from gankd.method import Method, Stage, flatten, named
from gankd.naming import Names, code_of_stages, name_artifacts
from gankd.prepared_data import obtain
from gankd.registry import find_method
from gankd.store import Artifact, Store
from gankd.store.events import EventWriter
from gankd.store.root import sweep_events
from gankd.store.storage import explain_full_disk
from gankd.world import World

if TYPE_CHECKING:
    from pathlib import Path

    from gankd.context import Context, Report

T = TypeVar("T")


def run(job: Job, world: World | None = None, report: Report | None = None) -> dict[str, float]:
    """Bring about the job's stages; returns their metrics as {"<stage>/<metric>": value}.

    `report` receives the validation metrics of the method's watched stage while it trains. Every rank calls this.
    Raises StageFailed when a stage cannot go on, UserError for what the user can mend.
    """
    return Pipeline(job, world or World(), report).run()


def known_metrics(job: Job) -> dict[str, float] | None:
    """What `run` would return, read from the manifests alone; None unless all artifacts are there."""
    pipeline = Pipeline(job)
    manifests = {stage.name: pipeline.store.manifest(pipeline.keys[stage.name]) for stage in pipeline.wanted}
    if any(manifest is None for manifest in manifests.values()):
        return None
    return _metrics({name: manifest for name, manifest in manifests.items() if manifest is not None})


def _metrics(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    return {f"{name}/{metric}": value for name, made in manifests.items() for metric, value in made["metrics"].items()}


@dataclass
class Pipeline:
    """One run of a job in one process."""

    job: Job
    world: World = field(default_factory=World)
    report: Report | None = None

    @cached_property
    def method(self) -> Method:
        method = find_method(self.job.method)
        if self.job.code and self.job.code != code_of_stages(method):
            raise UserError(
                f"the code of method {method.name!r} is not what it was when this sweep was started; "
                "let it end before the code is edited, or go on with --resume, which trains again what changed"
            )
        return method

    @cached_property
    def config(self) -> MethodConfig:
        return build_config(self.method.config, self.job.config)

    @cached_property
    def store(self) -> Store:
        return Store(self.job.storage, on_damage=self._tell_damage)

    @cached_property
    def data(self) -> DataSet:
        """Without its test part. Raises UserError for other data than the sender of the job has seen."""
        return obtain(self.store, self.config.data, self.job.fingerprint)

    @cached_property
    def names(self) -> Names:
        job, fingerprint = self.job, self.job.fingerprint or self.data.fingerprint
        stale = self.store if job.reuse_stale else None
        return name_artifacts(self.method, self.config, fingerprint, job.salt, job.repetition, stale)

    @property
    def keys(self) -> dict[str, str]:
        return self.names.keys

    @property
    def trial_keys(self) -> dict[str, str]:
        """Of the stages that a trial makes."""
        return {stage.name: self.keys[stage.name] for stage in self.method.made(self.config)}

    @cached_property
    def wanted(self) -> list[Stage]:
        names = self.job.stages or [stage.name for stage in self.method.made(self.config)]
        return [stage for stage in self.method.stages if stage.name in names]

    def run(self) -> dict[str, float]:
        if self.job.sweep and self.world.rank == 0:
            # Before anything is made: what a sweep refers to is never collected.
            used = {"data": prepared.key(self.job.fingerprint or self.data.fingerprint), **self.keys}
            self.store.refer(self.job.sweep, self.job.trial or "shared", used)
        return _metrics({stage.name: self.obtain(stage) for stage in self.wanted})

    def obtain(self, stage: Stage) -> dict[str, Any]:
        """The manifest of the stage's artifact, which is in the store, or made here, by one maker at a time."""
        manifest = self._manifest_of(stage)
        if manifest is None:
            with self.store.lease(self.keys[stage.name]) if self.world.rank == 0 else contextlib.nullcontext():
                manifest = self._manifest_of(stage)  # whoever held the lease before may have made it
                if manifest is None:
                    self._make(stage)
                    manifest = self._manifest_of(stage)
        if manifest is None:
            raise UserError(f"the artifact {self.keys[stage.name]} vanished from {self.job.storage} when it had been made")
        return manifest

    def _manifest_of(self, stage: Stage) -> dict[str, Any] | None:
        """As the first rank sees it, so that all do the same."""
        return self.world.from_leader(self.store.manifest(self.keys[stage.name]) if self.world.rank == 0 else None)

    def _inputs(self, stage: Stage) -> dict[str, Artifact]:
        """The artifacts that a stage reads, verified on every machine; what is missing or damaged is made first."""
        return {name: self._artifact(self.method.stage(name)) for name in stage.opened_inputs(self.config)}

    def _artifact(self, stage: Stage) -> Artifact:
        key, leader = self.keys[stage.name], self.world.rank == 0
        artifact = self.store.get(key) if leader else None
        if not self.world.from_leader(artifact is not None):
            self.obtain(stage)
        artifact = artifact or self.store.get(key)
        if artifact is None:
            raise UserError(f"worker {self.world.rank} cannot see artifact {key} in {self.job.storage}; is it shared?")
        return artifact

    def _make(self, stage: Stage) -> None:
        """Train the stage on all ranks; rank 0 publishes. Failures are known to every rank and remembered by the sweep."""
        import torch

        key = self.keys[stage.name]
        self._refuse_known_failure(key)
        _, error = self._attempt(lambda: self._warm_up(stage))
        self._agree(key, error)
        inputs = self._inputs(stage)
        started, cpu_started = time.time(), time.process_time()
        events = self._open_events(stage)
        end: dict[str, Any] = {"status": "stopped", "metrics": {}, "reason": ""}
        out = self.store.scratch(key)
        try:
            ctx = self._context(stage, out, events)
            metrics, error = self._attempt(lambda: self._call(stage, ctx, inputs))
            self._agree(key, error)
            manifest = self._manifest(stage, ctx, metrics or {}) | {
                "created": started,
                "seconds": time.time() - started,
                "cpu_seconds": time.process_time() - cpu_started,
                "earlier_device_seconds": ctx.earlier,
                "versions": {"gankd": __version__, "torch": torch.__version__},
            }
            _, error = self._attempt(lambda: self._publish(stage, out, manifest))
            self._agree(key, error)
            end = {"status": "finished", "metrics": manifest["metrics"], "reason": ""}
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
        if not stage.test:
            importlib.import_module("torch._dynamo")  # the first optimiser of a process would, in a second
        named(stage.run)
        _ = self.data

    def _publish(self, stage: Stage, out: Path, manifest: Mapping[str, Any]) -> None:
        if self.world.rank == 0:
            self.store.publish(self.keys[stage.name], out, manifest, recipe=self.names.recipes[stage.name])

    def _context(self, stage: Stage, out: Path, events: EventWriter | None) -> Context:
        from gankd.context import Context, choose_device

        return Context(
            stage=stage.name,
            key=self.keys[stage.name],
            seed=self.names.seeds[stage.name],
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

    def _call(self, stage: Stage, ctx: Context, inputs: Mapping[str, Artifact]) -> dict[str, float]:
        import torch

        if self.job.threads:
            torch.set_num_threads(self.job.threads)
        ctx.seed_layers(-1)
        data = obtain(self.store, self.config.data, self.data.fingerprint, test=True) if stage.test else self.data
        with explain_full_disk(ctx.out):
            metrics: dict[str, float] = named(stage.run)(
                ctx, stage.config(self.config), data, **stage.further(self.config), **inputs
            )
        return metrics

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
            config=flatten(stage.config(self.config)) | flatten(self._further(stage)),
            inputs={name: self.keys[name] for name in stage.inputs},
            trial=self.job.trial,
        )
        return events

    def _tell_damage(self, text: str) -> None:
        """A warning would end in the worker: what is set aside is an event, shown in the terminal."""
        if not self.job.sweep:
            warnings.warn(text, stacklevel=2)
            return
        with contextlib.closing(EventWriter(sweep_events(self.job.storage, self.job.sweep), "damage")) as events:
            events.emit("damage", text=text, trial=self.job.trial)

    def _further(self, stage: Stage) -> dict[str, Any]:
        return {name: section.model_dump(mode="json") for name, section in stage.further(self.config).items()}

    def _manifest(self, stage: Stage, ctx: Context, metrics: Mapping[str, float]) -> dict[str, Any]:
        from gankd.context import device_name

        return {
            "stage": stage.name,
            "function": stage.run,
            "code": self.names.code[stage.name],
            "recipe": self.names.recipes[stage.name],
            "method": self.method.name,
            "config": stage.config(self.config).model_dump(mode="json"),
            "sections": self._further(stage),
            "data_config": self.config.data.model_dump(mode="json"),
            "seed": ctx.seed,
            "fingerprint": self.data.fingerprint,
            "inputs": {name: self.keys[name] for name in stage.inputs},
            "metrics": {name: float(value) for name, value in metrics.items()},
            "basis": ctx.basis,
            "notes": ctx.notes,
            "workers": self.world.size,
            "device": device_name(),
        }
