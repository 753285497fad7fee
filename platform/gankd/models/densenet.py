"""DenseNet-BC (Huang et al. 2017) for small images: `densenet121`, `densenet161`."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Classifier, first_conv, first_pool, global_pool, is_large


class DenseLayer(nn.Module):
    """BN-ReLU-conv1 (4 x growth)-BN-ReLU-conv3 (growth); its maps are put before those it read."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        new = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(maps))))))
        return torch.cat([new, maps], dim=1)


class Transition(nn.Module):
    """BN-ReLU-conv1 to half the channels, then 2 x 2 mean."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = nn.Conv2d(in_channels, in_channels // 2, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        return F.avg_pool2d(self.conv(F.relu(self.bn(maps))), 2)


class DenseNet(Classifier):
    """A stem of 2 x growth channels (BN on large images), dense stages of `blocks[i]` layers and transitions."""

    def __init__(self, blocks: tuple[int, ...], growth: int, classes: int, image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = first_conv(image_channels, channels, image_size)
        self.stem_bn: nn.BatchNorm2d | None = nn.BatchNorm2d(channels) if is_large(image_size) else None
        self.pool = first_pool(image_size)
        self.stages = len(blocks)
        for stage, count in enumerate(blocks, start=1):
            layers = nn.Sequential()
            for _ in range(count):
                layers.append(DenseLayer(channels, growth))
                channels += growth
            self.add_module(f"dense{stage}", layers)
            if stage < self.stages:
                self.add_module(f"trans{stage}", Transition(channels))
                channels //= 2
        self.bn = nn.BatchNorm2d(channels)
        self.feature_dim = channels
        self.linear = nn.Linear(channels, classes)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """Each dense stage before its transition."""
        maps = self.conv1(images)
        if self.stem_bn is not None:
            maps = F.relu(self.stem_bn(maps))
        maps = self.pool(maps)
        outputs = []
        for stage in range(1, self.stages + 1):
            maps = self.get_submodule(f"dense{stage}")(maps)
            outputs.append(maps)
            if stage < self.stages:
                maps = self.get_submodule(f"trans{stage}")(maps)
        return outputs

    def summary(self, maps: Tensor) -> Tensor:
        return global_pool(F.relu(self.bn(maps)))


densenet121 = partial(DenseNet, (6, 12, 24, 16), 32)
densenet161 = partial(DenseNet, (6, 12, 36, 24), 48)
