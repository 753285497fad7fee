"""BigGAN (Brock, Donahue, Simonyan 2018), 32 to 256 px, and our small versions for 8 and 16 px.

State-dict names are those of the public PyTorch release, so its checkpoints load by name (see `biggan_import`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.batch_norm import BatchNorm, ConditionalBatchNorm
from gankd.models.biggan_blocks import (
    BOTTOM,
    DiscriminatorBlock,
    GeneratorBlock,
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

# Channels in units of the width, from the first map to the last block's output; every block doubles the size from 4 px.
GENERATOR_CHANNELS: dict[int, tuple[int, ...]] = {
    8: (4, 4),
    16: (4, 4, 4),
    32: (4, 4, 4, 4),
    64: (16, 16, 8, 4, 2),
    128: (16, 16, 8, 4, 2, 1),
    256: (16, 16, 8, 8, 4, 2, 1),
}
# Output channels of every block in units of the width, and how many of the blocks, from the first, halve the size.
DISCRIMINATOR_CHANNELS: dict[int, tuple[tuple[int, ...], int]] = {
    8: ((4, 4), 1),
    16: ((4, 4, 4), 2),
    32: ((4, 4, 4, 4), 2),
    64: ((1, 2, 4, 8, 16), 4),
    128: ((1, 2, 4, 8, 16, 16), 5),
    256: ((1, 2, 4, 8, 8, 16, 16), 6),
}


def check_image_size(image_size: int, known: Iterable[int]) -> None:
    if image_size not in known:
        raise UserError(f"image_size {image_size} has no BigGAN of this kind: choose one of {', '.join(map(str, known))}.")


class GeneratorBody(Generative):
    """What all our BigGAN generators share: stem, blocks, output. A subclass says how a class reaches the batch norms."""

    def grow(
        self, image_size: int, image_channels: int, width: int, dim_z: int, hierarchical: bool,
        attention: Sequence[int], sn_eps: float, norm: Callable[[int, int], nn.Module],
    ) -> None:  # fmt: skip
        """Make the layers. norm(channels, chunk): a block's conditional BN; chunk: width of its part of z, 0 for none."""
        channels = [width * c for c in GENERATOR_CHANNELS[image_size]]
        blocks = len(channels) - 1
        self.image_size, self.image_channels = image_size, image_channels
        self.chunk = dim_z // (blocks + 1) if hierarchical else dim_z
        self.dim_z = self.chunk * (blocks + 1) if hierarchical else dim_z
        self.hierarchical = hierarchical
        sizes = [BOTTOM * 2 ** (i + 1) for i in range(blocks)]
        check_attention(tuple(attention), dict(zip(sizes, channels[1:])))

        self.linear = SNLinear(self.chunk, channels[0] * BOTTOM**2, eps=sn_eps)
        chunk = self.chunk if hierarchical else 0

        def conditional(channels: int) -> nn.Module:
            return norm(channels, chunk)

        self.blocks = nn.ModuleList()
        for size, inputs, outputs in zip(sizes, channels, channels[1:]):
            attend = [SelfAttention(outputs, sn_eps)] if size in attention else []
            self.blocks.append(Stage([GeneratorBlock(inputs, outputs, conditional, sn_eps), *attend]))
        last = SNConv2d(channels[-1], image_channels, 3, padding=1, eps=sn_eps)
        self.output_layer = nn.Sequential(BatchNorm(channels[-1]), nn.ReLU(), last)

    def chunks(self, z: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """The part of z that feeds the stem, and every block's own (None without hierarchy)."""
        if not self.hierarchical:
            return z, [None] * len(self.blocks)
        first, *rest = z.split(self.chunk, dim=1)
        return first, list(rest)

    def render(self, z: Tensor, conditions: Iterable[Any]) -> Tensor:
        """Images of the stem's z and of every block's condition."""
        h = first_map(self.linear(z), like=self.output_layer[-1])
        for block, condition in zip(self.blocks, conditions):
            h = block(h, condition)
        return torch.tanh(self.output_layer(h).to(z.dtype))

    def teaching_blocks(self) -> list[nn.Module]:
        return list(self.blocks)


class Generator(GeneratorBody):
    """z (N, dim_z) and labels (N,) to images (N, image_channels, S, S) in (-1, 1).

    Args:
        image_size: 8, 16, 32, 64, 128 or 256. classes: number of labels. width: the channel unit ("ch").
        dim_z: latent width; hierarchical mode rounds it down to a multiple of (blocks + 1): read the attribute.
        shared_dim: width of the class embedding that all layers share; 0 gives every conditional BN tables of its own.
        hierarchical: the first part of z feeds the stem, part i + 1 joins the embedding for block i; needs shared_dim.
        attention: sizes of the maps (px) behind which self-attention stands.
        sn_eps, bn_eps: smallest norm in spectral normalisation; added to the variance in the conditional BNs.
        init: "N02", "ortho", "xavier" or "default" (see `initialise`).
    """

    conditioning = 1.0  # of the shared embedding, see `faded`

    def __init__(
        self, image_size: int, classes: int, image_channels: int = 3, width: int = 64, dim_z: int = 128,
        shared_dim: int = 0, hierarchical: bool = False, attention: Sequence[int] = (),
        sn_eps: float = 1e-8, bn_eps: float = 1e-5, init: str = "N02",
    ) -> None:  # fmt: skip
        super().__init__()
        check_image_size(image_size, GENERATOR_CHANNELS)
        if hierarchical and not shared_dim:
            raise UserError("hierarchical = true needs a shared class embedding: set shared_dim above 0, e.g. 128.")
        self.classes = classes

        def norm(channels: int, chunk: int) -> ConditionalBatchNorm:
            return ConditionalBatchNorm(channels, condition_layer(classes, shared_dim + chunk, sn_eps), bn_eps)

        self.shared = nn.Embedding(classes, shared_dim) if shared_dim else None
        self.grow(image_size, image_channels, width, dim_z, hierarchical, attention, sn_eps, norm)
        initialise(self, init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """labels: integers (N,), or with a shared table class embeddings (N, shared_dim)."""
        embedding = embed_labels(self.shared, labels, self.conditioning)
        z, chunks = self.chunks(z)
        return self.render(z, [embedding if chunk is None else torch.cat([embedding, chunk], 1) for chunk in chunks])

    def latent_code(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """z, behind the class's embedding where all layers share one."""
        if self.shared is None or labels is None:
            return z
        return torch.cat([embed_labels(self.shared, labels, self.conditioning), z], 1)


class Discriminator(ProjectionDiscriminator):
    """Images (N, image_channels, S, S), labels (N,) to logits (N, 1): linear in the features, plus a class projection.

    Args as for `Generator`; wide: hidden width of a block is its output's (BigGAN) and not its input's (SN-GAN).
    attention counts the true sizes of the maps (32 px: 16, 8, 8, 8), and stands behind the first block of that size.
    """

    def __init__(
        self, image_size: int, classes: int, image_channels: int = 3, width: int = 64, attention: Sequence[int] = (),
        wide: bool = True, sn_eps: float = 1e-8, init: str = "N02",
    ) -> None:  # fmt: skip
        super().__init__()
        check_image_size(image_size, DISCRIMINATOR_CHANNELS)
        units, halvings = DISCRIMINATOR_CHANNELS[image_size]
        channels = [image_channels, *(width * c for c in units)]
        self.image_size, self.classes, self.image_channels = image_size, classes, image_channels
        sizes = [image_size >> min(i + 1, halvings) for i in range(len(units))]
        first_channels: dict[int, int] = {}
        for size, outputs in zip(sizes, channels[1:]):
            first_channels.setdefault(size, outputs)
        check_attention(tuple(attention), first_channels)

        self.blocks = nn.ModuleList()
        for i, (inputs, outputs) in enumerate(pairwise(channels)):
            attend = [SelfAttention(outputs, sn_eps)] if sizes[i] in attention and sizes[i] not in sizes[:i] else []
            block = DiscriminatorBlock(inputs, outputs, i < halvings, i == 0, wide, sn_eps)
            self.blocks.append(nn.Sequential(block, *attend))
        self.linear = SNLinear(channels[-1], 1, eps=sn_eps)
        self.embed = SNEmbedding(classes, channels[-1], eps=sn_eps)
        initialise(self, init)

    def block_features(self, images: Tensor) -> list[Tensor]:
        """Of each block's maps the mean over space, (N, C_i), and the features that the last layer reads."""
        maps, found = images, []
        for block in self.blocks:
            maps = block(maps)
            found.append(maps.mean((2, 3)))
        return [*found[:-1], self.features(images)]
