"""Frechet distance between two sets of features (Heusel et al. 2017, equation 6), all in float64.

    |m_a - m_b|^2 + Tr A + Tr B - 2 Tr (A B)^(1/2)

The last trace is got without a square root of the product A B, which is not symmetric and, when singular, has no stable one.
Rounding can make the distance of equal sets a little negative; it is not clipped here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankd.metrics.moments import Moments


def covariance_factor(covariance: Tensor) -> Tensor:
    """F (d, r) with F F^T = `covariance`, positive semidefinite (d, d) of rank r: Cholesky's with pivots, on the CPU.

    It stops where only rounding is left, so a singular covariance adds no roots of eigenvalues that should be 0.
    """
    from scipy.linalg.lapack import dpstrf

    found, pivots, rank, _ = dpstrf(covariance.cpu().numpy(), lower=1)
    factor = torch.zeros(len(covariance), rank, dtype=covariance.dtype)
    factor[torch.from_numpy(pivots).long() - 1] = torch.from_numpy(found).tril()[:, :rank]
    return factor.to(covariance.device)


def frechet_distance(a: Moments, b: Moments, factor_a: Tensor | None = None) -> float:
    """From moments: Tr (A B)^(1/2) is the sum of the roots of the eigenvalues of F^T B F, which is symmetric, for A = F F^T.

    `factor_a` is `covariance_factor(a.covariance)`, for who has it already.
    """
    if a.dim != b.dim:
        raise ValueError(f"features of {a.dim} and {b.dim} numbers do not compare")
    if b.count < a.count and b.count <= b.dim:
        # The factor of the smaller rank: the other one's would give eigenvalues 0, and their roots are nothing but rounding.
        a, b, factor_a = b, a, None
    factor = covariance_factor(a.covariance) if factor_a is None else factor_a
    product = factor.T @ b.covariance @ factor
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * cross)


def frechet_distance_of_few(a: Tensor, b: Tensor) -> float:
    """From features (N, d) and (M, d): quicker for much fewer samples than dimensions.

    Tr (A B)^(1/2) is the nuclear norm of X Y^T / sqrt((N - 1)(M - 1)), X and Y the centred features: no d x d matrix, and no
    square roots of eigenvalues that should be 0.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Frechet distance needs at least 2 samples on both sides, not {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    mean_a, mean_b = a.mean(0), b.mean(0)
    x, y = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(x @ y.T).sum()
    return float((mean_a - mean_b).square().sum() + x.square().sum() + y.square().sum() - 2 * cross)


def frechet_distance_between(a: Tensor, b: Tensor) -> float:
    """From features (N, d) and (M, d), at least 2 each, in the form that is quicker for as many."""
    few = min(len(a), len(b)) <= a.shape[1]
    return frechet_distance_of_few(a, b) if few else frechet_distance(Moments.of(a), Moments.of(b))


def classwise_frechet(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> dict[int, float]:
    """Class -> distance between its real and its generated features (intra-FID is the mean of these).

    Features (N, d), labels int64 (N,). Classes with fewer than two samples on either side are left out.
    """
    found = {}
    for label in real_labels.unique().tolist():
        a, b = real[real_labels == label], fake[fake_labels == label]
        if min(len(a), len(b)) >= 2:
            found[label] = frechet_distance_between(a, b)
    return found
