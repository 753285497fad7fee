"""The small generator that model inversion trains anew for every batch of images (CMI's and RGAL's `Generator`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gankd.errors import UserError


class InversionGenerator(nn.Module):
    """z (N, dim_z) -> images (N, C, H, W) in [-1, 1]: a linear layer to a quarter of the size, two doublings, tanh.

    It is used in training mode throughout: batch norm takes the statistics of the batch. With dim_z 256, width 64 and
    three channels at 32 px: 2,328,899 parameters. The published network ends in a sigmoid, for images in [0, 1]:
    2 sigmoid(x) - 1 = tanh(x / 2).
    """

    def __init__(self, dim_z: int = 256, width: int = 64, image_size: int = 32, image_channels: int = 3) -> None:
        super().__init__()
        if image_size % 4 or image_size < 8:
            raise UserError(f"the inversion generator makes images of 8, 12, 16, ... px, not {image_size}; set data.image_size")
        self.dim_z, self.width, self.size = dim_z, width, image_size // 4
        self.l1 = nn.Sequential(nn.Linear(dim_z, 2 * width * self.size**2))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, image_channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        maps = self.l1(z).view(-1, 2 * self.width, self.size, self.size)
        maps = maps.contiguous(memory_format=torch.channels_last)
        return torch.tanh(self.conv_blocks(maps).float() / 2)

    @torch.no_grad()
    def reset(self, rng: torch.Generator) -> None:
        """Weights ~ N(0, 0.02^2), batch norm scales ~ N(1, 0.02^2), biases 0, drawn from `rng` in place."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                mean = 1.0 if isinstance(module, nn.BatchNorm2d) else 0.0
                module.weight.normal_(mean, 0.02, generator=rng)
                if module.bias is not None:
                    module.bias.zero_()
