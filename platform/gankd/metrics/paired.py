"""Whether a difference between two things that were measured in pairs is more than luck."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Mean of `count` differences, their standard deviation, and the 95 % interval of the mean by Student's t.

    Deviation and interval are NaN for fewer than two differences.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float

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
        return Paired(n, mean, math.nan, math.nan, math.nan)
    from scipy.stats import t  # half a second

    deviation = stdev(differences)
    half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Paired(n, mean, deviation, mean - half, mean + half)
