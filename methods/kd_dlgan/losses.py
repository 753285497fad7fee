"""The losses of KD-DLGAN as functions of features; section numbers are those of the README.

I: teacher's image features, F: discriminator's features behind the KD head, both (B, M); T: teacher's text features (K, M).
Everything is computed in fp32.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Aggregated(NamedTuple):
    """Terms of AGKD by the teacher's image: the mean distance to the features of the same image, and to the other domain's."""

    distilled_real: Tensor
    distilled_fake: Tensor
    aggregated_real: Tensor
    aggregated_fake: Tensor


def distance(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """Distance of each row of `a` to that of `b`, both (B, M): (B,), >= 0.

    "l2": ||a - b||; "l1": mean |a - b|; on rows of length one, "smooth_l1": mean over M, "cosine": 1 - <a, b>.
    """
    a, b = a.float(), b.float()
    if kind == "l2":
        return torch.linalg.vector_norm(a - b, dim=1)
    if kind == "l1":
        return (a - b).abs().mean(1)
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(a, b, reduction="none").mean(1)
    if kind == "cosine":
        return 1 - (a * b).sum(1)
    raise ValueError(f"unknown distance {kind!r}")


def aggregated_distances(
    teacher_real: Tensor, teacher_fake: Tensor, student_real: Tensor, student_fake: Tensor, kind: str
) -> Aggregated:
    """AGKD: mean over rows of d(I(x), F(x)), d(I(G), F(G)), d(I(x), F(G)), d(I(G), F(x)); row i of the fakes is paired with
    row i of the real images."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return distance(a, b, kind).mean()

    return Aggregated(
        mean(teacher_real, student_real),
        mean(teacher_fake, student_fake),
        mean(teacher_real, student_fake),
        mean(teacher_fake, student_real),
    )


def similarity_pattern(features: Tensor, text: Tensor, normalisation: str, temperature: float = 1.0) -> Tensor:
    """C = features T^T, (B, K), with every row of length one ("row"), or the whole matrix ("matrix"), or "softmax": the
    softmax over the prompts of the cosines / temperature."""
    features, text = features.float(), text.float()
    if normalisation == "softmax":
        return (F.normalize(features, dim=1) @ F.normalize(text, dim=1).t() / temperature).softmax(1)
    similarity = features @ text.t()
    if normalisation == "row":
        return F.normalize(similarity, dim=1, eps=1e-12)
    if normalisation == "matrix":
        return similarity / torch.linalg.matrix_norm(similarity).clamp_min(1e-12)
    raise ValueError(f"unknown normalisation {normalisation!r}")


def pattern_distance(student: Tensor, teacher: Tensor, reduction: str) -> Tensor:
    """CGKD between two patterns (B, K), a scalar >= 0.

    "sum": squared differences, summed over all; "batch_mean": summed over K, mean over B; "l1_mean": mean |difference|.
    """
    if reduction == "l1_mean":
        return (student - teacher).abs().mean()
    squared = (student - teacher).square().sum()
    if reduction == "batch_mean":
        return squared / len(student)
    if reduction == "sum":
        return squared
    raise ValueError(f"unknown reduction {reduction!r}")


def permuted_differences(pattern: Tensor, permutation: Tensor) -> Tensor:
    """PD as released: sum over rows of ||C_i - C_pi(i)||^2, pi (B,) a permutation. To minimise it makes rows alike."""
    return (pattern - pattern[permutation]).square().sum()


def pairwise_similarity(pattern: Tensor, reduction: str = "mean") -> Tensor:
    """PD as in the paper: cosines of all pairs i != j of B >= 2 rows, their "sum" or "mean". To minimise it spreads them."""
    rows = F.normalize(pattern, dim=1)
    total = (rows @ rows.t()).sum() - rows.square().sum()
    return total if reduction == "sum" else total / (len(rows) * (len(rows) - 1))
