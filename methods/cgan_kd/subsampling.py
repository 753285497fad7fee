"""Module M1 drops fakes of low quality: D^g, what the generator makes of a class, becomes D^g_s (cDR-RS).

psi(phi(x), y) ~ p_r(x | y) / p_g(x | y), on features phi of a classifier, is fitted by the conditional Softplus loss; then a
fake of class y is accepted with probability psi / M(y), M(y) being the largest psi of that class.

`RejectionSampler` knows no network: images come from `draw`, ratios from `ratio`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import Algorithm, autocast, update
from gankd.errors import StageFailed
from gankd.stages.schedule import multistep
from methods.cgan_kd.config import DensityRatioConfig

Draw = Callable[[int, torch.Generator], Tensor]
Ratio = Callable[[Tensor], Tensor]
Estimator = Literal["max", "quantile"]


def softplus_ratio_loss(real: Tensor, fake: Tensor, penalty: float = 0.01) -> Tensor:
    """L = mean(s(b) b) - mean(sp(b)) - mean(s(a)) + lambda (mean(b) - 1)^2, with a = `real`, b = `fake`, lambda = `penalty`.

    a_i = psi(h^r_i, y_i) >= 0 and b_i = psi(h^f_i, y_i) >= 0, (N,): ratios of real features and of fakes drawn with the
    same labels; s is the sigmoid, sp the softplus. Without penalty the population loss is smallest at psi = p_r / p_g,
    whose mean over fakes is 1: the penalty pulls there. It sees the mean over the whole batch, so each class's scale stays
    free; the rejection sampler divides it out. Returns a scalar.
    """
    bregman = (torch.sigmoid(fake) * fake).mean() - F.softplus(fake).mean() - torch.sigmoid(real).mean()
    return bregman + penalty * (fake.mean() - 1).square()


class DensityRatioTraining(Algorithm):
    """psi(phi(x), y) by the conditional Softplus loss; fakes are drawn with the labels of the real batch."""

    def __init__(self, ctx: Context, cfg: DensityRatioConfig, data: DataSet, generator: Any, extractor: Any) -> None:
        self.ctx, self.cfg, self.generator, self.extractor = ctx, cfg, generator, extractor
        self.real = Resident(data.train, ctx.device, flip=cfg.flip)
        self.order = ctx.seed_for(0, "order")
        self.steps = self.real.steps_for(cfg.epochs, cfg.batch)
        self.milestones = [share * self.steps for share in cfg.milestones]
        self.psi = models.build(
            "density_ratio",
            feature_dim=extractor.feature_dim,
            classes=data.classes,
            widths=cfg.widths,
            dropout=cfg.dropout,
            output=cfg.output,
        ).to(ctx.device)
        optimizer = torch.optim.Adam(
            self.psi.parameters(), cfg.lr, betas=(cfg.beta1, cfg.beta2), weight_decay=cfg.weight_decay, fused=True
        )
        self.modules, self.optimizers = {"psi": self.psi}, {"psi": optimizer}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        n, rank, world = self.cfg.batch, self.ctx.rank, self.ctx.world_size
        images, labels = self.real.epoch_batch(step, n, rng, self.order, rank, world)
        z = self.generator.latents(n, rng).chunk(world)[rank]
        with autocast(self.ctx.device, self.cfg.precision):
            with torch.no_grad():
                fakes = self.generator(z, labels)
                features = self.extractor.features(torch.cat([images, fakes]))
            ratios = self.psi(features, torch.cat([labels, labels])).float()
        real, fake = ratios.chunk(2)
        loss = softplus_ratio_loss(real, fake, self.cfg.lam)
        update(self.ctx, loss, self.optimizers["psi"], self.psi, lr=self.cfg.lr * multistep(step, self.milestones))
        return {"loss": loss.detach(), "ratio_real": real.detach().mean(), "ratio_fake": fake.detach().mean()}


def ratio_bound(ratios: Tensor, estimator: Estimator = "max", quantile: float = 0.99) -> float:
    """M(y), the bound of a label's density ratio, from burn-in ratios (N,).

    `max` is an extreme value: a larger burn-in gives a larger M and fewer acceptances. `quantile` is stable; ratios
    above it count as M.
    """
    if estimator == "max":
        return float(ratios.max())
    if estimator == "quantile":
        return float(torch.quantile(ratios.double(), quantile))
    raise ValueError(f"estimator is {estimator!r}; allowed: max, quantile")


def uniforms(n: int, rng: torch.Generator) -> Tensor:
    """u_k ~ U[0, 1), (n,): the numbers that decide about `n` fakes."""
    return torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64)


def accept(ratios: Tensor, uniforms: Tensor, bound: float) -> Tensor:
    """Rejection sampling: the mask u_k <= psi_k / M, all (N,); u in [0, 1), M = `bound` > 0. Ratios above M pass."""
    return uniforms <= ratios / bound


class Rejection(Protocol):
    """The knobs of rejection sampling, and `draw_limit`, the fakes after which it is given up."""

    @property
    def subsampling(self) -> bool: ...
    @property
    def estimator(self) -> Estimator: ...
    @property
    def m_quantile(self) -> float: ...
    @property
    def burn_in(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def reference_compat(self) -> bool: ...
    @property
    def draw_limit(self) -> int: ...


class RejectionSampler:
    """D^g_s of one label: fakes accepted with probability psi / M(y).

    M comes from one burn-in sample, drawn on first use, and is the same for all that follows, so accepted images are
    identically distributed. `cfg.reference_compat` takes a new burn-in at every call and lets M grow between batches.

    Args:
        cfg: `burn_in`, `batch`, `estimator`, `m_quantile`, and the limit of draws over the sampler's life. Without
            `subsampling` every fake is accepted, as if psi were 1.
        label: what all the fakes have in common, as messages say it: "class 3".
        draw: `draw(n, rng)` gives n images of that label, of D^g.
        ratio: `ratio(images)` gives their psi, (n,).

    Attributes:
        bound: M(y), 0 before the burn-in.
        draws, tested, accepted: fakes drawn in all, tested (drawn after burn-in) and accepted so far.
    """

    def __init__(self, cfg: Rejection, label: str, draw: Draw, ratio: Ratio, rng: torch.Generator) -> None:
        self.cfg, self.label, self.draw, self.ratio, self.rng = cfg, label, draw, ratio, rng
        self.bound = 0.0
        self.draws = self.tested = self.accepted = 0

    @property
    def acceptance_rate(self) -> float:
        """accepted / tested; expected mean(psi) / M."""
        return self.accepted / self.tested if self.tested else 0.0

    def sample(self, n: int) -> Tensor:
        """`n` accepted images (n, ...). Raises StageFailed when ratios are all 0 or not finite, or draws run out."""
        if not self.bound or self.cfg.reference_compat:
            self._burn_in()
        kept: list[Tensor] = []
        have = 0
        while have < n:
            images, ratios = self._draw(self.cfg.batch)
            if self.cfg.reference_compat:
                self.bound = max(self.bound, float(ratios.max()))
            accepted = accept(ratios, uniforms(len(ratios), self.rng), self.bound)
            self.tested += len(ratios)
            self.accepted += int(accepted.sum())
            have += int(accepted.sum())
            kept.append(images[accepted.to(images.device)])
        return torch.cat(kept)[:n]

    def _burn_in(self) -> None:
        cfg, ratios = self.cfg, []
        burn_in = cfg.burn_in if cfg.subsampling else cfg.batch
        for start in range(0, burn_in, cfg.batch):
            ratios.append(self._draw(min(cfg.batch, burn_in - start))[1])
        self.bound = ratio_bound(torch.cat(ratios), cfg.estimator, cfg.m_quantile)
        if self.bound <= 0:
            raise self._failure(f"the density ratio of {self.label} is 0 on its burn-in of {burn_in} fakes")

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        if self.draws + n > self.cfg.draw_limit:
            raise self._failure(f"the sampler of {self.label} reached its limit of {self.cfg.draw_limit} draws")
        images = self.draw(n, self.rng)
        self.draws += n
        ratios = self.ratio(images) if self.cfg.subsampling else torch.ones(n)
        # float64 on the generator's device: the decision is the same wherever the networks run.
        ratios = ratios.detach().to(self.rng.device, torch.float64)
        if not bool(torch.isfinite(ratios).all()):
            raise self._failure(f"the density ratio of {self.label} is not a finite number for some fakes")
        return images, ratios

    def _failure(self, what: str) -> StageFailed:
        return StageFailed(
            f"{what} ({self.draws} draws, {self.accepted} accepted, M = {self.bound:.4g}); "
            "train the density ratio longer or raise samples.max_draws"
        )
