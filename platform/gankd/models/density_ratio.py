"""The conditional density ratio psi(h, y) ~ p_real(h | y) / p_fake(h | y) as a network on features (cDR-RS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError

WIDTHS: dict[str, tuple[int, ...]] = {
    "MLP3": (512, 256, 128),
    "MLP5": (2048, 1024, 512, 256, 128),
    "MLP7": (2048, 2048, 1024, 1024, 512, 256, 128),
    "MLP9": (2048, 2048, 1024, 1024, 512, 512, 256, 256, 128),
}
Output = Literal["softplus", "relu"]


class DensityRatio(nn.Module):
    """[class embedding, feature] -> (linear, GroupNorm, ReLU, dropout) x L -> linear -> a ratio >= 0.

    `widths` is a name of `WIDTHS` or the hidden widths themselves (multiples of `groups`). The embedding is a learnable
    `classes x classes` table. `output="relu"` is the reference's; there a network that gives 0 everywhere has no
    gradient and stays so, hence `softplus` by default. 9,303,569 parameters for MLP5, 100 classes, 3072 features.
    """

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        widths: str | Sequence[int] = "MLP5",
        dropout: float = 0.5,
        output: Output = "softplus",
        groups: int = 8,
    ) -> None:
        super().__init__()
        if isinstance(widths, str) and widths not in WIDTHS:
            raise ValueError(f"widths is {widths!r}; allowed: {', '.join(WIDTHS)} or a sequence of integers")
        hidden = WIDTHS[widths] if isinstance(widths, str) else tuple(widths)
        if any(width % groups for width in hidden):
            raise UserError(f"widths of the density ratio are {list(hidden)}; each must be a multiple of {groups}")
        if output not in ("softplus", "relu"):
            raise ValueError(f"output is {output!r}; allowed: softplus, relu")
        self.output = output
        self.embedding = nn.Embedding(classes, classes)
        layers = nn.Sequential()
        channels = classes + feature_dim
        for width in hidden:
            layers.extend([nn.Linear(channels, width), nn.GroupNorm(groups, width), nn.ReLU(), nn.Dropout(dropout)])
            channels = width
        layers.append(nn.Linear(channels, 1))
        self.layers = layers

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (N, feature_dim) and class indices (N,) -> ratios (N,)."""
        out = self.layers(torch.cat([self.embedding(labels), features], dim=1)).squeeze(1)
        return F.softplus(out) if self.output == "softplus" else F.relu(out)
