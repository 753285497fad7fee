"""The generator stage: a class-conditional BigGAN on the real training images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.models.sync_batch_norm import synchronise
from gankd.pictures import sheet
from gankd.stages.gan import GANHyperparameters, GANTraining
from gankd.stages.sections import GanConfig

ROWS = 8  # images per class on a sheet
CLASSES_SHOWN = 10


def train_generator(ctx: Context, cfg: GanConfig, data: DataSet) -> dict[str, float]:
    """Train the GAN; the artifact is the averaged generator (EMA). Sample sheets are logged on the way."""
    ctx.share(cfg.batch)
    generator, discriminator = build_gan(cfg, data)
    if cfg.sync_batch_norm and ctx.world_size > 1:
        synchronise(generator)
    real = Resident(data.train, ctx.device, flip=cfg.flip)

    def real_batch(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return real.batch(n, rng, ctx.rank, ctx.world_size)

    training = SheetedTraining(
        generator.to(ctx.device),
        discriminator.to(ctx.device),
        real_batch,
        hyperparameters(cfg),
        rank=ctx.rank,
        world_size=ctx.world_size,
        reduce=ctx.average,
    )
    training.ctx = ctx
    every = max(1, cfg.steps // cfg.sheets) if cfg.sheets else cfg.steps
    train(ctx, training, steps=cfg.steps, batch=cfg.batch * cfg.d_steps, evaluate_every=every)
    models.save(training.ema.average, ctx.out)
    return {"parameters": float(sum(p.numel() for p in generator.parameters()))}


class SheetedTraining(GANTraining):
    """A GAN that shows the same latents of every class each time the engine evaluates it."""

    ctx: Context
    shown = 0

    def evaluate(self) -> dict[str, float]:
        self.shown += 1
        self.ctx.image("sheet", class_sheet(self.ema.average, self.ctx), self.shown)
        return {}


def build_gan(cfg: GanConfig, data: DataSet) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of `cfg` for the images and classes of `data`, freshly initialised."""
    common = {
        "image_size": data.image_size,
        "classes": data.classes,
        "image_channels": data.image_channels,
        "width": cfg.width,
        "attention": list(cfg.attention),
        "sn_eps": cfg.sn_eps,
        "init": cfg.init,
    }
    latent = {"dim_z": cfg.dim_z, "shared_dim": cfg.shared_dim, "bn_eps": cfg.bn_eps}
    if cfg.network == "biggan":
        latent["hierarchical"] = cfg.hierarchical
    return models.build(cfg.network, **common, **latent), models.build(f"{cfg.network}_discriminator", **common)


def hyperparameters(cfg: GanConfig) -> GANHyperparameters:
    """The knobs of a GAN as its training takes them."""
    return GANHyperparameters(
        batch=cfg.batch // cfg.accumulations,
        discriminator_steps=cfg.d_steps,
        discriminator_accumulations=cfg.accumulations,
        generator_accumulations=cfg.accumulations,
        generator_learning_rate=cfg.g_lr,
        discriminator_learning_rate=cfg.d_lr,
        betas=(cfg.beta1, cfg.beta2),
        adam_eps=cfg.adam_eps,
        ema_decay=cfg.ema_decay,
        ema_start=cfg.ema_start,
        generator_orthogonal=cfg.orthogonal,
        diffaugment=cfg.diffaugment,
        precision=cfg.precision,
    )


@torch.no_grad()
def class_sheet(generator: Any, ctx: Context) -> object:
    """A picture with a row per class (the first ones), the same latents every time."""
    shown = min(generator.classes, CLASSES_SHOWN)
    z = torch.randn(shown * ROWS, generator.dim_z, generator=ctx.rng(0, "sheet"), device=ctx.device)
    labels = torch.arange(shown, device=ctx.device).repeat_interleave(ROWS)
    return sheet(generator(z, labels), columns=ROWS)
