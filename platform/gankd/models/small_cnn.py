"""SmallCNN: a handful of convolutions for digit-sized images, as quick student, teacher and feature extractor."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from gankd.models.classifier import Classifier, he_initialise, run_stages

Norm = Literal["batch", "group", "none"]


class SmallCNN(Classifier):
    """`width` channels at full size, then stride-2 convolutions of `2 * width` until the map is 2 px, then global mean.

    Made for 8 to 32 px. Parameters for 10 classes and one channel with batch norm:

    | image size | width 4 | width 8 | width 32 |
    |------------|---------|---------|----------|
    | 8 px       | 1,030   | 3,778   | 56,554   |
    | 16 px      | 1,622   | 6,114   | 93,546   |
    | 32 px      | 2,214   | 8,450   | 130,538  |

    `norm="none"` and `norm="group"` have no statistics over the batch, so a result cannot depend on how it is split.
    """

    def __init__(self, classes: int, image_channels: int = 3, image_size: int = 32, width: int = 8, norm: Norm = "batch") -> None:
        super().__init__()
        layers = [_conv(image_channels, width, 1, norm)]
        size, channels = image_size, width
        while size > 2:
            layers.append(_conv(channels, 2 * width, 2, norm))
            size, channels = (size + 1) // 2, 2 * width
        self.layers = nn.Sequential(*layers)
        self.feature_dim = channels
        self.linear = nn.Linear(channels, classes)
        he_initialise(self)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        return run_stages(self.layers, images, [1] * len(self.layers))


def _conv(in_channels: int, channels: int, stride: int, norm: Norm) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=norm == "none")
    return nn.Sequential(conv, _norm(norm, channels), nn.ReLU(inplace=True))


def _norm(norm: Norm, channels: int) -> nn.Module:
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    if norm == "group":
        return nn.GroupNorm(math.gcd(4, channels), channels)
    if norm == "none":
        return nn.Identity()
    raise ValueError(f"norm is {norm!r}; allowed: batch, group, none")
