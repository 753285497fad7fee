"""Module M3 transfers: the student goes on training on real images and processed fakes, with its ordinary loss."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.stages.classifier import EVALUATIONS, Batch, ClassifierTraining, keep_classifier, rate_of
from gankd.store.artifact import Artifact
from methods.cgan_kd.config import StudentConfig


def class_quotas(counts: Tensor, nfake: int, *, reference_compat: bool = False) -> Tensor:
    """How many of `nfake` rows to take from each class that has `counts` (classes,): int64 (classes,).

    Equal shares, the remainder one by one to the first classes; what a class lacks goes to those that have more, so
    the sum is min(nfake, sum(counts)). Reference: nfake // classes each and the whole remainder from the last class,
    each at most what the class has, so the sum may fall short; everything when nfake >= sum(counts).
    """
    if nfake >= int(counts.sum()):
        return counts.clone()
    if reference_compat:
        share = nfake // len(counts)
        wanted = torch.full_like(counts, share)
        wanted[-1] = nfake - share * (len(counts) - 1)
        return torch.minimum(wanted, counts)
    quotas = torch.zeros_like(counts)
    left = nfake
    while left > 0:
        open_classes = (quotas < counts).nonzero()[:, 0]
        share = left // len(open_classes)
        if share == 0:
            quotas[open_classes[:left]] += 1
            break
        given = torch.minimum(counts[open_classes] - quotas[open_classes], torch.tensor(share))
        quotas[open_classes] += given
        left -= int(given.sum())
    return quotas


def select_per_class(labels: Tensor, nfake: int, classes: int, rng: torch.Generator, *, reference_compat: bool = False) -> Tensor:
    """Ascending indices of `nfake` rows of the int64 `labels` (N,), balanced over the classes by `class_quotas`.

    Within a class the rows are drawn without replacement.
    """
    quotas = class_quotas(torch.bincount(labels, minlength=classes), nfake, reference_compat=reference_compat)
    chosen = []
    for label, quota in enumerate(quotas.tolist()):
        rows = (labels == label).nonzero()[:, 0]
        chosen.append(rows[torch.randperm(len(rows), generator=rng)[:quota]])
    return torch.cat(chosen).sort().values


def fakes_per_batch(cfg: StudentConfig, n_real: int, n_fake: int, workers: int = 1) -> int:
    """Fakes in each batch: as `real_per_fake` says, or the share they have among all images (the paper's shuffle).

    Rounded so that every worker has the same mixture, which its batch statistics need.
    """
    share = n_fake / (n_real + n_fake) if cfg.real_per_fake is None else 1 / (1 + cfg.real_per_fake)
    return workers * math.floor(share * cfg.batch / workers + 0.5)


def fit_student(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact, fakes: Split | None) -> dict[str, float]:
    """Train the student on real images and, if there are any, fakes. Makes a saved network."""
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
    metrics = train(ctx, training, steps=cfg.steps, batch=cfg.batch, evaluate_every=max(1, cfg.steps // EVALUATIONS))
    keep_classifier(ctx, network, data)
    return metrics
