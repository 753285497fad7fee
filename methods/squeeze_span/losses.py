"""The losses of Squeeze & Span, VICReg and SimSiam. Representations z are (N, M): N images, M numbers of each.

Computed in fp32 whatever the precision of the networks: covariances of 2048 numbers in bf16 are too coarse.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-4  # beneath the square root of a variance


class Weights(NamedTuple):
    """What each term counts: lambda, mu and nu of the paper."""

    distillation: float
    variance: float
    covariance: float


def distance(one: Tensor, other: Tensor) -> Tensor:
    """RD: the mean of (one - other)² over all N M numbers. The paper writes the norm's square, M times as much."""
    return F.mse_loss(precise(one), precise(other))


def variance_hinge(z: Tensor) -> Tensor:
    """mean_j max(0, 1 - sqrt(Var_j + 1e-4)), Var_j the unbiased variance of column j over the batch."""
    return F.relu(1 - (precise(z).var(0) + EPSILON).sqrt()).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    """Σ_{i ≠ j} C_ij² / M of the covariance C (M, M) over the batch.

    ||Z'Z|| = ||ZZ'||, so that the smaller of the two products is formed; its diagonal need not be cut out.
    """
    n, m = z.shape
    centred = precise(z) - precise(z).mean(0)
    with torch.autocast(z.device.type, enabled=False):  # which would take the product in bf16 again
        product = centred.T @ centred if m <= n else centred @ centred.T
    of_diagonal = centred.square().sum(0).square().sum()
    return (product.square().sum() - of_diagonal) / ((n - 1) ** 2 * m)


def regularisers(z: Tensor, weights: Weights) -> Tensor:
    """mu times the hinge plus nu times the covariances: what keeps a representation from collapse. 0 where neither counts."""
    total = precise(z).new_zeros(())
    if weights.variance:
        total = total + weights.variance * variance_hinge(z)
    if weights.covariance:
        total = total + weights.covariance * covariance_penalty(z)
    return total


def squeeze_loss(student: Tensor, teacher: Tensor, weights: Weights, *, regularise_teacher: bool = False) -> Tensor:
    """lambda RD + mu var + nu cov of the student's side, as released; of both sides as in the paper (eq. 11)."""
    loss = weights.distillation * distance(student, teacher) + regularisers(student, weights)
    return loss + regularisers(teacher, weights) if regularise_teacher else loss


def span_loss(one: Tensor, other: Tensor, weights: Weights) -> Tensor:
    """VICReg's loss of two views of the same images."""
    return weights.distillation * distance(one, other) + regularisers(one, weights) + regularisers(other, weights)


def simsiam_loss(p1: Tensor, z1: Tensor, p2: Tensor, z2: Tensor) -> Tensor:
    """-(cos(p1, z2) + cos(p2, z1)) / 2, in [-1, 1]; no gradient reaches the targets z (Chen and He 2021)."""
    one, other = (F.cosine_similarity(precise(p), precise(z).detach(), dim=1).mean() for p, z in ((p1, z2), (p2, z1)))
    return -0.5 * (one + other)


def spread(z: Tensor) -> Tensor:
    """Mean standard deviation of the M numbers over the batch: near 0 once a representation has collapsed."""
    return precise(z.detach()).std(0).mean()


def precise(z: Tensor) -> Tensor:
    """At least fp32."""
    return z if z.dtype == torch.float64 else z.float()
