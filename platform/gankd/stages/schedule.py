"""Learning-rate schedules as pure functions: epoch or step (0-based) -> multiplier of the base rate; they multiply."""

from __future__ import annotations

import math
from collections.abc import Sequence


def multistep(epoch: float, milestones: Sequence[float], gamma: float = 0.1, *, late: bool = False) -> float:
    """`gamma` to the number of milestones reached: `epoch >= m`, or `epoch > m` with `late` (RepDistiller's rule)."""
    return gamma ** sum(epoch > m if late else epoch >= m for m in milestones)


def cosine(step: float, total: float, floor: float = 0.0) -> float:
    """Half a cosine from 1 at step 0 down to `floor` at `total`, and `floor` afterwards."""
    progress = min(max(step / total, 0.0), 1.0)
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
