"""CcGAN's networks: a SAGAN (Zhang et al. 2018) whose label enters as h by an embedding inside that is not trained.

The paper's are for 64 px; those for 32 and 16 px lack the coarsest blocks.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.batch_norm import BatchNorm, ConditionalBatchNorm
from gankd.models.biggan_blocks import BOTTOM, DiscriminatorBlock, GeneratorBlock, Norm, SelfAttention, first_map
from gankd.models.generative import Generative
from gankd.models.spectral_norm import SNConv2d, SNLinear, initialise
from methods.cgan_kd_regression.gan_config import SAGAN_SIZES
from methods.cgan_kd_regression.label_embedding import KINDS


class BiasedSelfAttention(SelfAttention):
    """BigGAN's self-attention with biases in its four convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        for name, conv in list(self.named_children()):
            assert isinstance(conv, SNConv2d)
            setattr(self, name, SNConv2d(conv.in_channels, conv.out_channels, 1))


class FullPrecisionLinear(nn.Linear):
    """W h in full precision always: near labels have nearly the same h, and bf16 has three digits."""

    def forward(self, h: Tensor) -> Tensor:
        with torch.autocast(h.device.type, enabled=False):
            return super().forward(h)


class Generator(Generative):
    """G(z, y): latents (N, dim_z) and labels (N,) in the data's own unit to images (N, C, S, S) in [-1, 1].

    The label conditions the batch norms of every block, BN(x) (1 + W_g h) + W_b h; z is the first map alone.
    15,070,052 parameters for 64 px, RGB and width 64, beside those of the embedding. Running statistics move by a tenth a step;
    the published code's thousandth (in the last layer a ten-thousandth) is far behind the weights that images are made with.

    Attributes:
        embedding: h of a label, without gradients.
    """

    classes = "continuous"

    def __init__(
        self, low: float, high: float, image_size: int = 64, image_channels: int = 3, width: int = 64, dim_z: int = 256,
        embed_dim: int = 128, attention: bool = True, embedding: str = "learned",
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim_z, doublings = dim_z, doublings_of(image_size)
        channels = [width << (doublings - i) for i in range(doublings + 1)]
        self.linear = SNLinear(dim_z, channels[0] * BOTTOM**2)
        self.blocks = nn.ModuleList(GeneratorBlock(*pair, norm=_label_norm(embed_dim)) for pair in pairwise(channels))
        self.attention = BiasedSelfAttention(channels[-2]) if attention else nn.Identity()
        self.bn = BatchNorm(width)
        self.to_image = SNConv2d(width, image_channels, 3, padding=1)
        _initialise(self)
        self.embedding = KINDS[embedding](low, high, embed_dim).requires_grad_(False)

    @property
    def label_range(self) -> tuple[float, float]:
        """The lowest and the highest label, in the data's own unit."""
        return self.embedding.task.low, self.embedding.task.high

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        h = self.embedding(labels)
        x = first_map(self.linear(z), self.to_image)
        for number, block in enumerate(self.blocks, start=1):
            x = block(self.attention(x) if number == len(self.blocks) else x, h)
        return torch.tanh(self.to_image(F.relu(self.bn(x))))


class Discriminator(nn.Module):
    """D(x, y) = w phi(x) + b + <phi(x), V h(y)>, phi being the last map, rectified and flattened.

    21,660,466 parameters for 64 px, RGB and width 64, beside those of the embedding.

    Args:
        rectified_shortcuts: let shortcuts see relu(x) as well. In CcGAN's code a ReLU works in place on the map that the
            shortcut reads afterwards; here, as in the published blocks, it sees x.
    """

    def __init__(
        self, low: float, high: float, image_size: int = 64, image_channels: int = 3, width: int = 64, embed_dim: int = 128,
        attention: bool = True, rectified_shortcuts: bool = False, embedding: str = "learned",
    ) -> None:  # fmt: skip
        super().__init__()
        self.rectified_shortcuts, halvings = rectified_shortcuts, doublings_of(image_size)
        channels = [image_channels, *(width << i for i in range(halvings + 1))]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(*pair, down=i < halvings, first=i == 0) for i, pair in enumerate(pairwise(channels))
        )
        self.attention = BiasedSelfAttention(width) if attention else nn.Identity()
        features = channels[-1] * BOTTOM**2
        self.linear = SNLinear(features, 1)
        self.project = SNLinear(embed_dim, features, bias=False)
        _initialise(self)
        self.embedding = KINDS[embedding](low, high, embed_dim).requires_grad_(False)

    def features(self, images: Tensor) -> Tensor:
        """phi, (N, F), in the parameters' precision."""
        first, *others = self.blocks
        x = self.attention(first(images))
        for block in others:
            x = block(F.relu(x) if self.rectified_shortcuts else x)
        return F.relu(x).flatten(1).to(self.linear.weight.dtype)

    def classify(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, 1) of features (N, F) and labels (N,) in the data's own unit; in full precision also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            projection = (self.project(self.embedding(labels)) * features).sum(1, keepdim=True)
            logits: Tensor = self.linear(features) + projection
            return logits

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.classify(self.features(images), labels)


def doublings_of(image_size: int) -> int:
    """How often 4 px are doubled to `image_size`. Raises UserError for a size without networks."""
    if image_size not in SAGAN_SIZES:
        raise UserError(f"the SAGAN makes images of {', '.join(map(str, SAGAN_SIZES))} px, not {image_size}; set data.image_size")
    return SAGAN_SIZES.index(image_size) + 2


def _label_norm(embed_dim: int) -> Norm:
    return lambda channels: ConditionalBatchNorm(channels, lambda c: FullPrecisionLinear(embed_dim, c, bias=False))


def _initialise(network: nn.Module) -> None:
    """Xavier's uniform weights, and biases of 0."""
    initialise(network, "xavier")
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and parameter.ndim == 1:
            nn.init.zeros_(parameter)
