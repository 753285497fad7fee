"""BigGAN-deep (Brock, Donahue, Simonyan 2018, appendix B): bottleneck blocks, shortcuts that drop or add channels.

The class embedding is concatenated with the whole z; that condition feeds the stem and every conditional BN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.batch_norm import BatchNorm, Condition, ConditionalBatchNorm
from gankd.models.biggan import GENERATOR_CHANNELS, check_image_size
from gankd.models.biggan_blocks import (
    BOTTOM,
    ProjectionDiscriminator,
    SelfAttention,
    Stage,
    check_attention,
    condition_layer,
    embed_labels,
    first_map,
)
from gankd.models.generative import Generative
from gankd.models.spectral_norm import SNConv2d, SNEmbedding, SNLinear, initialise

RATIO = 4  # a block's channels over those of its 3x3 convolutions
# Channels in units of the width, from the first convolution to the last stage; how many stages, from the first, halve.
DISCRIMINATOR_CHANNELS: dict[int, tuple[tuple[int, ...], int]] = {
    32: ((4, 4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}
GENERATOR_SIZES = {size: GENERATOR_CHANNELS[size] for size in DISCRIMINATOR_CHANNELS}


class GeneratorBlock(nn.Module):
    """(N, in, H, W) and a condition to (N, out, H, W), doubled in size if `up`.

    out <= in: the shortcut keeps the first `out` channels.
    """

    def __init__(self, inputs: int, outputs: int, up: bool, condition: Condition, sn_eps: float, bn_eps: float) -> None:
        super().__init__()
        self.outputs, self.up = outputs, up
        hidden = inputs // RATIO
        conv, norm = partial(SNConv2d, eps=sn_eps), partial(ConditionalBatchNorm, condition=condition, eps=bn_eps)
        self.conv1, self.conv4 = conv(inputs, hidden, 1), conv(hidden, outputs, 1)
        self.conv2, self.conv3 = conv(hidden, hidden, 3, padding=1), conv(hidden, hidden, 3, padding=1)
        self.bn1, self.bn2, self.bn3, self.bn4 = norm(inputs), norm(hidden), norm(hidden), norm(hidden)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        h = self.conv1(F.relu(self.bn1(x, c)))
        h = F.relu(self.bn2(h, c))
        h = self.conv2.upsampled(h) if self.up else self.conv2(h)
        h = self.conv3(F.relu(self.bn3(h, c)))
        h = self.conv4(F.relu(self.bn4(h, c)))
        x = x[:, : self.outputs]
        return h + (F.interpolate(x, scale_factor=2) if self.up else x)


class DiscriminatorBlock(nn.Module):
    """(N, in, H, W) to (N, out, H, W), halved in size if `down`.

    out >= in: the shortcut keeps x, and a 1x1 convolution adds the channels that it lacks.
    """

    def __init__(self, inputs: int, outputs: int, down: bool, sn_eps: float) -> None:
        super().__init__()
        self.down = down
        hidden = outputs // RATIO
        conv = partial(SNConv2d, eps=sn_eps)
        self.conv1, self.conv4 = conv(inputs, hidden, 1), conv(hidden, outputs, 1)
        self.conv2, self.conv3 = conv(hidden, hidden, 3, padding=1), conv(hidden, hidden, 3, padding=1)
        self.conv_sc = conv(inputs, outputs - inputs, 1) if outputs > inputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(F.relu(x)))
        h = F.relu(self.conv2(h))
        h = F.relu(self.conv3(h))
        if self.down:
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if self.conv_sc is not None:
            x = torch.cat([x, self.conv_sc(x)], 1)
        return self.conv4(h) + x


class Generator(Generative):
    """z (N, dim_z) and labels (N,) to images (N, image_channels, S, S) in (-1, 1).

    Args:
        image_size: 32, 64, 128 or 256. classes: number of labels. width: the channel unit ("ch").
        depth: blocks per size, the last of which doubles the size. shared_dim: width of the class embedding.
        attention, sn_eps, bn_eps, init: as in `gankd.models.biggan.Generator`.
    """

    conditioning = 1.0  # of the shared embedding, see `faded`

    def __init__(
        self, image_size: int, classes: int, image_channels: int = 3, width: int = 128, dim_z: int = 128,
        shared_dim: int = 128, attention: Sequence[int] = (), depth: int = 2,
        sn_eps: float = 1e-6, bn_eps: float = 1e-5, init: str = "ortho",
    ) -> None:  # fmt: skip
        super().__init__()
        check_image_size(image_size, GENERATOR_SIZES)
        channels = [width * c for c in GENERATOR_CHANNELS[image_size]]
        self.image_size, self.classes, self.image_channels, self.dim_z = image_size, classes, image_channels, dim_z
        sizes = [BOTTOM * 2 ** (i + 1) for i in range(len(channels) - 1)]
        check_attention(tuple(attention), dict(zip(sizes, channels[1:])))

        self.shared = nn.Embedding(classes, shared_dim)
        self.linear = SNLinear(dim_z + shared_dim, channels[0] * BOTTOM**2, eps=sn_eps)
        condition = condition_layer(classes, dim_z + shared_dim, sn_eps)
        self.blocks = nn.ModuleList()
        for size, inputs, outputs in zip(sizes, channels, channels[1:]):
            widths = [inputs] * depth + [outputs]
            for i in range(depth):
                up = i == depth - 1
                attend = [SelfAttention(outputs, sn_eps)] if up and size in attention else []
                block = GeneratorBlock(widths[i], widths[i + 1], up, condition, sn_eps, bn_eps)
                self.blocks.append(Stage([block, *attend]))
        last = SNConv2d(channels[-1], image_channels, 3, padding=1, eps=sn_eps)
        self.output_layer = nn.Sequential(BatchNorm(channels[-1]), nn.ReLU(), last)
        initialise(self, init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """labels: integers (N,), or class embeddings (N, shared_dim)."""
        condition = torch.cat([embed_labels(self.shared, labels, self.conditioning), z], 1)
        h = first_map(self.linear(condition), like=self.output_layer[-1])
        for block in self.blocks:
            h = block(h, condition)
        return torch.tanh(self.output_layer(h).to(z.dtype))


class Discriminator(ProjectionDiscriminator):
    """Images (N, image_channels, S, S) and labels (N,) to logits (N, 1).

    A stage has `depth` blocks, the first of which halves the size. Args as for `Generator`; attention stands behind the
    first stage whose maps have the size named.
    """

    def __init__(
        self, image_size: int, classes: int, image_channels: int = 3, width: int = 128,
        attention: Sequence[int] = (), depth: int = 2, sn_eps: float = 1e-6, init: str = "ortho",
    ) -> None:  # fmt: skip
        super().__init__()
        check_image_size(image_size, DISCRIMINATOR_CHANNELS)
        units, halvings = DISCRIMINATOR_CHANNELS[image_size]
        channels = [width * c for c in units]
        self.image_size, self.classes, self.image_channels = image_size, classes, image_channels
        sizes = [image_size >> min(i + 1, halvings) for i in range(len(units) - 1)]
        check_attention(tuple(attention), dict(zip(sizes, channels[1:])))

        self.input_conv = SNConv2d(image_channels, channels[0], 3, padding=1, eps=sn_eps)
        self.blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            stage = nn.Sequential(DiscriminatorBlock(inputs, outputs, i < halvings, sn_eps))
            stage.extend(DiscriminatorBlock(outputs, outputs, False, sn_eps) for _ in range(depth - 1))
            if sizes[i] in attention and sizes[i] not in sizes[:i]:
                stage.append(SelfAttention(outputs, sn_eps))
            self.blocks.append(stage)
        self.linear = SNLinear(channels[-1], 1, eps=sn_eps)
        self.embed = SNEmbedding(classes, channels[-1], eps=sn_eps)
        initialise(self, init)

    def stem(self, images: Tensor) -> Tensor:
        return self.input_conv(images)
