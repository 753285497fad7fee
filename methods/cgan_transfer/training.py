"""Training a GAN on the images of some classes, looking at it on the way, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

from torch import nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.metrics.extractors import Extractor
from gankd.metrics.suite import Features
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.gan import GANHyperparameters, Penalty
from gankd.stages.quality import CLASSES, Renumbered, extractor_of, load_real_statistics, sampled_features, score
from gankd.stages.sections import QualityConfig
from gankd.stages.watch import Watch, WatchedTraining, train_watched
from gankd.store.artifact import Artifact
from methods.cgan_transfer.config import TaskConfig, TrainingConfig
from methods.cgan_transfer.moments import load_moments, save_moments
from methods.cgan_transfer.task import new_images, of_classes, old_and_new

LIVE, DISCRIMINATOR, FEATURE_CLASSIFIER = "live", "discriminator", "feature_classifier"  # folders of an artifact


class Run:
    """The training of one GAN on the images of some classes, and what is kept of it."""

    evaluations, sample_grids, kept = 1, 1, "best"

    def __init__(
        self, ctx: Context, data: DataSet, quality: QualityConfig, feature_classifier: Artifact, real: Features,
        classes: list[int],
        images: Split, flip: bool, sync_batch_norm: bool,
    ) -> None:  # fmt: skip
        self.ctx, self.data, self.quality, self.classes, self.images = ctx, data, quality, classes, images
        self.feature_classifier, self.to_compare = extractor_of(feature_classifier, ctx.device), real
        self.validation = of_classes(data.val, classes, renumber=False)
        self.real = Resident(images, ctx.device, flip=flip)
        self.synchronised = sync_batch_norm and ctx.world_size > 1

    @classmethod
    def of_new_classes(
        cls, ctx: Context, data: DataSet, task: TaskConfig, training: TrainingConfig, quality: QualityConfig,
        feature_classifier: Artifact, real_statistics: Artifact,
    ) -> Run:  # fmt: skip
        _, new = old_and_new(task, data, pretrained=True)
        real, images = load_real_statistics(real_statistics, ctx.device), new_images(task, data, new)
        run = cls(ctx, data, quality, feature_classifier, real, new, images, training.flip, training.sync_batch_norm)
        run.evaluations = run.sample_grids = training.evaluations
        run.kept = training.keep
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
        """Train, look on the way, and leave in ctx.out the averages, the live networks, moments and what measured them."""
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
        watch = Watch(
            ctx,
            training.ema.average,
            self.feature_classifier,
            self.to_compare,
            self.quality,
            steps=steps,
            evaluations=self.evaluations,
            sample_grids=self.sample_grids,
            keep=self.kept,
            asked=Renumbered(training.ema.average, self.classes, ctx.device),
        )
        images = hp.batch * hp.discriminator_accumulations * hp.discriminator_steps
        found = train_watched(ctx, training, watch, images)
        (ctx.out / CLASSES).write_text(json.dumps(self.classes))
        models.save(generator, ctx.out / LIVE)
        models.save(discriminator, ctx.out / DISCRIMINATOR)
        save_moments(training, ctx.out)
        models.save(self.feature_classifier.network, ctx.out / FEATURE_CLASSIFIER)  # for the test part
        return found | self.measured()

    def measured(self) -> dict[str, float]:
        """All metrics of the generator that is kept, by the latents that it was looked at with; makes metrics.json."""
        ctx, quality = self.ctx, self.quality
        kept = Renumbered(models.load(ctx.out).to(ctx.device), self.classes, ctx.device)

        def sampled(extractor: Extractor, real: Features) -> Features:
            return sampled_features(ctx, quality, kept, extractor, real, "evaluation")

        how = {"generator": ctx.key, "labels": quality.labels, "latent_std": 1.0, "batch_norm": "running", "ema": True}
        return score(ctx, quality, self.data, self.validation, self.feature_classifier, self.to_compare, sampled, how)


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
