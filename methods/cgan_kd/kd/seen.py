"""What networks see of a batch, and what every KD loss is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen:
    """What a network makes of N images, in single precision.

    Attributes:
        logits: (N, classes).
        features: (N, d), what the last linear layer reads.
        maps: (N, c, h, w) each, the last of every resolution, from the largest to the smallest.
    """

    logits: Tensor
    features: Tensor
    maps: list[Tensor]

    def rows(self, step: int) -> Seen:
        """Every `step`-th image."""
        return Seen(self.logits[::step], self.features[::step], [map_[::step] for map_ in self.maps])


def see(network: Any, images: Tensor) -> Seen:
    """What a classifier makes of images (N, C, H, W) in [-1, 1]."""
    logits, features, blocks = network.outputs(images)
    maps = {block.shape[2:]: block.float() for block in blocks}
    return Seen(logits.float(), features.float(), list(maps.values()))


def shape(maps: Tensor) -> tuple[int, ...]:
    """(c, h, w) of maps (N, c, h, w)."""
    return tuple(maps.shape[1:])


def pairs(student: Seen, teacher: Seen) -> list[tuple[Tensor, Tensor]]:
    """The maps of both, the largest with the largest and so on, as many as both have."""
    return list(zip(student.maps, teacher.maps, strict=False))


@dataclass(frozen=True)
class Drawn:
    """Which images a batch holds.

    Attributes:
        labels: of this worker's images, (N,).
        index: the places of all workers' images, one worker after the other, among all that are trained on: (N workers,).
        rng: the step's generator, for further draws.
    """

    labels: Tensor
    index: Tensor
    rng: torch.Generator


class KdLoss(nn.Module):
    """A loss between what a student and a frozen teacher see. Its parts train with the student, and stand in the checkpoint."""

    def views(self, images: Tensor) -> Tensor:
        """The images that both networks are shown, `copies` for each of the batch."""
        return images

    copies = 1

    def pretrain(self, student: Callable[[], Seen], teacher: Seen) -> Tensor:
        """What is minimised in the steps before the student's own. `student` runs the student, where it is to be trained."""
        raise NotImplementedError

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        """The term beside cross-entropy and soft targets: a scalar."""
        raise NotImplementedError

    def settle(self) -> None:
        """What is kept of a batch for later ones, once its gradient is taken."""

    def trained(self) -> Sequence[nn.Module]:
        """The modules whose gradients and running statistics workers average."""
        return [self]


class Plain(KdLoss):
    """A function of what both see, without parts."""

    def __init__(self, function: Callable[[Seen, Seen], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        return self.function(student, teacher)
