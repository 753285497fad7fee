"""What a user asks of a sweep: the options of `tune` are the fields of `SweepRequest`, with their defaults and bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationError

from gankd.config import Section
from gankd.errors import UserError
from gankd.text import shortened

MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Resources:
    """What one training takes: workers, and CPU cores and GPUs for each."""

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0

    def per_worker(self) -> dict[str, float]:
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})

    def threads(self) -> int:
        return max(1, int(self.cpus_per_worker))


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
    cpus_per_worker: float = Field(1.0, gt=0, description="CPU cores of each worker.")
    gpus_per_worker: float = Field(0.0, ge=0, description="GPUs of each worker.")
    checkpoint_seconds: float = Field(30.0, ge=0, description="Time between checkpoints of a stage; 0 = each step.")
    reuse: bool = Field(True, description="Take finished stages from the store or train all anew.")
    reuse_stale: bool = Field(False, description="Take also what was trained by code that has been edited since.")

    def resources(self, workers: int) -> Resources:
        return Resources(workers, self.cpus_per_worker, self.gpus_per_worker)

    def shared_resources(self) -> Resources:
        return self.resources(self.shared_workers or self.workers)


def request_of(flags: Mapping[str, Any], source: str = "") -> SweepRequest:
    """The request that `flags` make. Raises UserError naming the first wrong flag, its value, and what is allowed."""
    try:
        return SweepRequest.model_validate(flags)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        allowed = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{flag} cannot be {shortened(first['input'])}: {allowed}{f' (in {source})' if source else ''}") from None
