"""`fit_gan`, the one training of GANs, and the stage that trains a class-conditional BigGAN on the real training images."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.evaluation import Evaluation, RealSide
from gankd.stages.gan import GANTraining
from gankd.stages.quality import CLASSES
from gankd.stages.sections import GanConfig, GanNetworkConfig, GanTrainingConfig
from gankd.store.artifact import Artifact


class EvaluatedTraining(GANTraining):
    """A GAN that is evaluated on the way."""

    evaluation: Evaluation

    def evaluate(self, step: int) -> dict[str, float]:
        return self.evaluation.at(step, eligible=self.conditioning == 1)  # what is kept is loaded with its whole condition

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.evaluation.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.evaluation.load_state_dict(state["best"])


def gan_training(
    ctx: Context, cfg: GanTrainingConfig, g_lr: float, generator: Any, discriminator: Any, images: Split, *,
    kind: type[EvaluatedTraining] = EvaluatedTraining, **further: Any,
) -> EvaluatedTraining:  # fmt: skip
    """The training of these networks on real images, labels 0 .. M - 1.

    kind: a method's own, which draws otherwise. further: see `GANTraining`.
    """
    if cfg.sync_batch_norm and ctx.world_size > 1:
        synchronise(generator)
    real = Resident(images, ctx.device, flip=cfg.flip)
    networks = generator.to(ctx.device), discriminator.to(ctx.device)
    return kind(ctx, cfg, g_lr, *networks, lambda n, rng: real.batch(n, rng, ctx.rank, ctx.world_size), **further)


def fit_gan(
    ctx: Context, training: EvaluatedTraining, feature_classifier: Artifact, real: Split, classes: Sequence[int] = ()
) -> dict[str, float]:
    """Train to the end, evaluated on the way. Makes the averaged generator (EMA), the last or the best as `keep` says.

    Sample grids and all metrics are logged. `real`: validation images to compare with, of these classes of the data, whose
    numbers the generator's own, 0 .. M - 1, have there; empty where they are all. Returns the generator's metrics (of the best
    one), the step it is of, and its number of parameters.
    """
    cfg, since = training.cfg, time.perf_counter()
    # Only now, with all networks drawn: what is merely looked with must not move torch's generator before.
    against = RealSide.of(ctx, cfg, feature_classifier, real, classes)
    training.evaluation = Evaluation(ctx, cfg, training.ema.average, against)  # type: ignore[arg-type]
    shown = cfg.batch * cfg.d_steps
    train(ctx, training, steps=cfg.steps, batch=shown, evaluate_every=training.evaluation.every)
    share = training.evaluation.seconds / max(time.perf_counter() - since, 1e-9)
    ctx.log({"evaluation_share": share}, training.clock(cfg.steps))
    if classes:
        (ctx.out / CLASSES).write_text(json.dumps([int(number) for number in classes]))
    metrics = training.evaluation.keep()
    if cfg.keep == "best":
        ctx.basis[against.extractor.name] = {"extractor": against.extractor.tag, "images": cfg.evaluation_images}
    return metrics | {"parameters": float(sum(p.numel() for p in training.generator.parameters()))}


def train_generator(ctx: Context, cfg: GanConfig, data: DataSet, feature_classifier: Artifact) -> dict[str, float]:
    """A class-conditional BigGAN on the real training images."""
    training = gan_training(ctx, cfg, cfg.g_lr, *build_gan(cfg, data), data.train)
    return fit_gan(ctx, training, feature_classifier, data.val)


def build_gan(cfg: GanNetworkConfig, data: DataSet) -> tuple[nn.Module, nn.Module]:
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
