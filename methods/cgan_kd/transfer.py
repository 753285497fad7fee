"""Module M3 transfers: the student goes on training on real images and processed fakes, with its ordinary loss or a KD loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import autocast, evaluating, train, update
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.classifier import EVALUATIONS, Batch, ClassifierTraining, keep_classifier, load_network, rate_of
from gankd.store.artifact import Artifact
from methods.cgan_kd.config import KD_FORMS, StudentConfig, TransferConfig, kd_form
from methods.cgan_kd.kd.distiller import build_loss
from methods.cgan_kd.kd.logits import soft_targets
from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen, see


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


def fakes_per_batch(cfg: TransferConfig, n_real: int, n_fake: int, workers: int = 1) -> int:
    """Fakes in each batch: as `real_per_fake` says, or the share they have among all images (the paper's shuffle).

    Rounded so that every worker has the same mixture, which its batch statistics need.
    """
    share = n_fake / (n_real + n_fake) if cfg.real_per_fake is None else 1 / (1 + cfg.real_per_fake)
    return workers * math.floor(share * cfg.batch / workers + 0.5)


class Mixture:
    """Batches of real images and, if there are any, fakes; the share of fakes is the same in all of them."""

    def __init__(self, ctx: Context, cfg: TransferConfig, data: DataSet, fakes: Split | None) -> None:
        resident = partial(Resident, device=ctx.device, flip=cfg.flip, crop_padding=cfg.crop_padding)
        parts = {"real": resident(data.train)} | ({"fake": resident(fakes)} if fakes else {})
        n_fake = fakes_per_batch(cfg, len(data.train), len(fakes), ctx.world_size) if fakes else 0
        share = {"real": cfg.batch - n_fake, "fake": n_fake}
        self.ctx = ctx
        self.parts = [(part, share[name], ctx.seed_for(0, name)) for name, part in parts.items()]

    def batch(self, step: int, rng: torch.Generator) -> Batch:
        """This worker's images and labels of step `step`."""
        rank, world = self.ctx.rank, self.ctx.world_size
        drawn = [part.epoch_batch(step, n, rng, seed, rank, world) for part, n, seed in self.parts if n]
        return torch.cat([images for images, _ in drawn]), torch.cat([labels for _, labels in drawn])

    @property
    def labels(self) -> Tensor:
        """Of all images, the real ones first."""
        return torch.cat([part.labels for part, _, _ in self.parts])

    def places(self, step: int) -> Tensor:
        """Where the images of step `step` stand among all, one worker's after the other's: (batch,)."""
        start, found = 0, []
        for part, n, seed in self.parts:
            if n:
                walk = part.walk(step, n, seed).to(self.ctx.device)
                found.append(start + walk.view(self.ctx.world_size, -1))
            start += len(part)
        return torch.cat(found, 1).flatten()


def fit_student(
    ctx: Context, cfg: TransferConfig, data: DataSet, network: Any, fakes: Split | None, teacher: Artifact | None = None
) -> dict[str, float]:
    """Train `network` on real images and, if there are any, fakes; `teacher`: who teaches it. Makes a saved network."""
    if cfg.start == "scratch":
        network = models.build(**network.recipe)
    ctx.share(cfg.batch)
    mixture, rate = Mixture(ctx, cfg, data, fakes), rate_of(cfg, cfg.steps)
    if teacher is None:
        training = ClassifierTraining(ctx, cfg, network, mixture.batch, data, rate)
    else:
        assert isinstance(cfg, StudentConfig)
        training = Distillation(ctx, cfg, network, mixture, data, rate, load_network(teacher, ctx.device))
    metrics = train(ctx, training, steps=cfg.length, batch=cfg.batch, evaluate_every=max(1, cfg.steps // EVALUATIONS))
    keep_classifier(ctx, network, data)
    return metrics


class SoftTargets(ClassifierTraining):
    """(1 - soft) cross-entropy + soft T^2 KL(teacher || network): a hop of TAKD."""

    def __init__(self, *args: Any, teacher: Any) -> None:
        super().__init__(*args)
        self.teacher = teacher.to(memory_format=torch.channels_last)

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        cfg, (images, labels) = self.cfg, self.draw(step, rng)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast(self.ctx.device, cfg.precision):
            targets = self.teacher(images).float()
        with autocast(self.ctx.device, cfg.precision):
            logits = self.network(images).float()
        ce, soft = self.task.loss(logits, labels), soft_targets(logits, targets, cfg.temperature)
        loss = (1 - cfg.soft) * ce + cfg.soft * soft
        update(self.ctx, loss, self.optimizers["network"], self.network, lr=cfg.lr * self.rate(step))
        return {name: term.detach() for name, term in {"loss": loss, "loss_ce": ce, "loss_soft": soft}.items()}


class Distillation(ClassifierTraining):
    """The student learns by `kd_ce` cross-entropy + `kd_soft` soft targets + `kd_weight` the loss `kd`, on real images and fakes.

    What the loss prepares comes first, in `pretraining_steps` at the first learning rate; then the student's own steps begin.
    """

    def __init__(
        self, ctx: Context, cfg: StudentConfig, network: Any, mixture: Mixture, data: DataSet,
        rate: Callable[[int], float], teacher: Any,
    ) -> None:  # fmt: skip
        super().__init__(ctx, cfg, network, mixture.batch, data, rate)
        self.mixture, self.teacher = mixture, teacher.to(memory_format=torch.channels_last)
        self.loss = self._loss(network, Resident(data.train, ctx.device).take(torch.arange(2))[0]).to(ctx.device).train()
        if cfg.sync_batch_norm and ctx.world_size > 1:
            synchronise(self.loss)
        self.modules["kd"] = self.loss
        parameters = [*self.network.parameters(), *self.loss.parameters()]
        sgd = partial(torch.optim.SGD, momentum=cfg.momentum, weight_decay=cfg.weight_decay, fused=True)
        self.optimizers = {"network": sgd(parameters, cfg.lr)}
        if cfg.pretraining_steps:  # has a momentum of its own
            self.optimizers["pretraining"] = sgd(parameters, cfg.lr)
        self.weights = {name: kd_form(cfg, name) for name in KD_FORMS[cfg.kd]}

    def _loss(self, network: Any, images: Tensor) -> KdLoss:
        """The loss, with the parts that maps of these shapes need."""
        with evaluating(network, self.teacher):
            student, teacher = see(network, images), see(self.teacher, images)
        return build_loss(self.cfg, student, teacher, self.mixture.labels, self.ctx)

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        own = step - self.cfg.pretraining_steps  # steps of the student's own that came before
        early = own < 0
        at = step if early else own
        images, labels = self.draw(at, rng)
        shown = self.loss.views(images).contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast(self.ctx.device, self.cfg.precision):
            teacher = see(self.teacher, shown)
        if early:
            loss = self.loss.pretrain(lambda: self._student(shown), teacher)
            terms = {"loss_pretraining": loss}
        else:
            drawn = Drawn(labels, self.mixture.places(at), rng)
            loss, terms = self._terms(self._student(shown), teacher, drawn, own)
        optimizer = self.optimizers["pretraining" if early else "network"]
        update(self.ctx, loss, optimizer, self.network, *self.loss.trained(), lr=self.cfg.lr * self.rate(max(0, own)))
        if not early:
            self.loss.settle()
        return {name: term.detach() for name, term in terms.items()}

    def _student(self, images: Tensor) -> Seen:
        with autocast(self.ctx.device, self.cfg.precision):
            return see(self.network, images)

    def _terms(self, student: Seen, teacher: Seen, drawn: Drawn, own: int) -> tuple[Tensor, dict[str, Tensor]]:
        """What is minimised, and its terms."""
        upright_s, upright_t = student.rows(self.loss.copies), teacher.rows(self.loss.copies)
        weights, warmup = self.weights, self.weights["kd_warmup"] * self.cfg.steps
        ce = self.task.loss(upright_s.logits, drawn.labels)
        soft = soft_targets(upright_s.logits, upright_t.logits, weights["kd_temperature"])
        kd = self.loss(student, teacher, drawn)
        risen = min(1.0, (own + 1) / warmup) if warmup else 1.0
        loss = weights["kd_ce"] * ce + weights["kd_soft"] * soft + weights["kd_weight"] * risen * kd
        return loss, {"loss": loss, "loss_ce": ce, "loss_soft": soft, "loss_kd": kd}
