"""The relation terms of RGAL: triplets whose negatives are drawn by distance, apart in synthesis, together in training.

Any host that makes images and trains a network on them can add them: `relation_loss(features, sampling, labels, ...)` with the
features of the network that is trained, the logits of the fixed one to sample by, and the fixed one's labels. Everything
has fixed shapes and nothing waits for the device: all ordered pairs of a batch of N are an (N, N) matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.models.classifier import global_pool

# standard gathers a class; adversarial spreads a class and brings classes together.
Direction = Literal["standard", "adversarial"]


@dataclass(frozen=True)
class Sampler:
    """Which negatives may be drawn, by their distance d on the unit sphere.

    Attributes:
        low, high: allowed are low < d < high.
        floor: distances below are taken as this.
        dimension_cap: most dimensions of the sphere whose density is divided out; 0 = no cap.
    """

    low: float
    high: float
    floor: float = 0.0
    dimension_cap: int = 0


DISTANCE_WEIGHTED = Sampler(low=-1.0, high=1.4, floor=0.5)  # Wu et al. 2017


class Relation(NamedTuple):
    """The loss, and what it acts on: mean distances to same-class rows and to drawn negatives; the number of triplets."""

    loss: Tensor
    same: Tensor
    different: Tensor
    triplets: Tensor


def distances(rows: Tensor) -> Tensor:
    """Euclidean distances between the unit vectors of rows (N, d), (N, N), fp32; the gradient at distance 0 is 0."""
    with torch.autocast(rows.device.type, enabled=False):
        unit = F.normalize(rows.float(), dim=1)
        # Not by way of the inner products, which lose half of the digits where rows are close.
        return torch.cdist(unit, unit, compute_mode="donot_use_mm_for_euclid_dist")


def log_weight(distance: Tensor, dimension: int) -> Tensor:
    """ln of 1 / density of the distance between points on the unit sphere: (2 - C) ln d - (C - 3)/2 ln(1 - d^2/4)."""
    d = distance.clamp(min=1e-6)
    return (2 - dimension) * d.log() - (dimension - 3) / 2 * (1 - d.square() / 4).clamp(min=1e-12).log()


@torch.no_grad()
def negative_probabilities(logits: Tensor, labels: Tensor, sampler: Sampler) -> Tensor:
    """p(n | a) over the rows of other labels, (N, N), rows sum to 1.

    A softmax of `log_weight` over the allowed distances between `logits` (N, C); where none is allowed, uniform over the
    other labels; where no row has another label, uniform over all (such an anchor makes no triplet). The softmax never
    underflows to an empty row, as scaled weights do at 100 classes.
    """
    dimension = min(logits.shape[1], sampler.dimension_cap or logits.shape[1])
    d = distances(logits).clamp(min=sampler.floor)
    different = labels[:, None] != labels[None, :]
    allowed = different & (d > sampler.low) & (d < sampler.high)
    weighted = torch.where(allowed, log_weight(d, dimension), -torch.inf)
    # A row without an allowed entry falls back to the other labels, and one without those to all rows.
    uniform = torch.where(different | ~different.any(1, keepdim=True), 0.0, -torch.inf)
    return torch.where(allowed.any(1, keepdim=True), weighted, uniform).softmax(1)


def draw_negatives(probabilities: Tensor, rng: torch.Generator) -> Tensor:
    """A negative for each ordered pair (a, q): int64 (N, N), entry (a, q) ~ probabilities[a], independently."""
    return torch.multinomial(probabilities, len(probabilities), replacement=True, generator=rng)


def triplet_loss(
    features: Sequence[Tensor], labels: Tensor, negatives: Tensor, *, direction: Direction, margin: float = 0.2
) -> Relation:
    """Mean over triplets (a, q, n) of the sum over features of max(0, margin +- (d(a, q) - d(a, n))).

    + is `standard`, - is `adversarial`. The pairs (a, q) are all ordered pairs of one label, n = negatives[a, q]. Features
    are (N, d), or (N, c, h, w), which are averaged over space. Without a triplet the loss is 0.
    """
    same_label = labels[:, None] == labels[None, :]
    pairs = same_label & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    pairs = pairs & ~same_label.all(1, keepdim=True)  # an anchor without a negative makes no triplet
    count = pairs.sum().clamp(min=1)
    sign = 1 if direction == "standard" else -1
    loss, same, different = (torch.zeros((), device=labels.device) for _ in range(3))
    for feature in features:
        d = distances(global_pool(feature) if feature.dim() == 4 else feature)
        to_negative = d.gather(1, negatives)
        loss = loss + (pairs * F.relu(sign * (d - to_negative) + margin)).sum() / count
        same = same + (pairs * d.detach()).sum() / count / len(features)
        different = different + (pairs * to_negative.detach()).sum() / count / len(features)
    return Relation(loss, same, different, pairs.sum().float())


def relation_loss(
    features: Sequence[Tensor],
    sampling: Tensor,
    labels: Tensor,
    *,
    direction: Direction,
    sampler: Sampler,
    rng: torch.Generator,
    margin: float = 0.2,
) -> Relation:
    """`triplet_loss` with negatives drawn by the distances between the rows of `sampling` (N, C), logits or embeddings."""
    negatives = draw_negatives(negative_probabilities(sampling, labels, sampler), rng)
    return triplet_loss(features, labels, negatives, direction=direction, margin=margin)
