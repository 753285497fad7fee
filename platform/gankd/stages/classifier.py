"""Networks that tell an image's label: teacher, baseline student, feature extractor. SGD, one step rule for all.

Whether they classify or tell a number is the data's task (`gankd.stages.task`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.config import Section
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import Algorithm, autocast, train, update
from gankd.models.classifier_import import load_checkpoint
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.schedule import cosine, multistep
from gankd.stages.sections import ClassifierConfig
from gankd.stages.task import task_of
from gankd.store.artifact import Artifact

EVALUATIONS = 20  # points of a validation curve

Batch = tuple[Tensor, Tensor]
Draw = Callable[[int, torch.Generator], Batch]


class ClassifierTraining(Algorithm):
    """SGD on the loss of the data's task; `draw(step, rng)` gives this worker's images in [-1, 1] and labels."""

    def __init__(
        self,
        ctx: Context,
        cfg: Any,
        network: nn.Module,
        draw: Draw,
        data: DataSet,
        rate: Callable[[int], float],
    ) -> None:
        self.ctx, self.cfg, self.draw, self.rate = ctx, cfg, draw, rate
        self.network = network.to(ctx.device).to(memory_format=torch.channels_last).train()
        if cfg.sync_batch_norm and ctx.world_size > 1:
            synchronise(network)
        self.task, self.validation = task_of(data), Resident(data.val, ctx.device)
        optimizer = torch.optim.SGD(
            network.parameters(), cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay, fused=True
        )
        self.modules, self.optimizers = {"network": network}, {"network": optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.draw(step, rng)
        with autocast(self.ctx.device, self.cfg.precision):
            loss = self.task.loss(self.network(images.contiguous(memory_format=torch.channels_last)), labels)
        update(self.ctx, loss, self.optimizers["network"], self.network, lr=self.cfg.lr * self.rate(step))
        return {"loss": loss.detach()}

    def evaluate(self, step: int) -> dict[str, float]:
        return {f"val_{self.task.metric}": self.task.measure(self.network, self.validation, self.ctx)}


def keep_classifier(ctx: Context, network: nn.Module, data: DataSet) -> None:
    """Save a trained network, and log a picture of its answers to the validation images.

    Its numbers compare with those of networks of the same architecture.
    """
    models.save(network, ctx.out)
    task = task_of(data)
    task.describe(ctx.out)
    ctx.basis[""] = {"network": network.recipe}
    ctx.image(task.picture_name, task.picture(network, Resident(data.val, ctx.device)))


def rate_of(cfg: Any, steps: int, *, late_by: int = 0) -> Callable[[int], float]:
    """Step -> multiplier of the learning rate; `late_by` steps after the milestones."""
    if cfg.schedule == "cosine":
        return lambda step: cosine(step, steps)
    milestones = [share * steps + late_by for share in cfg.milestones]
    return lambda step: multistep(step, milestones)


def build_classifier(cfg: ClassifierConfig, data: DataSet, **extra: Any) -> Any:
    """The network of `cfg` for the images and labels of `data`, freshly initialised."""
    if cfg.width:
        extra["width"] = cfg.width
    if cfg.norm != "batch":
        extra["norm"] = cfg.norm
    if cfg.shortcut != "projection":
        extra["shortcut"] = cfg.shortcut
    if cfg.head:
        extra["head"] = list(cfg.head)
    if cfg.normalisation:
        extra["normalisation"] = [list(numbers) for numbers in cfg.normalisation]
    return models.build(
        cfg.network, classes=task_of(data).outputs, image_channels=data.image_channels, image_size=data.image_size, **extra
    )


def train_classifier(ctx: Context, cfg: ClassifierConfig, data: DataSet) -> dict[str, float]:
    """Train a network to tell the labels of the real training images, or take the user's checkpoint. Makes a saved network."""
    return fit_classifier(ctx, cfg, data, build_classifier(cfg, data))


def fit_classifier(
    ctx: Context, cfg: ClassifierConfig, data: DataSet, network: nn.Module,
    kind: Callable[..., ClassifierTraining] = ClassifierTraining,
) -> dict[str, float]:  # fmt: skip
    """Train `network` as `cfg` says and save it; the metric of the data's task on the validation part, and its parameters.

    kind: a method's own training, with another loss.
    """
    if cfg.checkpoint:
        load_user_checkpoint(network, cfg)
        task = task_of(data)
        found = {f"val_{task.metric}": task.measure(network.to(ctx.device), Resident(data.val, ctx.device), ctx)}
    else:
        real = Resident(data.train, ctx.device, flip=cfg.flip, crop_padding=cfg.crop_padding)
        ctx.share(cfg.batch)
        steps = real.steps_for(cfg.epochs, cfg.batch)
        order = ctx.seed_for(0, "order")

        def draw(step: int, rng: torch.Generator) -> Batch:
            return real.epoch_batch(step, cfg.batch, rng, order, ctx.rank, ctx.world_size)

        # RepDistiller compares `epoch > milestone`: one epoch later than everyone else.
        late_by = real.steps_for(1, cfg.batch) if cfg.reference_compat else 0
        training = kind(ctx, cfg, network, draw, data, rate_of(cfg, steps, late_by=late_by))
        found = train(ctx, training, steps=steps, batch=cfg.batch, evaluate_every=max(1, steps // EVALUATIONS))
    keep_classifier(ctx, network, data)
    return {**found, "parameters": float(sum(p.numel() for p in network.parameters()))}


def load_user_checkpoint(network: Any, cfg: ClassifierConfig) -> str:
    """Fill `network` from the user's file; what matched. Raises UserError for a file that does not fit or holds code."""
    inner = network.network if cfg.normalisation else network
    return str(load_checkpoint(inner, cfg.checkpoint or ""))


def load_network(artifact: Artifact, device: torch.device | str = "cpu") -> Any:
    """The network that a stage saved, in eval mode, frozen."""
    return models.load(artifact.path).to(device).requires_grad_(False)


def test_network(ctx: Context, cfg: Section, data: DataSet, **network: Artifact) -> dict[str, float]:
    """A test stage: the metric of the data's task, on the test part, of the one artifact that it is given."""
    (made,) = network.values()
    task, tested = task_of(data), load_network(made, ctx.device)
    ctx.basis[""] = {"network": tested.recipe}
    return {f"test_{task.metric}": task.measure(tested, Resident(data.test, ctx.device), ctx)}
