"""What RGAL trains: the student, by rounds of synthesis and distillation, and the control on images of noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident, normalise
from gankd.engine import Algorithm, train
from gankd.pictures import sample_grid
from gankd.stages.classifier import EVALUATIONS, keep_classifier, load_network
from gankd.stages.task import task_of
from gankd.store.artifact import Artifact
from methods.rgal.checks import check_layers
from methods.rgal.config import StudentConfig, SynthesisConfig
from methods.rgal.distillation import Distillation, build_adapters, check_gram
from methods.rgal.pool import Pool
from methods.rgal.synthesis import Synthesis
from methods.rgal.teacher_check import check_teacher

KEPT_IMAGES = 10_000  # of the pool, in the artifact
SHOWN = 80  # images on a sample grid


class RoundTraining(Algorithm):
    """A student that learns in rounds of `cfg.kd_steps` steps from a pool of `capacity` images."""

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Any, *, capacity: int, relate: bool) -> None:
        self.ctx, self.cfg, self.teacher = ctx, cfg, teacher.to(memory_format=torch.channels_last)
        self.task, self.validation = task_of(data), Resident(data.val, ctx.device)
        self.pool = Pool(capacity, data.image_channels, data.image_size, ctx.device)
        image = torch.zeros(1, data.image_channels, data.image_size, data.image_size, device=ctx.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(ctx.seed)  # not by the stage: the control starts from the same weights
            self.student = build_student(cfg, data).to(ctx.device).to(memory_format=torch.channels_last)
            check_gram(cfg, teacher, self.student.eval(), image)
            adapters = build_adapters(teacher, self.student, image).to(ctx.device)
        self.distillation = Distillation(ctx, cfg, teacher, self.student, adapters, relate)
        self.modules = {"student": self.student, "adapters": adapters, "pool": self.pool}
        self.optimizers = {"student": self.distillation.optimizer}
        self.found: dict[str, float] = {}

    def distil(self, round_index: int, index: int, rng: torch.Generator, place: int | None = None) -> dict[str, Tensor]:
        """Step `index` of a round's distillation; validation at the end of every so many rounds.

        `place`: number of the batch in the walk through the pool, where that does not begin anew with each round's images.
        """
        self.student.train().requires_grad_(True)
        images = self.distillation.batch(self.pool, index if place is None else place, rng)
        metrics = self.distillation.step(images, round_index, rng)
        rounds, end = round_index + 1, index == self.cfg.kd_steps - 1
        if end and (rounds % max(1, self.cfg.rounds // EVALUATIONS) == 0 or rounds == self.cfg.rounds):
            self.validate(rounds)
        return metrics

    def validate(self, rounds: int) -> None:
        """Told by the number of student steps, which trials with longer or shorter synthesis have in common."""
        now = self.task.measure(self.student, self.validation, self.ctx)
        self.found = {"val_accuracy": now, "best_val_accuracy": max(now, self.found.get("best_val_accuracy", now))}
        self.ctx.evaluated(self.found, rounds * self.cfg.kd_steps)
        images, labels = self.pool.newest(SHOWN)
        self.ctx.image("pool", sample_grid(normalise(images[labels.argsort(stable=True)]), columns=10), rounds)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "found": self.found}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.found = dict(state["found"])


class Alternation(RoundTraining):
    """RGAL: every round makes images that the teacher takes for real, then the student learns from all images so far.

    Engine step = one step of either kind. `cfg.warm_up` rounds of synthesis alone come first.
    """

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Any, synthesis: SynthesisConfig) -> None:
        made = (cfg.warm_up + cfg.rounds) * synthesis.batch
        super().__init__(ctx, cfg, data, teacher, capacity=min(cfg.pool, made), relate=True)
        if synthesis.relates and synthesis.triplet_target == "teacher":
            check_layers("synthesis", synthesis.start_layer, teacher.recipe["name"], data)
        self.per_round = synthesis.g_steps + cfg.kd_steps
        self.synthesis = Synthesis(ctx, synthesis, teacher, self.student, data.image_channels, data.image_size, data.classes or 0)
        self.modules |= self.synthesis.modules
        self.optimizers |= self.synthesis.optimizers

    @property
    def steps(self) -> int:
        return self.cfg.warm_up * self.synthesis.cfg.g_steps + self.cfg.rounds * self.per_round

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        g_steps = self.synthesis.cfg.g_steps
        step -= self.cfg.warm_up * g_steps
        round_index, index = divmod(step, self.per_round if step >= 0 else g_steps)
        if index >= g_steps:
            return self.distil(round_index, index - g_steps, rng)
        self.student.eval().requires_grad_(False)
        if index == 0:
            self.synthesis.begin(rng)
        metrics = self.synthesis.step(rng)
        if index == g_steps - 1:
            self.pool.append(*self.synthesis.finish())
        return metrics


class NoiseTraining(RoundTraining):
    """The same distillation on uniform noise."""

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Any) -> None:
        super().__init__(ctx, cfg, data, teacher, capacity=cfg.pool, relate=False)
        images, rng = self.pool.images, ctx.rng(0, "noise")
        noise = torch.randint(256, images.shape, generator=rng, device=rng.device, dtype=torch.uint8)
        self.pool.append(noise, torch.zeros_like(self.pool.labels))

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        return self.distil(*divmod(step, self.cfg.kd_steps), rng, place=step)


def build_student(cfg: StudentConfig, data: DataSet) -> Any:
    """The student, freshly initialised."""
    width = {"width": cfg.width} if cfg.width else {}
    return models.build(
        cfg.network, classes=data.classes, image_channels=data.image_channels, image_size=data.image_size, **width
    )


def train_student(
    ctx: Context, cfg: StudentConfig, data: DataSet, synthesis: SynthesisConfig, teacher: Artifact
) -> dict[str, float]:
    """RGAL, or with other weights CMI. Makes the student, and a part of the pool: images.npy uint8, labels.npy.

    No training image is read: `data` gives the shape of images, the number of classes, and validation images to evaluate on.
    """
    network = load_network(teacher, ctx.device)
    of_teacher = check_teacher(ctx, network, data, cfg.teacher_floor)
    training = Alternation(ctx, cfg, data, network, synthesis)
    train(ctx, training, steps=training.steps, batch=cfg.batch, evaluate_every=training.steps)
    return _finish(ctx, training, data, of_teacher)


def train_on_noise(ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """The control: the same student, the same number of updates, images of uniform noise. Makes the student."""
    network = load_network(teacher, ctx.device)
    of_teacher = check_teacher(ctx, network, data, cfg.teacher_floor)
    training = NoiseTraining(ctx, cfg, data, network)
    train(ctx, training, steps=cfg.steps, batch=cfg.batch, evaluate_every=cfg.steps)
    return _finish(ctx, training, data, of_teacher)


def _finish(ctx: Context, training: RoundTraining, data: DataSet, of_teacher: float) -> dict[str, float]:
    student, pool = training.student, training.pool
    keep_classifier(ctx, student, data)
    if isinstance(training, Alternation):
        chosen = torch.linspace(0, len(pool) - 1, min(len(pool), KEPT_IMAGES)).round().long()
        np.save(ctx.out / "images.npy", pool.images.cpu()[chosen].numpy())
        np.save(ctx.out / "labels.npy", pool.labels.cpu()[chosen].numpy())
    parameters = float(sum(p.numel() for p in student.parameters()))
    return {**training.found, "teacher_val_accuracy": of_teacher, "parameters": parameters}
