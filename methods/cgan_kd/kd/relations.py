"""Knowledge in how the images of a batch lie to each other: SP, RKD, PKT, CC. Widths of both networks may differ."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen

DISTANCES, ANGLES = 25.0, 50.0  # RKD's weights


def similarity_preserving(student: Tensor, teacher: Tensor) -> Tensor:
    """SP (Tung, Mori 2019): |G_s - G_t|_F^2 / N^2, G = F F^T with rows of length 1, F = maps (N, c, h, w) as rows."""
    g_s, g_t = (F.normalize(rows @ rows.T, dim=1) for rows in (student.flatten(1), teacher.flatten(1)))
    return (g_s - g_t).square().mean()


def _distances(features: Tensor) -> Tensor:
    """Euclidean distances (N, N), 0 on the diagonal, divided by their mean off it."""
    n = len(features)
    squares = features.square().sum(1)
    squared = (squares[:, None] + squares[None, :] - 2 * features @ features.T).clamp(min=1e-12)
    off = 1 - torch.eye(n, device=features.device)
    distances = squared.sqrt() * off
    return distances / (distances.sum() / (n * (n - 1)))


def _angles(features: Tensor) -> Tensor:
    """Cosines (N, N, N) of the angles that two images span at a third."""
    directions = F.normalize(features[None, :] - features[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def relational(student: Tensor, teacher: Tensor) -> Tensor:
    """RKD (Park et al. 2019): 25 smooth-L1 of relative distances + 50 smooth-L1 of angles. Features (N, d) each."""
    with torch.no_grad():
        distances, angles = _distances(teacher), _angles(teacher)
    return DISTANCES * F.smooth_l1_loss(_distances(student), distances) + ANGLES * F.smooth_l1_loss(_angles(student), angles)


def angle_difference(student: Tensor, teacher: Tensor) -> Tensor:
    """The part of RKD that compares angles alone, without its weight."""
    with torch.no_grad():
        angles = _angles(teacher)
    return F.smooth_l1_loss(_angles(student), angles)


def _neighbours(features: Tensor, eps: float) -> Tensor:
    """p(j | i) by (cosine + 1) / 2, rows summing to 1: (N, N)."""
    unit = features / (features.norm(dim=1, keepdim=True) + eps)
    likeness = (unit @ unit.T + 1) / 2
    return likeness / likeness.sum(1, keepdim=True)


def probabilistic(student: Tensor, teacher: Tensor, eps: float = 1e-7) -> Tensor:
    """PKT (Passalis, Tefas 2018): the mean of p_t log(p_t / p_s) over all pairs of images. Features (N, d) each."""
    p_s, p_t = _neighbours(student, eps), _neighbours(teacher, eps)
    return (p_t * torch.log((p_t + eps) / (p_s + eps))).mean()


def correlation(student: Tensor, teacher: Tensor) -> Tensor:
    """CC (Peng et al. 2019) as RepDistiller has it: the mean of <|d_i|, |d_{i+1}|>, d = s - t. Features (N, d) of one width."""
    delta = (student - teacher).abs()
    return (delta[:-1] * delta[1:]).sum(1).mean()


class CorrelationCongruence(KdLoss):
    """CC on linear embeddings of both networks' features."""

    def __init__(self, student: Seen, teacher: Seen, width: int) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student.features.shape[1], width)
        self.embed_teacher = nn.Linear(teacher.features.shape[1], width)

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        return correlation(self.embed_student(student.features), self.embed_teacher(teacher.features))
