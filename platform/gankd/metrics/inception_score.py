"""Inception score (Salimans et al. 2016) of a stream of logits: exp of the mean KL from p(y|x) to p(y), over splits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gankd.metrics.moments import Sum


@dataclass
class InceptionScore:
    """Sums over `splits` equal runs of consecutive samples; what `count // splits` leaves over is not used.

    KL(p || q) averaged over a run is mean(sum p log p) - sum q log q with q the run's mean p, so two sums per run do.

    Attributes:
        size: samples of a run.
        probabilities: (splits, K), sum of p. negentropies: (splits,), sum of p log p. float64.
    """

    size: int
    probabilities: Tensor
    negentropies: Tensor

    @classmethod
    def empty(cls, count: int, classes: int, splits: int = 10, device: torch.device | str = "cpu") -> InceptionScore:
        """For `count` samples in all; with fewer than 2 a run, in fewer runs."""
        splits = max(1, min(splits, count // 2))
        zeros = torch.zeros(splits, classes, dtype=torch.float64, device=device)
        return cls(count // splits, zeros, zeros[:, 0].clone())

    def update(self, logits: Tensor, start: int) -> None:
        """Take in the logits (n, K) of samples `start` to `start + n`, which must come in random order of class."""
        run = torch.arange(start, start + len(logits), device=logits.device) // self.size
        used = run < len(self.negentropies)
        p = torch.log_softmax(logits[used].double(), 1).exp()
        self.probabilities.index_add_(0, run[used], p)
        # entr(p) = -p log p, and 0 at p = 0
        self.negentropies.index_add_(0, run[used], -torch.special.entr(p).sum(1))

    def reduce(self, total: Sum) -> None:
        """Make these the sums of all workers."""
        total(self.probabilities)
        total(self.negentropies)

    def mean_and_std(self) -> tuple[float, float]:
        """Mean over the runs, 1..K, and population standard deviation."""
        marginal = self.probabilities / self.size
        scores = (self.negentropies / self.size + torch.special.entr(marginal).sum(1)).exp()
        return float(scores.mean()), float(scores.std(correction=0))
