"""The stages of cGAN-KD that are its own, in the order of the paper's workflow figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident, normalise, to_uint8
from gankd.engine import Algorithm, autocast, train
from gankd.stages.classifier import (
    EVALUATIONS,
    Batch,
    ClassifierTraining,
    build_classifier,
    fit_classifier,
    keep_classifier,
    load_network,
    rate_of,
)
from gankd.stages.schedule import multistep
from gankd.store.artifact import Artifact
from methods.cgan_kd.config import DensityRatioConfig, ExtractorConfig, SamplesConfig, StudentConfig
from methods.cgan_kd.losses import softplus_ratio_loss
from methods.cgan_kd.sampling import RejectionSampler, SamplingStatistics, filter_class
from methods.cgan_kd.selection import select_per_class


def train_extractor(ctx: Context, cfg: ExtractorConfig, data: DataSet) -> dict[str, float]:
    """phi: a classifier whose wide inner layer is the feature. It sees [-1, 1], as the ratio net's fakes are."""
    return fit_classifier(ctx, cfg, data, build_classifier(cfg, data, trunk=cfg.trunk, dropout=cfg.dropout))


class DensityRatioTraining(Algorithm):
    """psi(phi(x), y) by the conditional Softplus loss; fakes are drawn with the labels of the real batch."""

    def __init__(self, ctx: Context, cfg: DensityRatioConfig, data: DataSet, generator: Any, extractor: Any) -> None:
        self.ctx, self.cfg, self.generator, self.extractor = ctx, cfg, generator, extractor
        self.real = Resident(data.train, ctx.device, flip=cfg.flip)
        self.order = ctx.seed_for(0, "order")
        self.steps = self.real.steps_for(cfg.epochs, cfg.batch)
        self.milestones = [share * self.steps for share in cfg.milestones]
        psi = models.build(
            "density_ratio",
            feature_dim=extractor.feature_dim,
            classes=data.classes,
            widths=cfg.widths,
            dropout=cfg.dropout,
            output=cfg.output,
        ).to(ctx.device)
        optimizer = torch.optim.Adam(
            psi.parameters(), cfg.lr, betas=(cfg.beta1, cfg.beta2), weight_decay=cfg.weight_decay, fused=True
        )
        self.psi = psi
        self.modules, self.optimizers = {"psi": psi}, {"psi": optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        n, rank, world = self.cfg.batch, self.ctx.rank, self.ctx.world_size
        images, labels = self.real.epoch_batch(step, n, rng, self.order, rank, world)
        z = torch.randn(n, self.generator.dim_z, generator=rng, device=rng.device).chunk(world)[rank]
        with autocast(self.ctx.device, self.cfg.precision):
            with torch.no_grad():
                fakes = self.generator(z, labels)
                features = self.extractor.features(torch.cat([images, fakes]))
            ratios = self.psi(features, torch.cat([labels, labels])).float()
        real, fake = ratios.chunk(2)
        loss = softplus_ratio_loss(real, fake, self.cfg.lam)
        optimizer = self.optimizers["psi"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.ctx.average(self.psi)
        for group in optimizer.param_groups:
            group["lr"] = self.cfg.lr * multistep(step, self.milestones)
        optimizer.step()
        return {"loss": loss.detach(), "ratio_real": real.detach().mean(), "ratio_fake": fake.detach().mean()}


def train_density_ratio(
    ctx: Context, cfg: DensityRatioConfig, data: DataSet, biggan: Artifact, extractor: Artifact
) -> dict[str, float]:
    """Fit psi between real and generated features. Makes a saved network."""
    ctx.share(cfg.batch)
    training = DensityRatioTraining(ctx, cfg, data, load_network(biggan, ctx.device), load_network(extractor, ctx.device))
    train(ctx, training, steps=training.steps, batch=cfg.batch, evaluate_every=training.steps)
    models.save(training.psi, ctx.out)
    return {}


@dataclass
class Sampler:
    """What makes processed fakes of one class at a time: generator, density ratio and teacher with their knobs."""

    cfg: SamplesConfig
    device: torch.device
    generator: Any
    extractor: Any
    psi: Any
    teacher: Any

    def draw(self, label: int, n: int, rng: torch.Generator) -> Tensor:
        """`n` fakes of class `label`, (n, C, H, W) in [-1, 1], on grey levels that uint8 can hold."""
        z = torch.randn(n, self.generator.dim_z, generator=rng, device=rng.device)
        images = self.generator(z.to(self.device), torch.full((n,), label, device=self.device))
        # The ratio and the teacher rate what the student will see: the stored grey levels.
        return normalise(to_uint8(images, truncate=self.cfg.reference_compat))

    def ratio(self, label: int, images: Tensor) -> Tensor:
        """psi(phi(images), label), (n,)."""
        features = self.extractor.features(images)
        ratios: Tensor = self.psi(features, torch.full((len(images),), label, device=self.device))
        return ratios

    @torch.no_grad()
    def make(self, label: int, rng: torch.Generator) -> tuple[Tensor, Tensor, SamplingStatistics]:
        """`cfg.per_class` processed fakes of class `label`: uint8 images, int64 labels, and how they were got."""
        cfg = self.cfg
        sampler = RejectionSampler(
            lambda n, generator: self.draw(label, n, generator),
            lambda images: self.ratio(label, images) if cfg.subsampling else torch.ones(len(images)),
            label=label,
            burn_in=cfg.burn_in if cfg.subsampling else cfg.batch,
            batch=cfg.batch,
            max_draws=cfg.max_draws * cfg.per_class + cfg.burn_in + cfg.max_draws * cfg.filter_burn_in,
            rng=rng,
            estimator=cfg.estimator,
            quantile=cfg.m_quantile,
            reference_compat=cfg.reference_compat,
        )
        if cfg.filter_quantile < 1 or cfg.replace_labels:
            images, labels, _ = filter_class(
                sampler.sample,
                self.teacher,
                cfg.per_class,
                cfg.filter_quantile,
                label=label,
                burn_in=cfg.filter_burn_in,
                max_rounds=cfg.max_draws,
                replace=cfg.replace_labels,
                reference_compat=cfg.reference_compat,
            )
        else:
            images = sampler.sample(cfg.per_class)
            labels = torch.full((len(images),), label)
        return to_uint8(images), labels, sampler.statistics


def make_samples(
    ctx: Context,
    cfg: SamplesConfig,
    data: DataSet,
    biggan: Artifact,
    extractor: Artifact,
    density_ratio: Artifact,
    teacher: Artifact,
) -> dict[str, float]:
    """M1 and M2 for every class. Makes images.npy uint8 (N, C, H, W) and labels.npy int64 (N,), rows grouped by class."""
    classes = data.classes or 0
    networks = [load_network(artifact, ctx.device) for artifact in (biggan, extractor, density_ratio, teacher)]
    sampler = Sampler(cfg, ctx.device, *networks)
    mine = {}
    for label in range(ctx.rank, classes, ctx.world_size):
        images, labels, statistics = sampler.make(label, ctx.rng(label, device="cpu"))
        mine[label] = (images.cpu().numpy(), labels.cpu().numpy(), statistics)
        ctx.progress(label + 1, classes)
        ctx.log({"acceptance": statistics.acceptance_rate, "ratio_bound": statistics.bound}, step=label)
    made = ctx.gather(mine)
    ordered = [part for _, part in sorted((label, part) for parts in made for label, part in parts.items())]
    np.save(ctx.out / "images.npy", np.concatenate([images for images, _, _ in ordered]))
    np.save(ctx.out / "labels.npy", np.concatenate([labels for _, labels, _ in ordered]))
    tested = sum(statistics.tested for _, _, statistics in ordered)
    return {
        "acceptance": sum(statistics.accepted for _, _, statistics in ordered) / tested,
        "draws": float(sum(statistics.draws for _, _, statistics in ordered)),
    }


def train_student(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact, samples: Artifact) -> dict[str, float]:
    """M3: the student on real and processed fake images. Makes a saved network."""
    labels = torch.tensor(samples.array("labels.npy"))
    if cfg.fakes:
        chosen = select_per_class(labels, cfg.fakes, data.classes or 0, ctx.rng(0, "fakes", device="cpu")).numpy()
    else:
        chosen = np.arange(len(labels))
    fakes = Split(np.asarray(samples.array("images.npy")[chosen]), np.asarray(labels[chosen]))
    return _fit_student(ctx, cfg, data, baseline, fakes)


def train_control(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact) -> dict[str, float]:
    """The control: the same student, the same start, the same steps, real images only."""
    return _fit_student(ctx, cfg, data, baseline, None)


def _fit_student(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact, fakes: Split | None) -> dict[str, float]:
    network = models.load(baseline.path)
    if cfg.start == "scratch":
        network = models.build(**network.recipe)
    ctx.share(cfg.batch)
    resident = partial(Resident, device=ctx.device, flip=cfg.flip, crop_padding=cfg.crop_padding)
    real, fake = resident(data.train), resident(fakes) if fakes else None
    rank, world = ctx.rank, ctx.world_size
    n_fake = fakes_per_batch(cfg, len(data.train), len(fakes), world) if fakes else 0

    def draw(step: int, rng: torch.Generator) -> Batch:
        parts = []
        if cfg.batch > n_fake:
            parts.append(real.epoch_batch(step, cfg.batch - n_fake, rng, ctx.seed_for(0, "real"), rank, world))
        if fake and n_fake:
            parts.append(fake.epoch_batch(step, n_fake, rng, ctx.seed_for(0, "fake"), rank, world))
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    training = ClassifierTraining(ctx, cfg, network, draw, data, rate_of(cfg, cfg.steps))
    found = train(ctx, training, steps=cfg.steps, batch=cfg.batch, evaluate_every=max(1, cfg.steps // EVALUATIONS))
    keep_classifier(ctx, network, data)
    return found


def fakes_per_batch(cfg: StudentConfig, n_real: int, n_fake: int, workers: int = 1) -> int:
    """Fakes in each batch: as `real_per_fake` says, or the share they have among all images (the paper's shuffle).

    Rounded so that every worker has the same mixture, which its batch statistics need.
    """
    share = n_fake / (n_real + n_fake) if cfg.real_per_fake is None else 1 / (1 + cfg.real_per_fake)
    return workers * math.floor(share * cfg.batch / workers + 0.5)
