"""ResNets: the narrow three-stage CIFAR family (`resnet20`, ...) and the wide four-stage one (`ResNet18`, ...)."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Classifier, first_conv, first_pool, he_initialise

ShortcutKind = Literal["projection", "pad"]


class PadShortcut(nn.Module):
    """Every `stride`-th pixel, with zero channels added evenly on both sides: a shortcut without parameters."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (channels - in_channels) // 2
        self.after = channels - in_channels - self.before

    def forward(self, maps: Tensor) -> Tensor:
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: ShortcutKind, in_channels: int, channels: int, stride: int) -> nn.Module:
    if in_channels == channels and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(in_channels, channels, stride)
    if kind == "projection":
        return nn.Sequential(nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
    raise ValueError(f"shortcut is {kind!r}; allowed: projection, pad")


class BasicBlock(nn.Module):
    """conv3-BN-ReLU-conv3-BN, plus the shortcut, ReLU."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: ShortcutKind = "projection") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = _shortcut(shortcut, in_channels, channels, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(maps))


class Bottleneck(nn.Module):
    """conv1-conv3-conv1 with BN, the last four times as wide, plus the shortcut, ReLU."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: ShortcutKind = "projection") -> None:
        super().__init__()
        out_channels = self.expansion * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, maps: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(maps)))
        out = F.relu(self.bn2(self.conv2(out)))
        return F.relu(self.bn3(self.conv3(out)) + self.shortcut(maps))


class ResNet(Classifier):
    """A stem of `stem_width` channels, then stages of `blocks[i]` blocks of `widths[i]` channels, stride 1, 2, 2, ...

    `shortcut` is used wherever a block changes shape: `projection` (1x1 convolution and BN) or `pad` (no parameters).
    """

    def __init__(
        self,
        classes: int,
        image_channels: int = 3,
        image_size: int = 32,
        *,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: tuple[int, ...],
        widths: tuple[int, ...],
        stem_width: int,
        shortcut: ShortcutKind = "projection",
    ) -> None:
        super().__init__()
        self.conv1 = first_conv(image_channels, stem_width, image_size)
        self.bn1 = nn.BatchNorm2d(stem_width)
        self.pool = first_pool(image_size)
        channels = stem_width
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True), start=1):
            layer = nn.Sequential()
            for i in range(count):
                layer.append(block(channels, width, 2 if stage > 1 and i == 0 else 1, shortcut))
                channels = block.expansion * width
            self.add_module(f"layer{stage}", layer)
        self.stages = len(widths)
        self.feature_dim = channels
        self.linear = nn.Linear(channels, classes)
        he_initialise(self)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        maps, outputs = self.pool(F.relu(self.bn1(self.conv1(images)))), []
        for stage in range(1, self.stages + 1):
            maps = self.get_submodule(f"layer{stage}")(maps)
            outputs.append(maps)
        return outputs


def _narrow(depth: int, widen: int, classes: int, **kwargs: Any) -> ResNet:
    """The CIFAR family: depth 6 n + 2 gives n blocks a stage; the widened ones widen the stem by half as much."""
    stem_width, widths = (16 if widen == 1 else 8 * widen), (16 * widen, 32 * widen, 64 * widen)
    blocks = ((depth - 2) // 6,) * 3
    return ResNet(classes, block=BasicBlock, blocks=blocks, widths=widths, stem_width=stem_width, **kwargs)


def _wide(block: type[BasicBlock] | type[Bottleneck], blocks: tuple[int, ...], classes: int, **kwargs: Any) -> ResNet:
    return ResNet(classes, block=block, blocks=blocks, widths=(64, 128, 256, 512), stem_width=64, **kwargs)


resnet20 = partial(_narrow, 20, 1)
resnet32 = partial(_narrow, 32, 1)
resnet56 = partial(_narrow, 56, 1)
resnet110 = partial(_narrow, 110, 1)
resnet8x4 = partial(_narrow, 8, 4)
resnet32x4 = partial(_narrow, 32, 4)
ResNet18 = partial(_wide, BasicBlock, (2, 2, 2, 2))
ResNet34 = partial(_wide, BasicBlock, (3, 4, 6, 3))
ResNet50 = partial(_wide, Bottleneck, (3, 4, 6, 3))
