"""Wide residual networks (Zagoruyko & Komodakis 2016): `wrn_16_1`, `wrn_16_2`, `wrn_40_1`, `wrn_40_2`."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Classifier, first_conv, first_pool, global_pool, he_initialise, is_large, run_stages


class PreActivationBlock(nn.Module):
    """BN-ReLU-conv3-BN-ReLU-conv3, plus the input (where the width changes: a 1x1 convolution of its activation)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut: nn.Conv2d | None = None
        if in_channels != channels:
            self.shortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.bn1(maps))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        return out + (maps if self.shortcut is None else self.shortcut(active))


class WideResNet(Classifier):
    """Three stages of (depth - 4) / 6 blocks, of 16, 32 and 64 times `widen` channels; a stem BN on large images."""

    def __init__(self, depth: int, widen: int, classes: int, image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = first_conv(image_channels, 16, image_size)
        self.stem_bn: nn.BatchNorm2d | None = nn.BatchNorm2d(16) if is_large(image_size) else None
        self.pool = first_pool(image_size)
        channels = 16
        stages = nn.Sequential()
        for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for i in range((depth - 4) // 6):
                stages.append(PreActivationBlock(channels, width, 2 if stage > 0 and i == 0 else 1))
                channels = width
        self.stages, self.stage_depth = stages, (depth - 4) // 6
        self.bn1 = nn.BatchNorm2d(channels)
        self.feature_dim = channels
        self.linear = nn.Linear(channels, classes)
        he_initialise(self)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """Raw sums, before the batch norm and ReLU that follow them."""
        maps = self.conv1(images)
        if self.stem_bn is not None:
            maps = F.relu(self.stem_bn(maps))
        return run_stages(self.stages, self.pool(maps), [self.stage_depth] * 3)

    def summary(self, maps: Tensor) -> Tensor:
        return global_pool(F.relu(self.bn1(maps)))


wrn_16_1 = partial(WideResNet, 16, 1)
wrn_16_2 = partial(WideResNet, 16, 2)
wrn_40_1 = partial(WideResNet, 40, 1)
wrn_40_2 = partial(WideResNet, 40, 2)
