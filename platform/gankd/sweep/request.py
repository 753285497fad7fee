"""What a user asks of a sweep: the options of `tune` are the fields of `SweepRequest`, with their defaults and bounds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from gankd.config import Section
from gankd.errors import UserError
from gankd.text import shortened

MOST_TRIALS = 100_000
SMALLEST = 1e-4  # what Ray tells apart
OF_A_POOL = 1e-3  # what a worker takes of its pool's resource: a thousand workers on a node are as good as any number
TAKEN = {"cpu", "gpu", "memory", "object_store_memory"}  # what Ray itself calls resources


@dataclass(frozen=True)
class Resources:
    """What one training takes: workers, CPU cores and GPUs for each, and the pool of nodes for all ("" = any node)."""

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0
    pool: str = ""

    def per_worker(self) -> dict[str, float]:
        """What Ray is to reserve for a worker, by its names of resources."""
        gpus = {"GPU": self.gpus_per_worker} if self.gpus_per_worker else {}
        return {"CPU": self.cpus_per_worker} | gpus | ({self.pool: OF_A_POOL} if self.pool else {})

    def threads(self) -> int:
        return max(1, int(self.cpus_per_worker))


def _cpus(amount: float) -> float:
    if 0 < amount < SMALLEST:
        raise ValueError(f"{SMALLEST:g} is the least that Ray tells apart")
    return amount


def _gpus(amount: float) -> float:
    if 0 < amount < SMALLEST or (amount > 1 and amount != int(amount)):
        raise ValueError("it is a part of one, such as 0.25, or a whole number")
    return amount


def _pool(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,62}", name) or name.lower() in TAKEN:
        raise ValueError(
            "a pool is a resource that its nodes have, by a name of letters, digits, - and _ that is none of Ray's own"
        )
    return name


Cpus = Annotated[float, AfterValidator(_cpus)]
Gpus = Annotated[float, AfterValidator(_gpus)]
Pool = Annotated[str, AfterValidator(_pool)]


class SweepRequest(Section):
    """What the user asked for; saved as `sweep.json`, so that `--resume` asks for the same."""

    method: str = Field(description="Method to run; `gankd methods` lists them.")
    preset: str = Field("digits", description="Preset by name, or a YAML file of your own.")
    overrides: dict[str, Any] = Field(default_factory=dict)
    made_from: dict[str, str] = Field(default_factory=dict)  # what it was asked for with -> digest: data, preset, space, files
    space: str | None = Field(None, description="Python file that defines SPACE.  [default: the method's own space]")
    table: str | None = Field(None, description="Fill a table of the paper instead of a search: by name, or a YAML file.")
    trials: int = Field(8, ge=1, le=MOST_TRIALS, description="Number of trials; the first is the preset itself.")
    seeds: int = Field(
        0,
        ge=0,
        le=1000,
        description="Repeat the chosen trial, its control and the preset's (or a table's rows) over so many seeds.",
    )
    scheduler: Literal["asha", "fifo"] = Field("asha", description="Stop the worse half of the trials early, or none.")
    search: Literal["random", "optuna"] = Field("random", description="How knobs are drawn.")
    workers: int = Field(1, ge=1, description="Workers of each trial; more than one runs on Ray Train.")
    shared_workers: int | None = Field(None, ge=1, description="Workers of the shared stages.  [default: as --workers]")
    cpus_per_worker: Cpus = Field(1.0, gt=0, description="CPU cores of each worker.")
    shared_cpus_per_worker: Cpus | None = Field(
        None, gt=0, description="CPU cores of each worker of the shared stages.  [default: as --cpus-per-worker]"
    )
    gpus_per_worker: Gpus = Field(0.0, ge=0, description="GPUs of each worker; 0.25 puts four on one GPU.")
    shared_gpus_per_worker: Gpus | None = Field(
        None, ge=0, description="GPUs of each worker of the shared stages.  [default: as --gpus-per-worker]"
    )
    pool: Pool | None = Field(None, description="Nodes for the trials: those with a resource of this name.  [default: all]")
    shared_pool: Pool | None = Field(None, description="Nodes for the shared stages.  [default: all]")
    checkpoint_seconds: float = Field(30.0, ge=0, description="Time between checkpoints of a stage; 0 = each step.")
    reuse: bool = Field(True, description="Take finished stages from the store or train all anew.")
    reuse_stale: bool = Field(False, description="Take also what was trained by code that has been edited since.")

    @model_validator(mode="after")
    def _one_worker_on_a_gpu(self) -> SweepRequest:
        """NCCL, by which the workers of a training speak, takes no two of them on one GPU."""
        for flag, need in (("", self.resources(self.workers)), ("shared_", self.shared_resources())):
            if 0 < need.gpus_per_worker < 1 < need.workers:
                raise UserError(
                    f"--{flag.replace('_', '-')}gpus-per-worker cannot be {need.gpus_per_worker:g} with {need.workers} workers: "
                    "the workers of one training need a GPU each, or none"
                )
        return self

    def resources(self, workers: int) -> Resources:
        """What a trial takes, or anything else that runs on nodes for trials."""
        return Resources(workers, self.cpus_per_worker, self.gpus_per_worker, self.pool or "")

    def shared_resources(self) -> Resources:
        """What the shared stages take."""
        cpus, gpus = self.shared_cpus_per_worker, self.shared_gpus_per_worker
        return Resources(
            self.shared_workers or self.workers,
            self.cpus_per_worker if cpus is None else cpus,
            self.gpus_per_worker if gpus is None else gpus,
            self.shared_pool or "",
        )


def request_of(flags: Mapping[str, Any], source: str = "") -> SweepRequest:
    """The request that `flags` make. Raises UserError naming the first wrong flag, its value, and what is allowed."""
    try:
        return SweepRequest.model_validate(flags)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        message = first["msg"].removeprefix("Value error, ")
        allowed = message[0].lower() + message[1:]
        raise UserError(f"{flag} cannot be {shortened(first['input'])}: {allowed}{f' (in {source})' if source else ''}") from None
