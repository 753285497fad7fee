"""Several generators as one: each makes the images of its own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.models.generative import Generative


class ByClass(Generative):
    """A generator of classes 0 .. K - 1 that asks for each the generator which knows it.

    Args:
        parts: recipes of class-conditional generators with latents of one width.
        numbers: of each part, the class of the whole that its own class 0, 1, ... is. Together they are all classes, each once.
    """

    place: Tensor

    def __init__(self, parts: Sequence[Mapping[str, Any]], numbers: Sequence[Sequence[int]]) -> None:
        super().__init__()
        built = [models.build(**recipe) for recipe in parts]
        self.parts = nn.ModuleList(built)
        self.dim_z = built[0].dim_z
        self.classes = sum(map(len, numbers))
        place = torch.empty(self.classes, 2, dtype=torch.long)  # of a class: which part knows it, and as which of its own
        for part, known in enumerate(numbers):
            for own, number in enumerate(known):
                place[number] = torch.tensor([part, own])
        self.register_buffer("place", place, persistent=False)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] of latents (N, dim_z) and int64 classes (N,)."""
        who, own = self.place[labels].unbind(1)
        made, rows = [], []
        for number, part in enumerate(self.parts):
            mine = (who == number).nonzero()[:, 0]
            if len(mine):
                made.append(part(z[mine], own[mine]))
                rows.append(mine)
        return torch.cat(made)[torch.cat(rows).argsort()]
