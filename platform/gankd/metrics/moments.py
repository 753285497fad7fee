"""Mean and scatter of a stream of features, in float64, whatever the number of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Sum = Callable[[Tensor], Tensor]  # elementwise sum over the workers, in place


@dataclass
class Moments:
    """Count, mean (d,) and scatter sum (x - mean)(x - mean)^T (d, d) of what was seen. float64.

    The scatter is kept around the running mean, never as raw sums of x x^T: with means of 100 and deviations of 0.01
    those lose every digit (Chan, Golub, LeVeque 1979, the pairwise update).
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dim: int, device: torch.device | str = "cpu") -> Moments:
        zeros = torch.zeros(dim, dim, dtype=torch.float64, device=device)
        return cls(0, zeros[0].clone(), zeros)

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (N, d) at once."""
        moments = cls.empty(features.shape[1], features.device)
        moments.update(features)
        return moments

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def covariance(self) -> Tensor:
        """(d, d), over count - 1. ValueError for fewer than two."""
        if self.count < 2:
            raise ValueError(f"a covariance needs at least 2 samples, not {self.count}")
        return self.scatter / (self.count - 1)

    def update(self, features: Tensor) -> None:
        """Take in features (n, d) of any float type."""
        if not len(features):
            return
        batch = features.double()
        mean = batch.mean(0)
        batch = batch - mean
        self.scatter.addmm_(batch.T, batch)
        self._shift(len(batch), mean)

    def merge(self, other: Moments) -> None:
        """Take in what `other` has seen."""
        if other.count:
            self.scatter += other.scatter
            self._shift(other.count, other.mean)

    def _shift(self, count: int, mean: Tensor) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.scatter.addr_(delta, delta, alpha=self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total

    def reduce(self, total: Sum) -> None:
        """Make these the moments of all workers' samples: the mean first, then the scatters around it."""
        sums = total(torch.cat([self.mean.new_tensor([self.count]), self.count * self.mean]))
        mean = sums[1:] / sums[0].clamp(min=1)
        delta = self.mean - mean
        self.scatter.addr_(delta, delta, alpha=self.count)
        total(self.scatter)
        self.count, self.mean = int(sums[0]), mean
