"""SSKD: how a teacher's self-supervised head recognises rotated images is part of what it teaches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen

TURNS = 4  # of an image, one after another: every fourth row is upright
TEMPERATURE, SIMILARITY_TEMPERATURE = 4.0, 0.5
ROTATED, SIMILARITIES = 2.7, 10.0  # weights of the two terms
KEEP_ROTATED, KEEP_SIMILARITIES = 1.0, 0.75  # shares of the teacher's wrong answers that are learned from


def turned(rows: Tensor) -> Tensor:
    """Of rows (4 N, ...) the 3 N of rotated images."""
    return rows.unflatten(0, (-1, TURNS))[:, 1:].flatten(0, 1)


def similarities(projections: Tensor) -> Tensor:
    """Cosines of the rotated with the upright images: (4 N, d) -> (3 N, N)."""
    unit = F.normalize(projections, dim=1)
    return turned(unit) @ unit[::TURNS].T


def trusted(answers: Tensor, right: Tensor, share: float) -> Tensor:
    """Which of a teacher's answers (M, K) are learned from: all right ones, and of the wrong ones a `share`, the least wrong.

    Answer i is as wrong as the rank of `right[i]` among its entries. bool (M,).
    """
    rank = (answers.argsort(1, descending=True) == right[:, None]).int().argmax(1)
    place = rank.argsort(stable=True).argsort()
    wrong = (rank > 0).sum()
    return place < len(rank) - wrong + (wrong * share).floor()


def learned(student: Tensor, teacher: Tensor, temperature: float, keep: Tensor) -> Tensor:
    """T^2 KL of the softmax of rows (M, K), the mean over the rows that are kept."""
    log_s, log_t = (F.log_softmax(rows / temperature, 1) for rows in (student, teacher))
    rows = (log_t.exp() * (log_t - log_s)).sum(1)
    return temperature**2 * (rows * keep).sum() / keep.sum().clamp(min=1)


class SelfSupervised(KdLoss):
    """SSKD (Xu et al. 2020): soft targets of rotated images, and similarities of rotated with upright images.

    Beforehand the teacher's head learns to find a rotated image's upright one among the batch; its body stays as it is.
    """

    copies = TURNS

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        self.head_student, self.head_teacher = _head(student.features.shape[1]), _head(teacher.features.shape[1])

    def views(self, images: Tensor) -> Tensor:
        return torch.stack([torch.rot90(images, turns, (2, 3)) for turns in range(TURNS)], 1).flatten(0, 1)

    def pretrain(self, student: Callable[[], Seen], teacher: Seen) -> Tensor:
        found = similarities(self.head_teacher(teacher.features))
        return F.cross_entropy(found, self._partners(found))

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        with torch.no_grad():
            found_t = similarities(self.head_teacher(teacher.features))
            labels = drawn.labels.repeat_interleave(TURNS - 1)
            keep_answers = trusted(turned(teacher.logits), labels, KEEP_ROTATED)
            keep_found = trusted(found_t, self._partners(found_t), KEEP_SIMILARITIES)
        found_s = similarities(self.head_student(student.features))
        rotated = learned(turned(student.logits), turned(teacher.logits), TEMPERATURE, keep_answers)
        return ROTATED * rotated + SIMILARITIES * learned(found_s, found_t, SIMILARITY_TEMPERATURE, keep_found)

    @staticmethod
    def _partners(found: Tensor) -> Tensor:
        """The upright image of each rotated one."""
        return torch.arange(found.shape[1], device=found.device).repeat_interleave(TURNS - 1)


def _head(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
