"""RGAL's outer loop: every round makes images that the teacher takes for real, then the student learns from all images so far.

`phases` is that loop. One step of the engine is one optimiser step of either phase, so a run can be stopped and resumed
anywhere in a round.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident, normalise
from gankd.engine import Algorithm
from gankd.pictures import sample_grid
from gankd.stages.classifier import EVALUATIONS
from gankd.stages.task import task_of
from methods.rgal.checks import check_layers
from methods.rgal.config import RoundsConfig, StudentConfig, SynthesisConfig
from methods.rgal.distillation import Distillation, build_adapters, check_gram
from methods.rgal.pool import Pool
from methods.rgal.synthesis import Synthesis

SHOWN = 80  # images on a sample grid


class Phase(NamedTuple):
    """`steps` optimiser steps of one kind in round `round`; the first one is the engine's step number `start`."""

    kind: Literal["synthesis", "distillation"]
    round: int
    start: int
    steps: int


def phases(rounds: int, kd_steps: int, g_steps: int = 0, warm_up: int = 0) -> Iterator[Phase]:
    """For every round: synthesise (g_steps), then distil (kd_steps). Rounds below 0, the warm-up, only fill the pool."""
    start = 0
    for number in range(-warm_up, rounds):
        if g_steps:
            yield Phase("synthesis", number, start, g_steps)
            start += g_steps
        if number >= 0:
            yield Phase("distillation", number, start, kd_steps)
            start += kd_steps


class RoundTraining(Algorithm):
    """A student that learns in rounds of `cfg.kd_steps` steps from a pool of `capacity` images."""

    def __init__(
        self, ctx: Context, cfg: RoundsConfig, data: DataSet, teacher: Any, *,
        phases: Iterator[Phase], capacity: int, relate: bool,
    ) -> None:  # fmt: skip
        self.ctx, self.cfg, self.teacher = ctx, cfg, teacher.to(memory_format=torch.channels_last)
        self.phases = list(phases)
        self.steps = self.phases[-1].start + self.phases[-1].steps
        self.task, self.validation = task_of(data), Resident(data.val, ctx.device)
        self.pool = Pool(capacity, data.image_channels, data.image_size, ctx.device)
        image = torch.zeros(1, data.image_channels, data.image_size, data.image_size, device=ctx.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)  # not by the stage: the control starts from the same weights
            self.student = self.new_student(data).to(ctx.device).to(memory_format=torch.channels_last)
            check_gram(cfg, teacher, self.student.eval(), image)
            adapters = self.new_adapters(image).to(ctx.device)
        self.distillation = self.new_distillation(adapters, relate)
        self.modules = {"student": self.student, "adapters": adapters, "pool": self.pool}
        self.optimizers = {"student": self.distillation.optimizer}
        self.best_val_accuracy = 0.0

    def new_student(self, data: DataSet) -> Any:
        """The student before the first step."""
        assert isinstance(self.cfg, StudentConfig)
        return build_student(self.cfg, data)

    def new_adapters(self, image: Tensor) -> nn.ModuleList:
        """What brings each block of the student to the width of the teacher's; shown by an image."""
        return build_adapters(self.teacher, self.student, image)

    def new_distillation(self, adapters: nn.ModuleList, relate: bool) -> Distillation:
        """The student's steps."""
        return Distillation(self.ctx, self.cfg, self.teacher, self.student, adapters, relate)

    def phase(self, step: int) -> tuple[Phase, int]:
        """The phase of the engine's step number `step`, and the number of that step in it."""
        phase = self.phases[bisect(self.phases, step, key=attrgetter("start")) - 1]
        return phase, step - phase.start

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        return self.distil(*self.phase(step), rng)

    def distil(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min over the student: L_kd + cd L_cd + gram L_gram + striplet L_stu, on a batch of the pool."""
        self.student.train().requires_grad_(True)
        images = self.distillation.batch(self.pool, self.batch_number(phase, index), rng)
        return self.distillation.step(images, phase.round, rng)

    def batch_number(self, phase: Phase, index: int) -> int:
        """Number of the batch in the walk through the pool, which begins anew with each round's images."""
        return index

    def clock(self, step: int) -> int:
        """Student steps done, which trials with longer or shorter synthesis have in common."""
        phase, index = self.phase(step)
        return max(phase.round, 0) * self.cfg.kd_steps + (index if phase.kind == "distillation" else 0)

    def due(self, step: int) -> bool:
        """At the end of every so many rounds."""
        phase, index = self.phase(step - 1)
        end = phase.kind == "distillation" and index + 1 == phase.steps
        return end and (phase.round + 1) % max(1, self.cfg.rounds // EVALUATIONS) == 0

    def evaluate(self, step: int) -> dict[str, float]:
        val_accuracy = self.task.measure(self.student, self.validation, self.ctx)
        self.best_val_accuracy = max(val_accuracy, self.best_val_accuracy)
        images, labels = self.pool.newest(SHOWN)
        picture = sample_grid(normalise(images[labels.argsort(stable=True)]), columns=10)
        self.ctx.image("pool", picture, self.clock(step) // self.cfg.kd_steps)
        return {"val_accuracy": val_accuracy, "best_val_accuracy": self.best_val_accuracy}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_val_accuracy": self.best_val_accuracy}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best_val_accuracy = state["best_val_accuracy"]


class Alternation(RoundTraining):
    """RGAL: synthesis against the frozen teacher and student, then distillation, in turn."""

    def __init__(self, ctx: Context, cfg: RoundsConfig, data: DataSet, teacher: Any, synthesis: SynthesisConfig) -> None:
        images = (cfg.warm_up + cfg.rounds) * synthesis.batch
        rounds = phases(cfg.rounds, cfg.kd_steps, synthesis.g_steps, cfg.warm_up)
        super().__init__(ctx, cfg, data, teacher, phases=rounds, capacity=min(cfg.pool, images), relate=True)
        if synthesis.relates and synthesis.triplet_target == "teacher":
            check_layers("synthesis", synthesis.start_layer, teacher.recipe["name"], data)
        self.synthesis = Synthesis(ctx, synthesis, teacher, self.student, data.image_channels, data.image_size, data.classes or 0)
        self.modules |= self.synthesis.modules
        self.optimizers |= self.synthesis.optimizers

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        phase, index = self.phase(step)
        return self.synthesise(phase, index, rng) if phase.kind == "synthesis" else self.distil(phase, index, rng)

    def synthesise(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min over generator and latents: bn L_bn + oh L_oh + adv L_adv + triplet L_rel; the best batch joins the pool."""
        self.student.eval().requires_grad_(False)
        if index == 0:
            self.synthesis.begin(rng)
        metrics = self.synthesis.step(rng)
        if index + 1 == phase.steps:
            self.pool.append(*self.synthesis.finish())
        return metrics


class NoiseTraining(RoundTraining):
    """The same distillation on uniform noise."""

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Any) -> None:
        rounds = phases(cfg.rounds, cfg.kd_steps)
        super().__init__(ctx, cfg, data, teacher, phases=rounds, capacity=cfg.pool, relate=False)
        images, rng = self.pool.images, ctx.rng(0, "noise")
        noise = torch.randint(256, images.shape, generator=rng, device=rng.device, dtype=torch.uint8)
        self.pool.append(noise, torch.zeros_like(self.pool.labels))

    def batch_number(self, phase: Phase, index: int) -> int:
        """The pool is the same in all rounds, and so one walk goes through it."""
        return phase.start + index


def build_student(cfg: StudentConfig, data: DataSet) -> Any:
    """The student, freshly initialised."""
    width = {"width": cfg.width} if cfg.width else {}
    return models.build(
        cfg.network, classes=data.classes, image_channels=data.image_channels, image_size=data.image_size, **width
    )
