"""Kernel two-sample distances: KID (polynomial kernel) and KMMD (Gaussian kernel). Sums in float64, pairs in tiles.

Every function takes the pairs real-real, fake-fake and real-fake.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankd.metrics.pairs import Pairs

KID_SEED = 2020  # of the subsets; torch-fidelity's


def kernel_distance(rr: Pairs, ff: Pairs, rf: Pairs, subsets: int = 100, size: int = 1000) -> tuple[float, float]:
    """KID (Binkowski et al. 2018): the unbiased MMD^2 under (x.y / d + 1)^3, mean and population std over random subsets.

    A subset has `size` samples of either side (fewer where there are fewer). It may be negative. All subsets come from the
    same kernel values: with membership w in {0, 1}^N the sum over a subset is w^T K w, for all of them one product a tile.
    """
    real, fake = rr.shape[0], ff.shape[0]
    size = min(size, real, fake)
    if size < 2:
        raise ValueError(f"KID needs at least 2 samples on both sides, not {real} and {fake}")
    if size == real == fake:
        subsets = 1
    rng = torch.Generator().manual_seed(KID_SEED)
    members = [_members(n, size, subsets, rng).to(rr.x.device) for n in (real, fake)]
    own = [_subset_sums(pairs, w, w) - _polynomial(pairs.norms[0], pairs.dim) @ w for pairs, w in zip((rr, ff), members)]
    cross = _subset_sums(rf, *members)
    distances = (own[0] + own[1]) / (size * (size - 1)) - 2 * cross / size**2
    return float(distances.mean()), float(distances.std(correction=0))


def _members(n: int, size: int, subsets: int, rng: torch.Generator) -> Tensor:
    """Who is in which subset: (n, subsets) of 0 and 1."""
    members = torch.zeros(n, subsets, dtype=torch.float64)
    for subset in range(subsets):
        members[torch.randperm(n, generator=rng)[:size], subset] = 1
    return members


def _polynomial(products: Tensor, dim: int) -> Tensor:
    return (products / dim).add_(1).pow_(3)


def _subset_sums(pairs: Pairs, left: Tensor, right: Tensor) -> Tensor:
    """Sum of the kernel over each subset's pairs, (subsets,)."""
    total = left.new_zeros(left.shape[1])
    for tile in pairs.tiles():
        kernel = _polynomial(tile.products, pairs.dim)
        total += (left[tile.rows] * (kernel @ right[tile.columns])).sum(0)
    return total


def mean_squared_distance(features: Tensor) -> float:
    """Mean of |x - y|^2 over all pairs of (N, d), a sample with itself included: 2 Tr of the biased covariance."""
    features = features.double()
    return 2 * float((features - features.mean(0)).square().sum(1).mean())


def gaussian_mmd(rr: Pairs, ff: Pairs, rf: Pairs, bandwidth: float) -> tuple[float, float]:
    """KMMD and the unbiased MMD^2 under k(x, y) = exp(-|x - y|^2 / (2 bandwidth)).

    KMMD is sqrt(mean k_rr + mean k_ff - 2 mean k_rf), 0..sqrt(2), all means with a sample's pair with itself (GAN-Metrics);
    its bandwidth is sigma^2 times the real features' `mean_squared_distance`, so it is not symmetric. The unbiased one
    leaves those pairs out and may be negative.
    """
    own = [_gaussian_sum(pairs, bandwidth) for pairs in (rr, ff)]
    cross = _gaussian_sum(rf, bandwidth) / (rf.shape[0] * rf.shape[1])
    counts = [pairs.shape[0] for pairs in (rr, ff)]
    biased = sum(total / n**2 for total, n in zip(own, counts)) - 2 * cross
    unbiased = sum((total - n) / (n * (n - 1)) for total, n in zip(own, counts)) - 2 * cross
    return max(biased, 0.0) ** 0.5, unbiased


def _gaussian_sum(pairs: Pairs, bandwidth: float) -> float:
    # Real features that are all alike have bandwidth 0: then only equal features are near each other.
    factor = -0.5 / max(bandwidth, 1e-300)
    total = pairs.x.new_zeros(())
    for tile in pairs.tiles():
        total += pairs.distances(tile).mul_(factor).exp_().sum()
    return float(total)
