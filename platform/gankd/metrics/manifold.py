"""Improved precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest neighbour.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankd.metrics.pairs import Pairs

# Distances that are equal in exact arithmetic differ by rounding; which side of a ball's edge they fall on must not.
TIE = 1e-9


def squared_radii(pairs: Pairs, k: int) -> Tensor:
    """(N,): squared distance of every x to its k-th nearest neighbour, itself not counted. Pairs of x with itself."""
    n = pairs.shape[0]
    nearest = pairs.x.new_full((n, k + 1), torch.inf)
    for tile in pairs.tiles():
        distances = pairs.distances(tile)
        own = distances.topk(min(k + 1, distances.shape[1]), largest=False).values
        nearest[tile.rows] = torch.cat([nearest[tile.rows], own], 1).topk(k + 1, largest=False).values
    return nearest[:, k]


def manifold_metrics(rr: Pairs, ff: Pairs, rf: Pairs, k: int = 3) -> dict[str, float]:
    """precision, recall, coverage in 0..1 and density >= 0, from the pairs real-real, fake-fake, real-fake.

    precision: share of fakes inside a real ball; recall: share of reals inside a fake ball (an edge counts as inside);
    density: mean over fakes of the real balls they lie in, over k; coverage: share of reals with a fake in their ball
    (an edge counts as outside, as in the authors' code). Both sets should have the same size: recall grows with the fakes.
    """
    k = min(k, rr.shape[0] - 1, ff.shape[0] - 1)
    if k < 1:
        raise ValueError(f"neighbours need at least 2 samples on both sides, not {rr.shape[0]} and {ff.shape[0]}")
    real, fake = squared_radii(rr, k), squared_radii(ff, k)
    fake_inside = torch.zeros_like(fake, dtype=torch.bool)
    real_inside, covered = (torch.zeros_like(real, dtype=torch.bool) for _ in range(2))
    balls = real.new_zeros(())
    for tile in rf.tiles():
        distances = rf.distances(tile)
        within = distances < real[tile.rows, None] * (1 - TIE)
        balls += within.sum()
        covered[tile.rows] |= within.any(1)
        fake_inside[tile.columns] |= (distances <= real[tile.rows, None] * (1 + TIE)).any(0)
        real_inside[tile.rows] |= (distances <= fake[None, tile.columns] * (1 + TIE)).any(1)
    return {
        "precision": float(fake_inside.double().mean()),
        "recall": float(real_inside.double().mean()),
        "density": float(balls) / (k * len(fake)),
        "coverage": float(covered.double().mean()),
    }
