"""Exponential moving average of a network."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """A copy of `source` that follows it: average <- decay * average + (1 - decay) * source.

    This goes for every float entry of the state dict, which includes running statistics and power-iteration vectors;
    entries of other types are copied. Before iteration `start` the copy equals the source. (The public BigGAN code's
    rule; Brock et al. 2018 use decay 0.9999.)

    Attributes:
        average: the copy, in eval mode, without gradients.
    """

    def __init__(self, source: nn.Module, decay: float, start: int = 0) -> None:
        self.source, self.decay, self.start = source, decay, start
        self.average = copy.deepcopy(source).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, iteration: int) -> None:
        """Follow the source after its update number `iteration` (the first training update is 1)."""
        live, kept = self.source.state_dict(), self.average.state_dict()
        floats = [name for name, value in live.items() if value.is_floating_point()]
        sources: list[Tensor] = [live[name] for name in floats]
        targets: list[Tensor] = [kept[name] for name in floats]
        if iteration < self.start:
            torch._foreach_copy_(targets, sources)
        else:
            torch._foreach_lerp_(targets, sources, 1 - self.decay)
        for name in live.keys() - set(floats):
            kept[name].copy_(live[name])
