"""What all classifier networks share: the interface, the stem for large images, and He initialisation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

# Larger images are shrunk by 4 before the first stage of a network made for 32 px (cGAN-KD's variants for 128 px).
LARGEST_PLAIN_SIZE = 64


Outputs = tuple[Tensor, Tensor, list[Tensor]]


class Classifier(nn.Module):
    """`images -> logits`, as a linear layer on `features`, which summarise the maps of the last block.

    A network defines `block_outputs(images)`, sets `feature_dim` and ends its `__init__` with `self.linear`.
    Images are float (N, C, H, W); features are (N, feature_dim); logits are (N, classes).
    """

    feature_dim: int
    linear: nn.Linear | Head

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """The maps (N, c, h, w) at the end of each block, from the first to the last."""
        raise NotImplementedError

    def summary(self, maps: Tensor) -> Tensor:
        """The last block's maps -> features: their mean over space, unless a network says otherwise."""
        return global_pool(maps)

    def features(self, images: Tensor) -> Tensor:
        """What the last linear layer reads: the pooled last maps (VGG on large images: the last hidden layer)."""
        return self.summary(self.block_outputs(images)[-1])

    def outputs(self, images: Tensor) -> Outputs:
        """(logits, features, maps at the end of each block), in one pass."""
        blocks = self.block_outputs(images)
        features = self.summary(blocks[-1])
        return self.linear(features), features, blocks

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


class Head(nn.Sequential):
    """(linear, batch norm, ReLU) for each of `widths` and a linear layer, in place of a network's `linear`."""

    def __init__(self, in_features: int, widths: Sequence[int], out_features: int) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        for width in widths:
            self.extend([nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True)])
            in_features = width
        self.append(nn.Linear(in_features, out_features))


class OwnNormalisation(Classifier):
    """A classifier of mean/std-normalised images that is given images in [-1, 1], as everything here is.

    Public checkpoints are of this kind: the network sees ((x + 1) / 2 - mean) / std, channel by channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network, self.feature_dim = network, network.feature_dim
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def _normalise(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2 - self.mean) / self.std

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.features(self._normalise(images))
        return features

    def outputs(self, images: Tensor) -> Outputs:
        outputs: Outputs = self.network.outputs(self._normalise(images))
        return outputs

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self._normalise(images))
        return logits


def run_stages(layers: Iterable[nn.Module], maps: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Run layers one after another, and keep the maps at the end of each stage of `lengths` layers."""
    ends, outputs = set(accumulate(lengths)), []
    for i, layer in enumerate(layers, start=1):
        maps = layer(maps)
        if i in ends:
            outputs.append(maps)
    return outputs


def is_large(image_size: int) -> bool:
    """Whether a network made for 32 px takes its large-image variant."""
    return image_size > LARGEST_PLAIN_SIZE


def first_conv(image_channels: int, channels: int, image_size: int, kernel: int = 3) -> nn.Conv2d:
    """The first convolution, without bias: `kernel` x `kernel` at full size, 4 x 4 with stride 2 for large images."""
    if is_large(image_size):
        return nn.Conv2d(image_channels, channels, 4, stride=2, padding=1, bias=False)
    return nn.Conv2d(image_channels, channels, kernel, padding=kernel // 2, bias=False)


def first_pool(image_size: int) -> nn.Module:
    """The max-pool that follows the stem of large images; nothing for the others."""
    return nn.MaxPool2d(3, stride=2, padding=1) if is_large(image_size) else nn.Identity()


def global_pool(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C): the mean over space."""
    return maps.mean(dim=(2, 3))


def he_initialise(network: nn.Module, linear_std: float | None = None) -> None:
    """Convolutions ~ N(0, 2 / fan_out), zero bias; linear layers ~ N(0, linear_std^2) if given, else torch's."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear) and linear_std is not None:
            nn.init.normal_(module.weight, std=linear_std)
            nn.init.zeros_(module.bias)
