"""Training a GAN on the images of some classes, looking at it on the way, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.artifact import Artifact
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.metrics.extractors import Extractor, from_weights
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.gan import GANHyperparameters, GANTraining, Penalty
from gankd.stages.generator import class_sheet
from gankd.stages.quality import CLASSES, Renumbered, judge_of, real_features, score_network
from gankd.stages.sections import QualityConfig
from methods.cgan_transfer.config import TaskConfig, TrainingConfig
from methods.cgan_transfer.moments import load_moments, save_moments
from methods.cgan_transfer.task import new_images, of_classes, old_and_new

LIVE, DISCRIMINATOR, JUDGE = "live", "discriminator", "judge"  # folders of an artifact


class Watch:
    """Metrics on the validation images of the generator's classes, sheets, and the best weights so far.

    Best is the lowest FID in the judge's features. Latents are the same at every look.

    Args:
        part: validation images of the generator's classes, with the data's labels.
        classes: the data's number of each of the generator's classes.
    """

    def __init__(
        self, ctx: Context, quality: QualityConfig, average: nn.Module, judge: Extractor, part: Split, classes: list[int]
    ) -> None:
        self.ctx, self.quality, self.average, self.judge = ctx, quality, average, judge
        self.real = real_features(ctx, quality, part, judge)
        self.asked = Renumbered(average, classes, ctx.device)
        self.best: dict[str, Any] = {"step": 0, "metrics": {}, "weights": {}}

    @property
    def fid(self) -> str:
        """The name of the metric that decides which generator is best."""
        return f"fid_{self.judge.name}"

    def look(self, step: int) -> dict[str, float]:
        """Show a sheet and measure the average after `step` steps."""
        self.ctx.image("sheet", class_sheet(self.average, self.ctx), step)
        found = score_network(self.ctx, self.quality, self.asked, self.judge, self.real, "evaluation")
        if not self.best["metrics"] or found[self.fid] < self.best["metrics"][self.fid]:
            weights = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
            self.best = {"step": step, "metrics": found, "weights": weights}
        return found

    def keep(self, out: Path, which: str, last: Mapping[str, float], steps: int) -> dict[str, float]:
        """Save the last average, or the best one and the last in a folder `last`; metrics of the one that is the artifact."""
        if which == "last":
            models.save(self.average, out)
            return {**last, "step": float(steps)}
        models.save(self.average, out, self.best["weights"])
        models.save(self.average, out / "last")
        return {**self.best["metrics"], "step": float(self.best["step"])}


class WatchedTraining(GANTraining):
    """A GAN whose averaged generator is looked at each time the engine evaluates it."""

    watch: Watch
    done = 0

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        self.done = step + 1
        return super().step(step, rng)

    def evaluate(self) -> dict[str, float]:
        return self.watch.look(self.done)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.watch.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.watch.best = dict(state["best"])


class Run:
    """The training of one GAN on the images of some classes, and what is kept of it."""

    looks, kept = 1, "best"

    def __init__(
        self, ctx: Context, data: DataSet, quality: QualityConfig, judge: Artifact, classes: list[int], images: Split,
        flip: bool, sync_batch_norm: bool,
    ) -> None:  # fmt: skip
        self.ctx, self.quality, self.classes, self.images = ctx, quality, classes, images
        self.judge = judge_of(judge, ctx.device)
        self.validation = of_classes(data.val, classes, renumber=False)
        self.real = Resident(images, ctx.device, flip=flip)
        self.synchronised = sync_batch_norm and ctx.world_size > 1

    @classmethod
    def of_new_classes(
        cls, ctx: Context, data: DataSet, task: TaskConfig, training: TrainingConfig, quality: QualityConfig, judge: Artifact
    ) -> Run:
        _, new = old_and_new(task, data, pretrained=True)
        run = cls(ctx, data, quality, judge, new, new_images(task, data, new), training.flip, training.sync_batch_norm)
        run.looks, run.kept = training.evaluations, training.keep
        return run

    def train(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        hp: GANHyperparameters,
        steps: int,
        penalty: Penalty | None = None,
        moments: Path | None = None,
    ) -> dict[str, float]:
        """Train, look `looks` times, and leave in ctx.out the average, the live networks, Adam's moments and the judge."""
        ctx = self.ctx
        ctx.share(hp.batch)
        if self.synchronised:
            synchronise(generator)
        training = WatchedTraining(
            generator.to(ctx.device),
            discriminator.to(ctx.device),
            lambda n, rng: self.real.batch(n, rng, ctx.rank, ctx.world_size),
            hp,
            rank=ctx.rank,
            world_size=ctx.world_size,
            reduce=ctx.average,
            penalty=penalty,
        )
        if moments:
            load_moments(training, moments)
        watch = training.watch = Watch(ctx, self.quality, training.ema.average, self.judge, self.validation, self.classes)
        images = hp.batch * hp.discriminator_accumulations * hp.discriminator_steps
        last = train(ctx, training, steps=steps, batch=images, evaluate_every=-(-steps // self.looks))
        found = watch.keep(ctx.out, self.kept, last, steps)
        (ctx.out / CLASSES).write_text(json.dumps(self.classes))
        models.save(generator, ctx.out / LIVE)
        models.save(discriminator, ctx.out / DISCRIMINATOR)
        save_moments(training, ctx.out)
        models.save(self.judge.network, ctx.out / JUDGE)  # what measures the test part belongs to what is measured
        return found | self.further()

    def further(self) -> dict[str, float]:
        """What the further extractor says of the generator that is kept, if one is asked for."""
        quality, device = self.quality, self.ctx.device
        if not quality.extractor:
            return {}
        extractor = from_weights(quality.extractor, quality.weights).to(device)
        real = real_features(self.ctx, quality, self.validation, extractor)
        kept = Renumbered(models.load(self.ctx.out).to(device), self.classes, device)
        return score_network(self.ctx, quality, kept, extractor, real)


def hyperparameters_of(training: TrainingConfig, g_lr: float) -> GANHyperparameters:
    return GANHyperparameters(
        batch=training.batch // training.accumulations,
        discriminator_steps=training.d_steps,
        discriminator_accumulations=training.accumulations,
        generator_accumulations=training.accumulations,
        generator_learning_rate=g_lr,
        discriminator_learning_rate=training.d_lr,
        betas=(training.beta1, training.beta2),
        adam_eps=training.adam_eps,
        ema_decay=training.ema_decay,
        ema_start=0,
        diffaugment=training.diffaugment,
        precision=training.precision,
    )
