"""MobileNetV2 (Sandler et al. 2018) at half width with expansion 6, as distillation benchmarks use it."""

from __future__ import annotations

from torch import Tensor, nn

from gankd.models.classifier import Classifier, global_pool, he_initialise, is_large, run_stages

# channels at full width, blocks, stride of the first block; the first row does not expand.
STAGES = ((16, 1, 1), (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
LAST_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """1x1 expansion, 3x3 depthwise, 1x1 linear projection, each with BN; a shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.residual = stride == 1 and in_channels == channels

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.conv(maps) if self.residual else self.conv(maps)


class MobileNetV2(Classifier):
    """Shrinks by 16 in all; by 32 on large images, where the second stage strides too (as in the original network)."""

    def __init__(
        self, classes: int, image_channels: int = 3, image_size: int = 32, width: float = 0.5, expansion: int = 6
    ) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = _conv_bn(image_channels, channels, 3, stride=2)
        blocks = nn.Sequential()
        for stage, (full, count, stride) in enumerate(STAGES):
            out_channels = int(full * width)
            for i in range(count):
                first_stride = 2 if stage == 1 and is_large(image_size) else stride
                grow = 1 if stage == 0 else expansion
                blocks.append(InvertedResidual(channels, out_channels, first_stride if i == 0 else 1, grow))
                channels = out_channels
        self.blocks = blocks
        self.conv2 = _conv_bn(channels, LAST_CHANNELS, 1)
        self.feature_dim = LAST_CHANNELS
        self.linear = nn.Linear(LAST_CHANNELS, classes)
        he_initialise(self, linear_std=0.01)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """One for each of the seven stages."""
        return run_stages(self.blocks, self.conv1(images), [count for _, count, _ in STAGES])

    def summary(self, maps: Tensor) -> Tensor:
        return global_pool(self.conv2(maps))


def _conv_bn(in_channels: int, channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
