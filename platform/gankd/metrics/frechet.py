"""Frechet distance between two sets of features (Heusel et al. 2017, equation 6), all in float64.

    |m_a - m_b|^2 + Tr A + Tr B - 2 Tr (A B)^(1/2)

The last trace is got without a square root of the product A B, which is not symmetric and, when singular, has no stable one.
Rounding can make the distance of equal sets a little negative; it is not clipped here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gankd.metrics.moments import Moments

# The share of the distance that rounding may be expected to take before the slower form is used; what it took was a tenth.
ROUNDING = 1e-8


def covariance_factor(covariance: Tensor) -> Tensor:
    """F with F F^T = `covariance`, a positive semidefinite (d, d): Cholesky's, without the columns of constant features.

    The symmetric root, ten times as costly, where the covariance is singular; eigenvalues below 0 are rounding and count as 0.
    """
    varies = covariance.diagonal() > 0
    lower, failed = torch.linalg.cholesky_ex(covariance[varies][:, varies])
    if failed:
        values, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
        return vectors * values.clamp(min=0).sqrt() @ vectors.T
    factor = covariance.new_zeros(len(covariance), len(lower))
    factor[varies] = lower
    return factor


def frechet_distance(a: Moments, b: Moments, factor_a: Tensor | None = None) -> float:
    """From moments: Tr (A B)^(1/2) is the sum of the roots of the eigenvalues of F^T B F, which is symmetric, for A = F F^T.

    `factor_a` is `covariance_factor(a.covariance)`, for who has it already.
    """
    if a.dim != b.dim:
        raise ValueError(f"features of {a.dim} and {b.dim} numbers do not compare")
    factor = covariance_factor(a.covariance) if factor_a is None else factor_a
    product = factor.T @ b.covariance @ factor
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    return float((a.mean - b.mean).square().sum() + traces - 2 * cross)


def frechet_distance_of_few(a: Tensor, b: Tensor) -> float:
    """From features (N, d) and (M, d): for fewer samples than dimensions, where the covariances are singular.

    Tr (A B)^(1/2) is the nuclear norm of X Y^T, X and Y with X^T X = A and Y^T Y = B: no d x d matrix. The norm is the sum of
    the roots of the eigenvalues of the Gram matrix where those lose nothing, else of the singular values, in twice the time.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"a Frechet distance needs at least 2 samples on both sides, not {len(a)} and {len(b)}")
    a, b = a.double(), b.double()
    x, y = _contrasts(a), _contrasts(b)
    apart = (a.mean(0) - b.mean(0)).square().sum() + x.square().sum() + y.square().sum()
    product = x @ y.T if len(x) <= len(y) else y @ x.T
    values = torch.linalg.eigvalsh(product @ product.T).clamp(min=0)
    # An eigenvalue is off by about eps times the largest, its root by half of that over itself; their signs are independent.
    off = torch.finfo(values.dtype).eps * values[-1]
    roots = values.sqrt()
    lost = (off / roots.clamp(min=off.sqrt())).square().sum().sqrt()
    distance = apart - 2 * roots.sum()
    return float(distance if lost <= ROUNDING * distance else apart - 2 * torch.linalg.svdvals(product).sum())


def _contrasts(features: Tensor) -> Tensor:
    """(N - 1, d) whose Gram matrix is the covariance of (N, d): the centred rows, turned so that one of them is 0 and left out.

    Centred rows sum to 0, and every product of theirs would have a singular value 0, whose root is nothing but rounding.
    """
    centred = features - features.mean(0)
    n = len(features)
    return (centred[1:] + centred[:1] / (n**0.5 - 1)) / (n - 1) ** 0.5


def classwise_frechet(real: Tensor, real_labels: Tensor, fake: Tensor, fake_labels: Tensor) -> dict[int, float]:
    """Class -> distance between its real and its generated features (intra-FID is the mean of these).

    Features (N, d), labels int64 (N,). Classes with fewer than two samples on either side are left out.
    """
    found = {}
    for label in real_labels.unique().tolist():
        a, b = real[real_labels == label], fake[fake_labels == label]
        if min(len(a), len(b)) >= 2:
            few = min(len(a), len(b)) <= real.shape[1]
            found[label] = frechet_distance_of_few(a, b) if few else frechet_distance(Moments.of(a), Moments.of(b))
    return found
