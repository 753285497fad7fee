"""StyleGAN2 (Karras et al. 2020, with the configurations of StyleGAN2-ADA), without labels, from 8 px on.

State-dict names are those of the official PyTorch release, so its weights load by name (see `stylegan2_import`).
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.generative import Generative
from gankd.models.stylegan2_layers import BOTTOM, EPS, DiscriminatorBlock, DiscriminatorHead, Linear, Noise, SynthesisBlock

Architecture = Literal["skip", "orig", "resnet"]
MAPPING_RATE = 0.01  # on the learning rate of the mapping network
W_AVERAGE = 0.995  # what an update keeps of the running mean of w


def sizes_up_to(image_size: int) -> list[int]:
    """4, 8, ..., image_size. Raises UserError when it is no power of two from 8 on."""
    if image_size < 2 * BOTTOM or image_size & (image_size - 1):
        raise UserError(f"image_size {image_size} has no StyleGAN2: choose a power of two from 8 on, e.g. 32.")
    return [2**i for i in range(2, image_size.bit_length())]


def channels_at(size: int, channel_base: int, channel_max: int) -> int:
    """Of the maps of `size` px."""
    channels = min(channel_base // size, channel_max)
    if channels < 1:
        raise UserError(
            f"channel_base {channel_base} and channel_max {channel_max} leave no channels at {size} px: "
            f"set channel_base to {size} or more and channel_max to 1 or more."
        )
    return channels


def check_architecture(architecture: str) -> None:
    if architecture not in get_args(Architecture):
        raise UserError(f"architecture {architecture!r} is unknown: choose one of {', '.join(get_args(Architecture))}.")


def check_unconditional(classes: Any) -> None:
    if classes is not None:
        raise UserError(f"our StyleGAN2 takes no labels, and classes is {classes!r}: leave classes out, or choose a BigGAN.")


class Mapping(nn.Module):
    """z (N, dim_z) to num_ws equal copies of w: (N, num_ws, dim_w)."""

    w_avg: Tensor

    def __init__(self, dim_z: int, dim_w: int, num_ws: int, layers: int) -> None:
        super().__init__()
        self.num_ws, self.layers = num_ws, layers
        for i in range(layers):
            self.add_module(f"fc{i}", Linear(dim_w if i else dim_z, dim_w, rate=MAPPING_RATE, activate=True))
        self.register_buffer("w_avg", torch.zeros(dim_w))

    def forward(self, z: Tensor) -> Tensor:
        """In training mode, w_avg follows the mean of w."""
        w = z.to(self.w_avg.dtype)
        w = w * (w.square().mean(1, keepdim=True) + EPS).rsqrt()
        for i in range(self.layers):
            w = self.get_submodule(f"fc{i}")(w)
        if self.training:
            with torch.no_grad():
                self.w_avg.copy_(w.mean(0).lerp(self.w_avg, W_AVERAGE))
        return w[:, None].expand(-1, self.num_ws, -1)


class Synthesis(nn.Module):
    """Copies of w (N, num_ws, dim_w) to images (N, image_channels, S, S)."""

    def __init__(
        self, image_size: int, image_channels: int, dim_w: int, channel_base: int, channel_max: int,
        architecture: str, conv_clamp: float | None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.sizes = sizes_up_to(image_size)
        self.num_ws = 2 * len(self.sizes)  # a 3x3 layer at 4 px, two at every other size, and the last ToRGB
        inputs = 0
        for size in self.sizes:
            outputs, last = channels_at(size, channel_base, channel_max), size == image_size
            block = SynthesisBlock(inputs, outputs, dim_w, size, image_channels, last, architecture, conv_clamp)
            self.add_module(f"b{size}", block)
            inputs = outputs

    def blocks(self) -> list[nn.Module]:
        """From the smallest maps on."""
        return [self.get_submodule(f"b{size}") for size in self.sizes]

    def forward(self, ws: Tensor, noise: Noise | None = None, rng: torch.Generator | None = None) -> Tensor:
        """noise: "random" from `rng` (torch's own if None), the "const" maps, "none"; None: random in training, else const."""
        noise = noise or ("random" if self.training else "const")
        if noise not in get_args(Noise):
            raise UserError(f"noise {noise!r} is unknown: choose one of {', '.join(get_args(Noise))}.")
        x, image = None, None
        for i, block in enumerate(self.blocks()):
            x, image = block(x, image, ws[:, max(0, 2 * i - 1) :], noise, rng)
        return image  # type: ignore[return-value]  # the last block makes one


class Generator(Generative):
    """z (N, dim_z) to images (N, image_channels, S, S), in about [-1, 1] (not cut off).

    Args:
        image_size: S, a power of two from 8 on. dim_z, dim_w: widths of the latents. mapping_layers: between z and w.
        channel_base, channel_max: maps of r px have min(channel_base // r, channel_max) channels.
        conv_clamp: bound on every activation; None for none. architecture: "skip" sums images of all sizes, "resnet" has
        residual blocks, "orig" neither. classes: only None: without labels.

    Attributes: num_ws, the copies of w that the synthesis takes, and dim_z, dim_w, image_size, image_channels.
    The defaults with conv_clamp 256 at 32 px are StyleGAN2-ADA's "cifar" configuration (19,947,539 parameters).
    """

    def __init__(
        self, image_size: int, image_channels: int = 3, dim_z: int = 512, dim_w: int = 512, mapping_layers: int = 2,
        channel_base: int = 32768, channel_max: int = 512, conv_clamp: float | None = None, architecture: str = "skip",
        classes: None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_unconditional(classes)
        check_architecture(architecture)
        if mapping_layers < 1:
            raise UserError(f"mapping_layers {mapping_layers} makes no w: set it to 1 or more.")
        self.classes, self.dim_z, self.dim_w, self.image_size, self.image_channels = (
            None,
            dim_z,
            dim_w,
            image_size,
            image_channels,
        )
        self.synthesis = Synthesis(image_size, image_channels, dim_w, channel_base, channel_max, architecture, conv_clamp)
        self.num_ws = self.synthesis.num_ws
        self.mapping = Mapping(dim_z, dim_w, self.num_ws, mapping_layers)

    def forward(
        self, z: Tensor, labels: Tensor | None = None, *, noise: Noise | None = None, rng: torch.Generator | None = None
    ) -> Tensor:
        """`labels` are ignored. noise, rng: as for `Synthesis`: without them, an image in eval mode depends on z alone."""
        images: Tensor = self.synthesis(self.mapping(z), noise=noise, rng=rng)
        return images

    def sample(self, n: int, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        """`n` images (n, C, S, S); latents and random noise come from `rng`, and `labels` are ignored."""
        return self(self.latents(n, rng).to(self.mapping.w_avg), noise="random", rng=rng)  # type: ignore[no-any-return]

    def teaching_blocks(self) -> list[nn.Module]:
        """The blocks from the smallest maps on; each one's output is (map (N, C, H, W), image so far or None)."""
        return self.synthesis.blocks()

    def latent_code(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """w (N, dim_w), of which the synthesis takes copies; `labels` are ignored."""
        code: Tensor = self.mapping(z)[:, 0]
        return code


class Discriminator(nn.Module):
    """Images (N, image_channels, S, S) to logits (N, 1).

    Args: as for `Generator`; mbstd_group: images that are compared with each other, None for the whole batch; of a batch that
    it does not divide, the largest smaller divisor. mbstd_channels: maps that tell of it, 0 for none.
    With architecture "orig" and the defaults at 32 px: StyleGAN2-ADA's "cifar" configuration (20,720,641 parameters).
    """

    compares_images = True  # the answer to an image depends on the others in the batch

    def __init__(
        self, image_size: int, image_channels: int = 3, channel_base: int = 32768, channel_max: int = 512,
        conv_clamp: float | None = None, architecture: str = "resnet", mbstd_group: int | None = 4, mbstd_channels: int = 1,
        classes: None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        check_unconditional(classes)
        check_architecture(architecture)
        self.classes, self.image_size, self.image_channels = None, image_size, image_channels
        self.sizes = sizes_up_to(image_size)[::-1]
        channels = [channels_at(size, channel_base, channel_max) for size in self.sizes]
        if mbstd_group is not None and mbstd_group < 1:
            raise UserError(f"mbstd_group {mbstd_group} holds no images: set it to 1 or more, or leave it out.")
        if mbstd_channels < 0 or (mbstd_channels and channels[-1] % mbstd_channels):
            raise UserError(f"mbstd_channels {mbstd_channels} does not divide the {channels[-1]} channels at 4 px: set it to 1.")
        for size, inputs, outputs in zip(self.sizes, channels, channels[1:]):
            first = size == image_size
            block = DiscriminatorBlock(inputs, outputs, image_channels, first, architecture, conv_clamp)
            self.add_module(f"b{size}", block)
        self.b4 = DiscriminatorHead(channels[-1], image_channels, mbstd_group, mbstd_channels, architecture, conv_clamp)

    def trunk(self, images: Tensor, pooled: list[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The maps of 4 px and the images that go with them. `pooled` gets the mean over space of what every block puts out."""
        x: Tensor | None = None
        for size in self.sizes[:-1]:
            x, images = self.get_submodule(f"b{size}")(x, images)
            if pooled is not None:
                pooled.append(x.mean((2, 3), dtype=self.b4.fc.weight.dtype))
        assert x is not None
        return x, images

    @torch.no_grad()
    def spread_of(self, images: Tensor) -> Tensor:
        """The spread (mbstd_channels,) of one batch, to be fixed: `network.b4.fixed = network.spread_of(images)`."""
        return self.b4.spread_of(*self.trunk(images))

    def features(self, images: Tensor) -> Tensor:
        """(N, C): behind the last hidden layer, in the parameters' precision."""
        features: Tensor = self.b4(*self.trunk(images))
        return features

    def classify(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N, 1) of features (N, C); `labels` are ignored."""
        logits: Tensor = self.b4.out(features)
        return logits

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """`labels` are ignored."""
        return self.classify(self.features(images))

    def block_features(self, images: Tensor) -> list[Tensor]:
        """One (N, C) per block, from the largest maps on: means over space, and the last block's features."""
        pooled: list[Tensor] = []
        x, image = self.trunk(images, pooled)
        return [*pooled, self.b4(x, image)]
