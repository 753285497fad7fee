"""How well an encoder's features tell the labels, without training anything: the votes of the nearest training images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.augment import Resident
from gankd.engine import evaluating

BATCH = 500


def features_of(encoder: nn.Module, images: Resident) -> tuple[Tensor, Tensor]:
    """Features (N, d), float32, and labels (N,) of a part of the data, in order; the encoder in eval mode."""
    with evaluating(encoder):
        found = [(encoder(batch).float(), labels) for batch, labels in images.in_order(BATCH)]
    features, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    return features, labels


def votes(bank: Tensor, labels: Tensor, query: Tensor, classes: int, k: int, temperature: float) -> Tensor:
    """Scores (Q, classes): of each class, the sum of exp(cos / temperature) over those of the k nearest that are of it.

    bank (N, d) and query (Q, d), rows of length one; labels (N,).
    """
    similarity, index = (query @ bank.T).topk(min(k, len(bank)), dim=1)
    scores = torch.zeros(len(query), classes, dtype=similarity.dtype, device=query.device)
    return scores.scatter_add_(1, labels[index], (similarity / temperature).exp())


@torch.no_grad()
def accuracy_of_neighbours(
    encoder: nn.Module, training: Resident, held_out: Resident, classes: int, k: int, temperature: float
) -> float:
    """Top-1 in percent on `held_out`, by cosine of features to those of the training images."""
    bank, labels = features_of(encoder, training)
    bank, right, total = F.normalize(bank, dim=1), 0, 0
    with evaluating(encoder):
        for batch, truth in held_out.in_order(BATCH):
            query = F.normalize(encoder(batch).float(), dim=1)
            right += int((votes(bank, labels, query, classes, k, temperature).argmax(1) == truth).sum())
            total += len(truth)
    return 100 * right / total
