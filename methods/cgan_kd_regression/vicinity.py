"""Vicinal estimates of CcGAN (Ding et al. 2021): no two images share a continuous label, so near ones stand in for each other.

Labels are places in their range here, 0 at its lower end and 1 at the upper one, float64 on the CPU.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gankd.errors import UserError

TRIES = 100  # draws of noise for a label before its vicinity counts as empty


def rule_of_thumb(labels: Tensor) -> float:
    """sigma = 1.06 std(u) N^(-1/5), with the population's standard deviation, of all labels u (N,)."""
    return 1.06 * float(labels.std(correction=0)) * len(labels) ** -0.2


def largest_gap(labels: Tensor) -> float:
    """k_base: the largest difference between neighbours among the distinct labels (N,), of which there are two at least."""
    return float(labels.unique().diff().max())


def noise_width(sigma: float, labels: Tensor) -> float:
    """The standard deviation of the noise on labels: sigma, or |sigma| times the rule of thumb where it is negative."""
    return sigma if sigma >= 0 else -sigma * rule_of_thumb(labels)


def vicinity_width(kappa: float, labels: Tensor) -> float:
    """The width of a vicinity: kappa, or |kappa| times the largest gap where it is negative."""
    return kappa if kappa > 0 else -kappa * largest_gap(labels)


@dataclass(frozen=True)
class Vicinity:
    """Which labels stand in for a centre y, and for how much.

    hard (HVDL): 1 within kappa = `width`. soft (SVDL): w(y', y) = exp(-nu (y' - y)^2), nu = 1 / `width`^2, down to `cut`.
    """

    width: float
    soft: bool = True
    cut: float = 1e-3

    @property
    def radius(self) -> float:
        """How far a label may be from the centre: kappa, or sqrt(-ln(cut) / nu)."""
        return self.width * math.sqrt(-math.log(self.cut)) if self.soft else self.width

    def weights(self, labels: Tensor, centres: Tensor) -> Tensor:
        """w(label, centre), elementwise; not normalised."""
        if not self.soft:
            return torch.ones_like(centres)
        return torch.exp(-((labels - centres) / self.width).square())

    def fake_range(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """The lowest and the highest label that a generated image of these centres may be asked for."""
        return (centres - self.radius).clamp(min=0), (centres + self.radius).clamp(max=1)


class Draw(NamedTuple):
    """Of n items, all (n,): centres, which real images stand in for them, labels of the generated ones, the weights of both."""

    centres: Tensor
    images: Tensor
    fake_labels: Tensor
    real_weights: Tensor
    fake_weights: Tensor


class VicinalLabels:
    """Draws from the training labels (N,). They are sorted once, so that a vicinity is found by binary search.

    Args:
        sigma: standard deviation of the noise on centres. clip: keep centres in [0, 1], where labels can be.
    """

    def __init__(self, labels: Tensor, vicinity: Vicinity, sigma: float, *, clip: bool = True) -> None:
        self.vicinity, self.sigma, self.clip = vicinity, sigma, clip
        self.sorted, self.order = labels.double().sort(stable=True)
        self.distinct = self.sorted.unique_consecutive()

    def centres(self, n: int, rng: torch.Generator) -> Tensor:
        """y_j: uniform over the distinct labels, with noise N(0, sigma^2), (n,)."""
        return self._with_noise(self._labels(n, rng), rng)

    def bounds(self, centres: Tensor) -> tuple[Tensor, Tensor]:
        """From where to where (exclusive) the sorted labels lie in the vicinities of centres (n,)."""
        radius = self.vicinity.radius
        start = torch.searchsorted(self.sorted, centres - radius)
        return start, torch.searchsorted(self.sorted, centres + radius, right=True)

    def draw(self, n: int, rng: torch.Generator) -> Draw:
        """What a discriminator's update of n items shows. Raises UserError where a vicinity stays empty."""
        centres = self._inhabited(n, rng)
        start, end = self.bounds(centres)
        place = start + (_uniform(n, rng) * (end - start)).long()
        low, high = self.vicinity.fake_range(centres)
        fake_labels = low + _uniform(n, rng) * (high - low)
        weights = (self.vicinity.weights(labels, centres) for labels in (self.sorted[place], fake_labels))
        return Draw(centres, self.order[place], fake_labels, *weights)

    def _labels(self, n: int, rng: torch.Generator) -> Tensor:
        return self.distinct[torch.randint(len(self.distinct), (n,), generator=rng)]

    def _with_noise(self, labels: Tensor, rng: torch.Generator) -> Tensor:
        noisy = labels + self.sigma * torch.randn(len(labels), generator=rng, dtype=labels.dtype)
        return noisy.clamp(0, 1) if self.clip else noisy

    def _inhabited(self, n: int, rng: torch.Generator) -> Tensor:
        """Centres with a training label in their vicinity: where there is none, the noise is drawn anew."""
        labels = self._labels(n, rng)
        centres = self._with_noise(labels, rng)
        for _ in range(TRIES):
            start, end = self.bounds(centres)
            if bool((start < end).all()):
                return centres
            centres = torch.where(start < end, centres, self._with_noise(labels, rng))
        raise UserError(
            f"{TRIES} draws of noise (sigma {self.sigma:.3g}) on a label found none with a training label within "
            f"{self.vicinity.radius:.3g} of the label's range: raise kappa, or lower sigma"
        )


def _uniform(n: int, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64)
