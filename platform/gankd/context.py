"""What a stage sees of the world: a device, its rank, seeded randomness, and where to log and keep things.

The same class serves a plain process, a Tune trial's own process and a Ray Train worker; those differ only in the rank, the
process group (set up by whoever launches) and the `report` hook. Neither Ray nor MLflow is imported here.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gankd.pictures import as_png
from gankd.world import World

if TYPE_CHECKING:
    from gankd.store import Store
    from gankd.store.events import EventWriter

T = TypeVar("T")
Report = Callable[[Mapping[str, float], int], None]


SPENT = "device_seconds"  # in a checkpoint, beside the state


def choose_device() -> torch.device:
    """The CUDA device of this process where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_name() -> str:
    """What this process computes on, as its numbers go with it: `NVIDIA ...`, or `<CPU> x<cores> (<instructions torch uses>)`.

    Two kinds of CPU round otherwise, which a training amplifies: the same seed is another draw there.
    """
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{_cpu_model()} x{os.cpu_count()} ({torch.backends.cpu.get_cpu_capability()})"


def _cpu_model() -> str:
    with suppress(OSError):  # only Linux has this file
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"


@dataclass
class Context:
    """A stage's view of the run.

    Attributes:
        stage, key: names of the stage and of the artifact being made.
        seed: the run's seed; `rng` and `seed_for` derive every random draw from it.
        out: folder whose files become the artifact (of rank 0; the other ranks' folders are thrown away).
        device, rank, world_size: where and as which worker this process computes.
        checkpoint_seconds: how often the engine writes a checkpoint.
        basis: what the stage's metrics depend on beside the data, filled by the stage, by the extractor whose name ends the
            metrics' names ("" for all metrics): two numbers compare only where it is equal.
        notes: sentences that whoever uses what is made should know, see `note`.
        started: when this process began with the stage (monotonic clock, seconds).
        earlier: device-seconds up to the checkpoint that the stage went on from; 0 for one that began here.
    """

    stage: str
    key: str
    seed: int
    out: Path
    store: Store
    device: torch.device
    rank: int = 0
    world_size: int = 1
    events: EventWriter | None = None
    trial: str = ""
    report: Report | None = None
    checkpoint_seconds: float = 30.0
    basis: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    earlier: float = 0.0

    # Randomness is counted, not carried: every step seeds its own generator, so a resumed run draws what the
    # undisturbed one would have drawn, and all ranks draw the same global batch and take their slice of it.

    def seed_for(self, step: int, stream: str = "") -> int:
        """63-bit seed of (run seed, stage, stream, step)."""
        text = f"{self.seed}/{self.stage}/{stream}/{step}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def rng(self, step: int, stream: str = "", device: torch.device | str | None = None) -> torch.Generator:
        """A generator on this context's device (or `device`), the same on every rank."""
        generator = torch.Generator(device or self.device)
        generator.manual_seed(self.seed_for(step, stream))
        return generator

    def seed_layers(self, step: int) -> None:
        """Seed torch's own generators (weight initialisation, dropout): per rank once training runs (step >= 0)."""
        torch.manual_seed(self.seed_for(step, f"rank{self.rank}" if step >= 0 else "init"))

    # Workers.

    def share(self, total: int, what: str = "batch") -> int:
        """This rank's part of `total` items. Raises UserError when it cannot be split evenly."""
        from gankd.errors import UserError

        if total % self.world_size:
            raise UserError(
                f"{what} {total} of stage {self.stage!r} cannot be split evenly over {self.world_size} workers; "
                f"choose a multiple of {self.world_size}"
            )
        return total // self.world_size

    def average(self, module: nn.Module) -> None:
        """Average gradients and floating-point buffers (running statistics) of `module` over the workers, in place.

        One flat all-reduce per dtype: it serves gloo and nccl alike, and keeps every rank's state equal, so any rank's
        checkpoint is everyone's.
        """
        if self.world_size == 1:
            return
        tensors = [p.grad for p in module.parameters() if p.grad is not None]
        tensors += [b for b in module.buffers() if b.is_floating_point()]
        for dtype in {t.dtype for t in tensors}:
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.detach().reshape(-1) for t in group])
            dist.all_reduce(flat)
            flat /= self.world_size
            parts = flat.split([t.numel() for t in group])
            torch._foreach_copy_([t.detach() for t in group], [f.view_as(t) for f, t in zip(parts, group, strict=True)])

    def sum(self, values: Tensor) -> Tensor:
        """Elementwise sum of `values` over the workers."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """Every rank's `value`, on every rank."""
        return World(self.rank, self.world_size).gather(value)

    # Logging. Only rank 0 writes.

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Training metrics of this step, as `<stage>/<name>` in the tracker."""
        if self.events and self.rank == 0:
            values = {f"{self.stage}/{name}": float(value) for name, value in metrics.items()}
            self.events.emit("metrics", key=self.key, step=step, values=values)

    def evaluated(self, metrics: Mapping[str, float], step: int) -> None:
        """Validation metrics of this step: logged, and reported to the scheduler where the stage is watched by one."""
        self.log(metrics, step)
        if self.report:
            self.report({f"{self.stage}/{name}": float(value) for name, value in metrics.items()}, step)

    def image(self, name: str, picture: Any, step: int = 0) -> None:
        """Log a picture (a PIL image) under `<stage>/<name>`."""
        if self.events and self.rank == 0:
            self.events.emit("image", key=self.key, name=f"{self.stage}/{name}", step=step, png=as_png(picture))

    def note(self, sentence: str) -> None:
        """Let a sentence go with the artifact: a sweep ends with it, and what is registered of the sweep is tagged with it."""
        self.notes.append(sentence)

    def progress(self, step: int, total: int, rate: float = 0.0, **extra: float) -> None:
        """How far this stage is: step of total, images per second."""
        if self.events and self.rank == 0:
            self.events.emit(
                "progress", key=self.key, stage=self.stage, trial=self.trial, step=step, total=total, rate=rate, **extra
            )

    # Checkpoints belong to the artifact's key: whoever makes this artifact next goes on from the last one.

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Keep `state` (tensors, numbers, texts, containers) for a later `resume`. Rank 0 writes."""
        if self.rank == 0:
            if self.events:
                self.events.flush()  # what was logged before a checkpoint is not logged again after it
            buffer = io.BytesIO()
            spent = self.earlier + (time.monotonic() - self.started) * self.world_size
            torch.save({**state, SPENT: spent}, buffer)
            self.store.save_checkpoint(self.key, buffer.getvalue())

    def resume(self) -> dict[str, Any] | None:
        """The last state kept for this artifact, or None. Tensors are on the CPU."""
        path = self.store.load_checkpoint(self.key)
        if path is None:
            return None
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        self.earlier = state.pop(SPENT, 0.0)
        return state


class Stopwatch:
    """Says when `seconds` have passed since it last said so. Monotonic."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.last = seconds, time.monotonic()

    def due(self) -> bool:
        now = time.monotonic()
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True
