"""Draw good fakes of one class: rejection by density ratio (module M1), then the teacher's filter and replacement (M2).

Nothing here knows a generator or a network: images come from `draw`, ratios from `ratio`, logits from `teacher`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gankd.errors import StageFailed
from methods.cgan_kd.selection import (
    Estimator,
    accept,
    below_threshold,
    error_threshold,
    label_errors,
    ratio_bound,
    replaced_labels,
)

Draw = Callable[[int, torch.Generator], Tensor]
Ratio = Callable[[Tensor], Tensor]
Teacher = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SamplingStatistics:
    """Counts of one class: fakes drawn in all, tested (drawn after burn-in) and accepted; `bound` is M."""

    draws: int
    tested: int
    accepted: int
    bound: float

    @property
    def acceptance_rate(self) -> float:
        """accepted / tested; expected mean(ratio) / M."""
        return self.accepted / self.tested if self.tested else 0.0


class RejectionSampler:
    """Fakes of one class, accepted with probability ratio / M (cDR-RS).

    M comes from one burn-in sample, drawn on first use, and is the same for all that follows, so accepted images are
    identically distributed. `reference_compat` takes a new burn-in at every call and lets M grow between batches.
    """

    def __init__(
        self,
        draw: Draw,
        ratio: Ratio,
        *,
        label: int,
        burn_in: int,
        batch: int,
        max_draws: int,
        rng: torch.Generator,
        estimator: Estimator = "max",
        quantile: float = 0.99,
        reference_compat: bool = False,
    ) -> None:
        """`draw(n, rng)` gives n images, `ratio(images)` their ratios (n,).

        `max_draws` bounds the draws over the sampler's life, burn-in included. For `estimator` and `quantile` see
        `ratio_bound`.
        """
        self.draw, self.ratio, self.label, self.rng = draw, ratio, label, rng
        self.burn_in, self.batch, self.max_draws = burn_in, batch, max_draws
        self.estimator, self.quantile, self.reference_compat = estimator, quantile, reference_compat
        self.bound: float | None = None
        self.draws = self.tested = self.accepted = 0

    @property
    def statistics(self) -> SamplingStatistics:
        return SamplingStatistics(self.draws, self.tested, self.accepted, self.bound or 0.0)

    def sample(self, n: int) -> Tensor:
        """`n` accepted images (n, ...). Raises StageFailed when ratios are all 0 or not finite, or draws run out."""
        if self.bound is None or self.reference_compat:
            self._burn_in()
        assert self.bound is not None
        kept: list[Tensor] = []
        have = 0
        while have < n:
            images, ratios = self._draw(self.batch)
            if self.reference_compat:
                self.bound = max(self.bound, float(ratios.max()))
            accepted = accept(ratios, uniforms(len(ratios), self.rng), self.bound)
            self.tested += len(ratios)
            self.accepted += int(accepted.sum())
            have += int(accepted.sum())
            kept.append(images[accepted.to(images.device)])
        return torch.cat(kept)[:n]

    def _burn_in(self) -> None:
        ratios = []
        for start in range(0, self.burn_in, self.batch):
            ratios.append(self._draw(min(self.batch, self.burn_in - start))[1])
        self.bound = ratio_bound(torch.cat(ratios), self.estimator, self.quantile)
        if self.bound <= 0:
            raise self._failure(f"the density ratio of class {self.label} is 0 on its burn-in of {self.burn_in} fakes")

    def _draw(self, n: int) -> tuple[Tensor, Tensor]:
        if self.draws + n > self.max_draws:
            raise self._failure(f"the sampler of class {self.label} reached its limit of {self.max_draws} draws")
        images = self.draw(n, self.rng)
        self.draws += n
        # float64 on the generator's device: the decision is the same wherever the networks run.
        ratios = self.ratio(images).detach().to(self.rng.device, torch.float64)
        if not bool(torch.isfinite(ratios).all()):
            raise self._failure(f"the density ratio of class {self.label} is not a finite number for some fakes")
        return images, ratios

    def _failure(self, what: str) -> StageFailed:
        return StageFailed(
            f"{what} ({self.draws} draws, {self.accepted} accepted, M = {self.bound or 0.0:.4g}); "
            "train the density ratio longer or raise the draw limit"
        )


def uniforms(n: int, rng: torch.Generator) -> Tensor:
    """The `n` numbers in [0, 1) that decide about `n` fakes."""
    return torch.rand(n, generator=rng, device=rng.device, dtype=torch.float64)


@dataclass(frozen=True)
class FilterStatistics:
    """Images of one class seen after the filter's burn-in, and kept; `threshold` is the largest error kept, in nats."""

    seen: int
    kept: int
    threshold: float


def filter_class(
    sample: Callable[[int], Tensor],
    teacher: Teacher,
    n: int,
    quantile: float,
    *,
    label: int,
    burn_in: int,
    max_rounds: int,
    replace: bool = False,
    reference_compat: bool = False,
) -> tuple[Tensor, Tensor, FilterStatistics]:
    """`n` images of one class on which the teacher errs little: images (n, ...), int64 labels (n,), statistics.

    The threshold is the `quantile` of the teacher's errors on `burn_in` images; then half of `n` images are asked for
    at a time, at most `max_rounds` times. `sample(m)` gives m images, `teacher(images)` logits. With `replace` the
    label is the teacher's arg max. Raises StageFailed when too few images pass.
    """
    threshold = error_threshold(_errors(teacher(sample(burn_in)), label), quantile, reference_compat=reference_compat)
    if not bool(torch.isfinite(threshold)):
        raise StageFailed(f"the teacher's error on fakes of class {label} is not finite; train the teacher again")
    images: list[Tensor] = []
    labels: list[Tensor] = []
    seen = kept = 0
    while kept < n:
        if len(images) == max_rounds:
            raise StageFailed(
                f"the filter of class {label} kept {kept} of {seen} fakes in {max_rounds} rounds, {n} are needed; "
                "raise the filter's quantile or its burn-in"
            )
        batch = sample(max(n // 2, 1))
        logits = teacher(batch)
        keep = below_threshold(_errors(logits, label), threshold, reference_compat=reference_compat)
        seen += len(batch)
        kept += int(keep.sum())
        images.append(batch[keep.to(batch.device)])
        new_labels = replaced_labels(logits) if replace else torch.full((len(logits),), label, device=logits.device)
        labels.append(new_labels[keep])
    return torch.cat(images)[:n], torch.cat(labels)[:n], FilterStatistics(seen, kept, float(threshold))


def _errors(logits: Tensor, label: int) -> Tensor:
    return label_errors(logits, torch.full((len(logits),), label, device=logits.device))
