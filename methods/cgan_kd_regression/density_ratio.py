"""psi(phi(x), h(y)), the density ratio where labels are numbers, and how it is fitted (module M1, cDR-RS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.engine import Algorithm, autocast, update
from gankd.errors import StageFailed
from gankd.stages.schedule import multistep
from gankd.stages.task import Continuous, task_of
from methods.cgan_kd.networks import Output, as_ratio, ratio_layers
from methods.cgan_kd.subsampling import softplus_ratio_loss
from methods.cgan_kd_regression.autoencoder import EvenLabels
from methods.cgan_kd_regression.config import LabelRatioConfig
from methods.cgan_kd_regression.vicinity import vicinity_width


class LabelRatio(nn.Module):
    """psi(phi, h) ~ p_real(phi | y) / p_fake(phi | y), a ratio >= 0; h is the label's embedding.

    [h, phi] -> (linear, GroupNorm, ReLU, dropout) x L -> linear -> softplus, or the reference's ReLU.
    13,416,321 parameters for the default widths, 128 numbers of h and 12,288 of phi.

    zeta: how far the labels of the fakes that it was fitted on may lie from y, in the label's unit (`Zeta`).
    """

    def __init__(
        self, feature_dim: int, embedding_dim: int, widths: Sequence[int] = (1024, 512, 256, 128, 64), dropout: float = 0.5,
        output: Output = "softplus", groups: int = 8, zeta: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.output, self.zeta = output, zeta
        self.layers = ratio_layers(embedding_dim + feature_dim, widths, dropout, groups)

    def forward(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Features (N, feature_dim) and embeddings of labels (N, embedding_dim) -> ratios (N,)."""
        return as_ratio(self.layers(torch.cat([embedded, features], dim=1)), self.output)


@dataclass(frozen=True)
class Zeta:
    """The vicinity of a label that its fakes may come from: asked for is any label in it, and the extractor must tell one in it.

    radius: in the label's unit; 0: fakes are of the label itself, and none is looked at.
    """

    task: Continuous
    radius: float

    def asked(self, labels: Tensor, uniforms: Tensor) -> Tensor:
        """Labels in the vicinities of `labels`, inside the range, by numbers in [0, 1); all (n,)."""
        low, high = ((labels + side * self.radius).clamp(self.task.low, self.task.high) for side in (-1, 1))
        return low + uniforms * (high - low)

    def holds(self, extractor: Any, features: Tensor, labels: Tensor) -> Tensor:
        """Whether the extractor tells a label in the vicinity of `labels` from `features`: (n,)."""
        if not self.radius:
            return torch.ones_like(labels, dtype=torch.bool)
        told = self.task.answers(extractor.predictor(features))
        return (told - labels).abs() <= self.radius


def zeta_of(cfg: LabelRatioConfig, data: DataSet) -> Zeta:
    """The vicinity that the config asks for."""
    task = task_of(data)
    assert isinstance(task, Continuous)
    places = task.place(torch.tensor(data.train.labels, dtype=torch.float64))
    return Zeta(task, vicinity_width(cfg.zeta, places) * (task.high - task.low) if cfg.zeta else 0.0)


class LabelRatioTraining(Algorithm):
    """psi by the conditional Softplus loss: real images evenly over their labels, and a fake beside each, of its label.

    With zeta the fake's label is near the real one's, and psi is told the real one's for both.
    """

    def __init__(
        self, ctx: Context, cfg: LabelRatioConfig, data: DataSet, embedding: Any, generator: Any, extractor: Any
    ) -> None:  # fmt: skip
        self.ctx, self.cfg, self.embedding, self.generator, self.extractor = ctx, cfg, embedding, generator, extractor
        self.real, self.zeta = EvenLabels(data.train, ctx.device, flip=cfg.flip), zeta_of(cfg, data)
        self.steps = self.real.images.steps_for(cfg.epochs, cfg.batch)
        self.milestones = [share * self.steps for share in cfg.milestones]
        self.psi = models.build(
            "label_density_ratio",
            feature_dim=extractor.feature_dim,
            embedding_dim=embedding.dim,
            widths=list(cfg.widths),
            dropout=cfg.dropout,
            output=cfg.output,
            zeta=self.zeta.radius,
        ).to(ctx.device)
        optimizer = torch.optim.Adam(
            self.psi.parameters(), cfg.lr, betas=(cfg.beta1, cfg.beta2), weight_decay=cfg.weight_decay, fused=True
        )
        self.modules, self.optimizers = {"psi": self.psi}, {"psi": optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.real.batch(self.cfg.batch, rng, self.ctx.rank, self.ctx.world_size)
        with autocast(self.ctx.device, self.cfg.precision):
            with torch.no_grad():
                fakes, near = self.fake_features(labels, rng)
                features = torch.cat([self.extractor.features(images)[near], fakes[near]])
                embedded = self.embedding(labels[near])
            ratios = self.psi(features, torch.cat([embedded, embedded])).float()
        real, fake = ratios.chunk(2)
        loss = softplus_ratio_loss(real, fake, self.cfg.lam)
        update(self.ctx, loss, self.optimizers["psi"], self.psi, lr=self.cfg.lr * multistep(step, self.milestones))
        shares = {"pairs": near.float().mean()} if self.zeta.radius else {}
        return {"loss": loss.detach(), "ratio_real": real.detach().mean(), "ratio_fake": fake.detach().mean()} | shares

    def fake_features(self, labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """phi of a fake for each of `labels`, (n, F), and whether it lies in the label's vicinity, (n,)."""
        features = self.extractor.features(self.fakes(labels, rng))
        near = self.zeta.holds(self.extractor, features, labels)
        for _ in range(self.cfg.zeta_rounds - 1 if self.zeta.radius else 0):
            features = torch.where(near[:, None], features, self.extractor.features(self.fakes(labels, rng)))
            near = self.zeta.holds(self.extractor, features, labels)
            if bool(near.all()):
                return features, near
        if not bool(near.any()):
            raise StageFailed(
                f"{self.ctx.stage}: the extractor tells no fake's label within {self.zeta.radius:.4g} of the one asked for, in "
                f"{self.cfg.zeta_rounds} rounds: raise {self.ctx.stage}.zeta, or train the GAN or the extractor longer"
            )
        return features, near

    def fakes(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        """Fakes for this worker's `labels` (n,), drawn for all workers."""
        rank, world, n = self.ctx.rank, self.ctx.world_size, self.cfg.batch
        z = self.generator.latents(n, rng).chunk(world)[rank]
        if self.zeta.radius:
            labels = self.zeta.asked(labels, torch.rand(n, generator=rng, device=rng.device).chunk(world)[rank])
        images: Tensor = self.generator(z, labels)
        return images
