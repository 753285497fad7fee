"""How far images of a class differ: what a generator loses in a collapse."""

from __future__ import annotations

import math

from torch import Tensor

Labelled = tuple[Tensor, Tensor]  # features (n, d) and integer labels (n,)


def spread(real: Labelled, fake: Labelled) -> float | None:
    """Root of the fakes' mean squared distance to their class's mean, over that of the real images; near 0 after a collapse.

    None without two images of a class on either side, or where the real ones do not differ.
    """
    of_real, of_fake = _within_classes(*real), _within_classes(*fake)
    return math.sqrt(of_fake / of_real) if of_real and of_fake is not None else None


def _within_classes(features: Tensor, labels: Tensor) -> float | None:
    """Mean squared distance to the mean of the class, unbiased; None without two of a class."""
    scatter, freedom = 0.0, 0
    for label in labels.unique():
        rows = features[labels == label].double()
        scatter += float((rows - rows.mean(0)).square().sum())
        freedom += len(rows) - 1
    return scatter / freedom if freedom else None
