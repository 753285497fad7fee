"""What the stages train."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import Algorithm, train, update
from gankd.stages.task import task_of
from gankd.store.artifact import Artifact
from gankd_tiny.config import SmallConfig


class Fitting(Algorithm):
    """SGD on cross-entropy; the targets are the labels, or a teacher's probabilities where there is one."""

    def __init__(self, ctx: Context, cfg: SmallConfig, data: DataSet, teacher: Any = None) -> None:
        self.ctx, self.cfg, self.teacher = ctx, cfg, teacher
        self.task = task_of(data)
        self.images, self.validation = Resident(data.train, ctx.device), Resident(data.val, ctx.device)
        shape = {"classes": data.classes, "image_channels": data.image_channels, "image_size": data.image_size}
        self.network = models.build("small_cnn", **shape, width=4, norm="none").to(ctx.device)
        self.modules = {"network": self.network}
        self.optimizers = {"sgd": torch.optim.SGD(self.network.parameters(), lr=cfg.lr)}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.images.batch(self.cfg.batch, rng, self.ctx.rank, self.ctx.world_size)
        with torch.no_grad():
            targets = labels if self.teacher is None else self.teacher(images).softmax(1)
        loss = F.cross_entropy(self.network(images), targets)
        update(self.ctx, loss, self.optimizers["sgd"], self.network)
        return {"loss": loss.detach()}

    def evaluate(self, step: int) -> dict[str, float]:
        return {f"val_{self.task.metric}": self.task.measure(self.network, self.validation, self.ctx)}


def train_teacher(ctx: Context, cfg: SmallConfig, data: DataSet) -> dict[str, float]:
    """A classifier of the labels."""
    return fit(ctx, cfg, Fitting(ctx, cfg, data))


def train_student(ctx: Context, cfg: SmallConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """A classifier of the teacher's answers."""
    return fit(ctx, cfg, Fitting(ctx, cfg, data, models.load(teacher.path).to(ctx.device)))


def fit(ctx: Context, cfg: SmallConfig, fitting: Fitting) -> dict[str, float]:
    metrics = train(ctx, fitting, steps=cfg.steps, batch=cfg.batch)
    models.save(fitting.network, ctx.out)
    return metrics
