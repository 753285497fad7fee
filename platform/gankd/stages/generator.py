"""The generator stage: a class-conditional BigGAN on the real training images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.gan import GANHyperparameters
from gankd.stages.quality import extractor_of, load_real_statistics
from gankd.stages.sections import GanConfig, QualityConfig
from gankd.stages.watch import Watch, WatchedTraining, train_watched
from gankd.store.artifact import Artifact

EVALUATION_BATCH = 100  # generated images at a time; workers share the batches


def train_generator(
    ctx: Context, cfg: GanConfig, data: DataSet, feature_classifier: Artifact, real_statistics: Artifact
) -> dict[str, float]:
    """Train the GAN; the artifact is an averaged generator (EMA), the last or the best one as `cfg.keep` says.

    The other one lies in the subfolder named after it. Sample grids and all metrics on the validation part are logged on
    the way; the metrics returned are those of the generator that is kept.
    """
    ctx.share(cfg.batch)
    generator, discriminator = build_gan(cfg, data)
    if cfg.sync_batch_norm and ctx.world_size > 1:
        synchronise(generator)
    real = Resident(data.train, ctx.device, flip=cfg.flip)

    def real_batch(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return real.batch(n, rng, ctx.rank, ctx.world_size)

    training = WatchedTraining(
        generator.to(ctx.device),
        discriminator.to(ctx.device),
        real_batch,
        hyperparameters(cfg),
        rank=ctx.rank,
        world_size=ctx.world_size,
        reduce=ctx.average,
    )
    watch = Watch(
        ctx,
        training.ema.average,
        extractor_of(feature_classifier, ctx.device),
        load_real_statistics(real_statistics, ctx.device),
        QualityConfig(images=cfg.evaluation_images, batch=EVALUATION_BATCH),
        steps=cfg.steps,
        evaluations=cfg.evaluations,
        sample_grids=cfg.sample_grids,
        keep=cfg.keep,
    )
    found = train_watched(ctx, training, watch, cfg.batch * cfg.d_steps)
    return found | {"parameters": float(sum(p.numel() for p in generator.parameters()))}


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
