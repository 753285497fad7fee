"""Whether a difference between two things that were measured in pairs is more than luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Mean of `count` differences, their standard deviation, the 95 % interval of the mean by Student's t, and its p-value: how
    often a mean as far from zero, or farther, comes of differences around zero.

    Deviation, interval and p-value are NaN for fewer than two differences.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float
    p: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval holds no zero; False where there is no interval."""
        return self.low > 0 or self.high < 0


def paired(differences: Sequence[float]) -> Paired:
    """Of differences of pairs that have a seed, and all else that is random in common. ValueError for none."""
    n = len(differences)
    if n == 0:
        raise ValueError("there is no pair")
    mean = fmean(differences)
    if n < 2:
        return Paired(n, mean, math.nan, math.nan, math.nan, math.nan)
    from scipy.stats import t  # half a second

    deviation = stdev(differences)
    error = deviation / math.sqrt(n)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    p = 2 * float(t.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Paired(n, mean, deviation, mean - half, mean + half, p)


def distinguishable_together(found: Sequence[Paired]) -> list[bool]:
    """Which differences are more than luck when all of them were looked at. Each has at least two pairs.

    Of twenty differences that are luck, one has an interval without zero. By Holm's procedure (Scandinavian Journal of Statistics
    6, 1979) none of them passes in 95 % of tables, whatever they have in common: the smallest of n p-values is held against
    0.05 / n, the next against 0.05 / (n - 1), up to the first that is larger.
    """
    passed = [False] * len(found)
    for place, index in enumerate(sorted(range(len(found)), key=lambda i: found[i].p)):
        if found[index].p > (1 - CONFIDENCE) / (len(found) - place):
            break
        passed[index] = True
    return passed
