"""VGG with batch norm: `vgg8`, `vgg11`, `vgg13`, `vgg16`, `vgg19`."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Classifier, global_pool, he_initialise, is_large

WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 1024


class VGG(Classifier):
    """Five blocks of conv3-BN-ReLU (`blocks[i]` convolutions each); 2 x 2 max-pool after the first three.

    Up to 64 px: global mean and a linear layer. Above: max-pool 4 and two hidden layers of 1024 with dropout 0.5.
    """

    def __init__(
        self, blocks: tuple[int, ...], classes: int, image_channels: int = 3, image_size: int = 32, dropout: float = 0.5
    ) -> None:
        super().__init__()
        channels = image_channels
        for i, (width, count) in enumerate(zip(WIDTHS, blocks, strict=True)):
            block = nn.Sequential()
            for _ in range(count):
                block.extend([nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)])
                channels = width
            self.add_module(f"block{i}", block)
        self.head: nn.Sequential | None = None
        self.feature_dim = channels
        if is_large(image_size):
            flat = channels * (image_size // 32) ** 2
            self.head = nn.Sequential(
                nn.MaxPool2d(4),
                nn.Flatten(),
                nn.Linear(flat, HIDDEN), nn.ReLU(inplace=True), nn.Dropout(dropout),
                nn.Linear(HIDDEN, HIDDEN), nn.ReLU(inplace=True), nn.Dropout(dropout),
            )  # fmt: skip
            self.feature_dim = HIDDEN
        self.linear = nn.Linear(self.feature_dim, classes)
        he_initialise(self, linear_std=0.01)

    def block_outputs(self, images: Tensor) -> list[Tensor]:
        """Before the max-pool that follows the first three."""
        maps, outputs = images, []
        for i in range(len(WIDTHS)):
            maps = self.get_submodule(f"block{i}")(maps)
            outputs.append(maps)
            if i < 3:
                maps = F.max_pool2d(maps, 2)
        return outputs

    def summary(self, maps: Tensor) -> Tensor:
        return global_pool(maps) if self.head is None else self.head(maps)


vgg8 = partial(VGG, (1, 1, 1, 1, 1))
vgg11 = partial(VGG, (1, 1, 2, 2, 2))
vgg13 = partial(VGG, (2, 2, 2, 2, 2))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
vgg19 = partial(VGG, (2, 2, 4, 4, 4))
