"""CcGAN (Ding et al. 2021): a GAN whose labels are numbers, trained by the vicinal losses HVDL and SVDL."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.classifier import load_network
from gankd.stages.gan_batch import Batch
from gankd.stages.generator import EvaluatedTraining, fit_gan
from gankd.stages.task import Continuous, task_of
from gankd.store.artifact import Artifact
from methods.cgan_kd_regression.gan_config import CcganConfig
from methods.cgan_kd_regression.vicinity import VicinalLabels, Vicinity, noise_width, vicinity_width


@dataclass(frozen=True)
class VicinalBatch(Batch):
    """The discriminator is told the centres y_j, `fake_labels` and `real_labels`; fakes are made for `asked`, t_j (n,)."""

    asked: Tensor | None = None


class CcganTraining(EvaluatedTraining):
    """L_D = mean w^r_j l(D(x_{i_j}, y_j)) + mean w^f_j l(-D(G(z_j, t_j), y_j)),   L_G = mean l(D(G(z, y), y)).

    y_j: a training label with noise. x_{i_j}: a real image whose label lies in the vicinity of y_j; t_j: a label drawn from
    there; w^r_j, w^f_j: the weights of their labels. Labels are chosen on the CPU: whether a vicinity is empty decides what is
    drawn next, and to ask a GPU would be to wait for it.
    """

    def __init__(self, ctx: Context, cfg: CcganConfig, generator: Any, discriminator: Any, data: DataSet) -> None:
        if cfg.sync_batch_norm and ctx.world_size > 1:
            synchronise(generator)
        task, self.real = task_of(data), Resident(data.train, ctx.device, flip=cfg.flip)
        assert isinstance(task, Continuous)
        self.task = task
        places = task.place(torch.tensor(data.train.labels, dtype=torch.float64))
        vicinity = Vicinity(vicinity_width(cfg.kappa, places), cfg.vicinity == "soft", cfg.soft_cut)
        self.vicinal = VicinalLabels(places, vicinity, noise_width(cfg.sigma, places), clip=not cfg.reference_compat)
        networks = generator.to(ctx.device), discriminator.to(ctx.device)
        super().__init__(ctx, cfg, cfg.g_lr, *networks, lambda n, rng: self.real.batch(n, rng, ctx.rank, ctx.world_size))

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        self.chooser = self.ctx.rng(step, "labels", device="cpu")
        return super().step(step, rng)

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        z = self.here(self.generator.latents(self.batch, rng)[self.rows])
        if not reals:
            copies = 2 if self.cfg.mode_seeking else 1
            return Batch(z, self.labels_at(self.vicinal.centres(self.batch // copies, self.chooser).repeat_interleave(copies)))
        drawn = self.vicinal.draw(self.batch, self.chooser)
        images, _ = self.real.take(drawn.images, rng, self.ctx.rank, self.ctx.world_size)
        centres, asked = self.labels_at(drawn.centres), self.labels_at(drawn.fake_labels)
        fake_weights, real_weights = (self.here(values[self.rows]) for values in (drawn.fake_weights, drawn.real_weights))
        return VicinalBatch(z, centres, self.here(images), centres, fake_weights, real_weights, asked)

    def labels_at(self, places: Tensor) -> Tensor:
        """This worker's rows of places in the range (n,), as labels in the data's unit."""
        return self.here(self.task.low + places[self.rows] * (self.task.high - self.task.low))

    def generate(self, batch: Batch) -> Tensor:
        asked = batch.asked if isinstance(batch, VicinalBatch) else None
        return super().generate(batch if asked is None else replace(batch, fake_labels=asked))


def build_ccgan(cfg: CcganConfig, data: DataSet, embedding: Any) -> tuple[Any, Any]:
    """Generator and discriminator for the images of `data`, freshly initialised, with this label embedding inside."""
    low, high = embedding.task.low, embedding.task.high
    common = {
        "low": low,
        "high": high,
        "image_size": data.image_size,
        "image_channels": data.image_channels,
        "width": cfg.width,
        "embed_dim": embedding.dim,
        "embedding": embedding.kind,
        "attention": cfg.attention,
    }
    generator = models.build("sagan", dim_z=cfg.dim_z, **common)
    discriminator = models.build("sagan_discriminator", rectified_shortcuts=cfg.reference_compat, **common)
    for network in (generator, discriminator):
        network.embedding.load_state_dict(embedding.state_dict())
    return generator, discriminator


def train_ccgan(
    ctx: Context, cfg: CcganConfig, data: DataSet, label_embedding: Artifact, feature_classifier: Artifact
) -> dict[str, float]:
    """A CcGAN on the real training images. Makes its averaged generator, which takes labels in the data's own unit.

    Beside what `fit_gan` returns: sigma of the labels' noise and radius of a vicinity, in that unit.
    """
    training = CcganTraining(ctx, cfg, *build_ccgan(cfg, data, load_network(label_embedding)), data)
    unit = training.task.high - training.task.low
    widths = {"sigma": training.vicinal.sigma * unit, "radius": training.vicinal.vicinity.radius * unit}
    return fit_gan(ctx, training, feature_classifier, data.val) | widths
