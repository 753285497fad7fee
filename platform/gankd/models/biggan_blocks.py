"""Residual blocks and self-attention of BigGAN (Brock, Donahue, Simonyan 2018, appendix B)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.batch_norm import Condition, faded
from gankd.models.spectral_norm import SNConv2d, SNEmbedding, SNLinear

Norm = Callable[[int], nn.Module]  # channels -> batch norm called as norm(x, condition)

BOTTOM = 4  # height and width of the generator's first map


class SelfAttention(nn.Module):
    """x + gamma * o(g softmax(theta^T phi)), keys and values max-pooled by 2, no scaling (Zhang et al. 2018).

    Needs 8 or more channels, and even H and W.
    """

    def __init__(self, channels: int, sn_eps: float = 1e-8) -> None:
        super().__init__()
        conv = partial(SNConv2d, kernel_size=1, bias=False, eps=sn_eps)
        self.theta = conv(channels, channels // 8)
        self.phi = conv(channels, channels // 8)
        self.g = conv(channels, channels // 2)
        self.o = conv(channels // 2, channels)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        def tokens(t: Tensor) -> Tensor:
            return t.flatten(2).transpose(1, 2).unsqueeze(1)  # (N, 1 head, positions, channels)

        queries = tokens(self.theta(x))
        keys = tokens(F.max_pool2d(self.phi(x), 2))
        values = tokens(F.max_pool2d(self.g(x), 2))
        # Of one width and each token's channels in a row, so that a kernel is chosen which never holds all positions by all keys.
        queries, keys = (F.pad(t, (0, values.shape[-1] - t.shape[-1])) for t in (queries, keys))  # zeros change no product
        values = values.contiguous()
        mixed = F.scaled_dot_product_attention(queries, keys, values, scale=1.0)
        mixed = mixed.squeeze(1).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])
        return x + self.gamma.to(x.dtype) * self.o(mixed)


class GeneratorBlock(nn.Module):
    """(N, in, H, W) and a condition to (N, out, 2H, 2W), up by nearest.

    Two 3x3 convolutions, either behind conditional BN and ReLU, and a 1x1 shortcut. norm: channels -> conditional BN.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm, sn_eps: float = 1e-8) -> None:
        super().__init__()
        self.conv1 = SNConv2d(inputs, outputs, 3, padding=1, eps=sn_eps)
        self.conv2 = SNConv2d(outputs, outputs, 3, padding=1, eps=sn_eps)
        self.conv_sc = SNConv2d(inputs, outputs, 1, eps=sn_eps)
        self.bn1 = norm(inputs)
        self.bn2 = norm(outputs)

    def forward(self, x: Tensor, c: Any) -> Tensor:
        h = self.conv1.upsampled(F.relu(self.bn1(x, c)))
        h = self.conv2(F.relu(self.bn2(h, c)))
        return h + self.conv_sc.upsampled(x)


class DiscriminatorBlock(nn.Module):
    """(N, in, H, W) to (N, out, H, W), halved in size if `down`; the first block of a network has no ReLU in front.

    wide: the hidden width is `out` (BigGAN), else `in` (SN-GAN).
    """

    def __init__(
        self, inputs: int, outputs: int, down: bool, first: bool = False, wide: bool = True, sn_eps: float = 1e-8
    ) -> None:
        super().__init__()
        self.down, self.first = down, first
        hidden = outputs if wide else inputs
        self.conv1 = SNConv2d(inputs, hidden, 3, padding=1, eps=sn_eps)
        self.conv2 = SNConv2d(hidden, outputs, 3, padding=1, eps=sn_eps)
        self.conv_sc = SNConv2d(inputs, outputs, 1, eps=sn_eps) if down or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.conv1(x if self.first else F.relu(x)))  # not in place: the shortcut needs x as it is
        h = self.conv2.pooled(h) if self.down else self.conv2(h)
        if self.conv_sc is None:
            return h + x
        return h + (self.conv_sc.pooled(x) if self.down else self.conv_sc(x))


class Stage(nn.ModuleList):
    """A conditional block, and what may follow it (attention), which needs no condition."""

    def forward(self, x: Tensor, c: Any) -> Tensor:
        for i, layer in enumerate(self):
            x = layer(x) if i else layer(x, c)
        return x


def condition_layer(classes: int, width: int, sn_eps: float) -> Condition:
    """What makes a conditional BN's gain or bias: an SN linear map of a vector of `width`, or (0) a table by label."""
    if width:
        return lambda channels: SNLinear(width, channels, bias=False, eps=sn_eps)
    return lambda channels: nn.Embedding(classes, channels)


def check_attention(attention: tuple[int, ...], channels: dict[int, int]) -> None:
    """UserError unless every size in `attention` is that of a map in `channels` (size -> channels), with 8 or more."""
    for size in attention:
        if channels.get(size, 0) < 8 or size % 2:
            allowed = ", ".join(str(s) for s, c in channels.items() if c >= 8 and s % 2 == 0) or "none"
            raise UserError(f"attention at {size} px is not possible here: choose from map sizes {allowed}, or leave it empty.")


def embed_labels(shared: nn.Embedding | None, labels: Tensor, conditioning: float = 1.0) -> Tensor:
    """Integer labels (N,) looked up in the shared table; floats (N, shared_dim) are embeddings already.

    conditioning: see `faded`.
    """
    if shared is None:
        if labels.is_floating_point():
            raise UserError("this generator has one table per layer (shared_dim = 0): pass integer labels, not embeddings.")
        return labels
    return labels if labels.is_floating_point() else faded(shared(labels), shared, conditioning)


def set_conditioning(network: nn.Module, share: float) -> None:
    """How far the classes differ for a BigGAN generator or discriminator: 0 not at all, 1 as they have learned it."""
    for module in network.modules():
        if hasattr(module, "conditioning"):
            setattr(module, "conditioning", share)  # noqa: B010  # mypy takes a module's attributes for tensors


def first_map(h: Tensor, like: nn.Module) -> Tensor:
    """(N, C * 16) to (N, C, 4, 4) in the memory format of the layer `like`; the rest of the network keeps it."""
    h = h.reshape(h.shape[0], -1, BOTTOM, BOTTOM)
    channels_last = cast(Tensor, like.weight).is_contiguous(memory_format=torch.channels_last)
    return h.contiguous(memory_format=torch.channels_last) if channels_last else h


class ProjectionDiscriminator(nn.Module):
    """Blocks, a sum over positions, and a logit that adds a projection onto the label's embedding (Miyato & Koyama 2018).

    A network makes `blocks`, `linear` (C -> 1) and `embed` (classes x C).
    """

    blocks: nn.ModuleList
    linear: SNLinear
    embed: SNEmbedding
    conditioning = 1.0  # factor of the projection

    def stem(self, images: Tensor) -> Tensor:
        """What comes before the blocks: nothing."""
        return images

    def features(self, images: Tensor) -> Tensor:
        """(N, C): the last map, rectified and summed over its positions, in the parameters' precision."""
        h = self.stem(images)
        for block in self.blocks:
            h = block(h)
        return F.relu(h).sum((2, 3), dtype=self.linear.weight.dtype)

    def classify(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, 1) of features (N, C), in the parameters' precision also under autocast."""
        with torch.autocast(features.device.type, enabled=False):
            projection = (self.embed(labels) * features).sum(1, keepdim=True)
            return self.linear(features) + (projection if self.conditioning == 1 else self.conditioning * projection)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        return self.classify(self.features(images), labels)
