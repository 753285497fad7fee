"""How far images of a class differ: what a generator loses in a collapse."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

Labelled = tuple[Tensor, Tensor]  # features (n, d) and labels (n,)


def spread(real: Labelled, fake: Labelled) -> float | None:
    """Root of the fakes' mean squared distance to their class's mean, over that of the real images; near 0 after a collapse.

    Integer labels. None without two images of a class on either side, or where the real ones do not differ.
    """
    return spread_of_groups(_classes(*real), _classes(*fake))


def spread_of_groups(real: Iterable[Tensor], fake: Iterable[Tensor]) -> float | None:
    """The same of groups of features (n, d), which need not be classes."""
    of_real, of_fake = _within(real), _within(fake)
    return math.sqrt(of_fake / of_real) if of_real and of_fake is not None else None


def _classes(features: Tensor, labels: Tensor) -> Iterable[Tensor]:
    return (features[labels == label] for label in labels.unique())


def _within(groups: Iterable[Tensor]) -> float | None:
    """Mean squared distance to the mean of the group, unbiased; None without two of a group."""
    scatter, freedom = 0.0, 0
    for group in groups:
        if len(group) < 2:
            continue
        rows = group.double()
        scatter += float((rows - rows.mean(0)).square().sum())
        freedom += len(rows) - 1
    return scatter / freedom if freedom else None
