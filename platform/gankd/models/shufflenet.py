"""ShuffleNet V1 (Zhang et al. 2018, 3 groups) and V2 (Ma et al. 2018, 1x): `ShuffleV1`, `ShuffleV2`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Classifier, first_conv, first_pool, global_pool, run_stages

STEM_WIDTH = 24
STAGE_UNITS = (4, 8, 4)


def shuffle_channels(maps: Tensor, groups: int) -> Tensor:
    """Interleave the channels of `groups` equal groups, so that the next grouped convolution sees all of them."""
    n, channels, height, width = maps.shape
    return maps.view(n, groups, channels // groups, height, width).transpose(1, 2).reshape(n, channels, height, width)


class ShuffleUnit(nn.Module):
    """V1: grouped 1x1, shuffle, 3x3 depthwise, grouped 1x1; the input is added, at stride 2 pooled and concatenated."""

    def __init__(self, in_channels: int, channels: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        new = channels - in_channels if stride == 2 else channels
        middle = new // 4
        # The stem is too narrow to be split into groups.
        self.groups = 1 if in_channels == STEM_WIDTH else groups
        self.conv1 = nn.Conv2d(in_channels, middle, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, padding=1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, new, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(new)

    def forward(self, maps: Tensor) -> Tensor:
        out = shuffle_channels(F.relu(self.bn1(self.conv1(maps))), self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 2:
            return F.relu(torch.cat([out, F.avg_pool2d(maps, 3, 2, padding=1)], dim=1))
        return F.relu(out + maps)


class ShuffleV1(Classifier):
    """Stages of 4, 8 and 4 units with 240, 480 and 960 channels, each halving the map; 3 groups."""

    def __init__(self, classes: int, image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = first_conv(image_channels, STEM_WIDTH, image_size, kernel=1)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.pool = first_pool(image_size)
        channels = STEM_WIDTH
        units = nn.Sequential()
        for width, count in zip((240, 480, 960), STAGE_UNITS, strict=True):
            for i in range(count):
                units.append(ShuffleUnit(channels, width, 2 if i == 0 else 1, groups=3))
                channels = width
        self.units = units
        self.feature_dim = channels
        self.linear = nn.Linear(channels, classes)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        return run_stages(self.units, self.pool(F.relu(self.bn1(self.conv1(images)))), STAGE_UNITS)


def _pointwise(in_channels: int, channels: int) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class SplitUnit(nn.Module):
    """V2: one half of the channels passes, the other goes through 1x1, 3x3 depthwise, 1x1; concatenate and shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(*_pointwise(half, half), *_depthwise(half, 1), *_pointwise(half, half))

    def forward(self, maps: Tensor) -> Tensor:
        kept, changed = maps.chunk(2, dim=1)
        return shuffle_channels(torch.cat([kept, self.branch(changed)], dim=1), 2)


class SplitDownUnit(nn.Module):
    """V2 with stride 2: both branches see all channels and each gives half of the output."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.left = nn.Sequential(*_depthwise(in_channels, 2), *_pointwise(in_channels, half))
        self.right = nn.Sequential(*_pointwise(in_channels, half), *_depthwise(half, 2), *_pointwise(half, half))

    def forward(self, maps: Tensor) -> Tensor:
        return shuffle_channels(torch.cat([self.left(maps), self.right(maps)], dim=1), 2)


class ShuffleV2(Classifier):
    """Stages of 4, 8 and 4 units with 116, 232 and 464 channels, each halving the map, and a 1x1 layer of 1024."""

    def __init__(self, classes: int, image_channels: int = 3, image_size: int = 32) -> None:
        super().__init__()
        self.conv1 = first_conv(image_channels, STEM_WIDTH, image_size, kernel=1)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        self.pool = first_pool(image_size)
        units = nn.Sequential()
        channels = STEM_WIDTH
        for width, count in zip((116, 232, 464), STAGE_UNITS, strict=True):
            units.extend([SplitDownUnit(channels, width), *(SplitUnit(width) for _ in range(count - 1))])
            channels = width
        self.units = units
        self.feature_dim = 1024
        self.last = nn.Sequential(*_pointwise(channels, self.feature_dim))
        self.linear = nn.Linear(self.feature_dim, classes)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        return run_stages(self.units, self.pool(F.relu(self.bn1(self.conv1(images)))), STAGE_UNITS)

    def summary(self, maps: Tensor) -> Tensor:
        return global_pool(self.last(maps))
