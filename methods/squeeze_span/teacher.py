"""Generators that teach: an image, and what the generator made on the way to it, in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Generated:
    """Images and their features.

    Attributes:
        images: (N, C, H, W) in [-1, 1].
        features: of each of the generator's maps, from the coarsest on, its mean over space: (N, C_i), float32.
        latent: what the maps were made from, (N, W), float32: StyleGAN2's w; of a BigGAN z beside the embedding of the class.
    """

    images: Tensor
    features: list[Tensor]
    latent: Tensor

    def part(self, rank: int, world: int) -> Generated:
        """A worker's rows."""
        images, latent = (each.chunk(world)[rank] for each in (self.images, self.latent))
        return Generated(images, [each.chunk(world)[rank] for each in self.features], latent)


class Teacher:
    """A frozen generator in eval mode, read through hooks at its blocks (`Generative.teaching_blocks`).

    One that takes classes is asked for all of them equally often.

    The maps are averaged where they are made, so that they are never kept: one of StyleGAN2 has half a million numbers at 32 px.

    Attributes:
        widths: channels of each map, from the coarsest on. latent_width: W.
    """

    def __init__(self, generator: Any, device: torch.device | str = "cpu") -> None:
        self.generator: Any = generator.eval().requires_grad_(False).to(device)
        self.device = torch.device(device)
        self._seen: list[Tensor] | None = None  # what the hooks collect, while something is generated
        for block in generator.teaching_blocks():
            block.register_forward_hook(self._pool)
        probe = self.generate(2, torch.Generator().manual_seed(0))
        self.widths, self.latent_width = [each.shape[1] for each in probe.features], probe.latent.shape[1]

    def _pool(self, block: nn.Module, inputs: Any, output: Any) -> None:
        """A StyleGAN2's block gives its map and the image so far: the one with more channels is meant."""
        if self._seen is None:  # someone else runs the generator, with gradients perhaps
            return
        maps = max(output, key=lambda each: 0 if each is None else each.shape[1]) if isinstance(output, tuple) else output
        self._seen.append(maps.float().mean((2, 3)))

    @torch.no_grad()
    def generate(self, n: int, rng: torch.Generator) -> Generated:
        """`n` images and their features; latents, labels and noise from `rng`, no truncation."""
        z, labels = self.generator.latents(n, rng).to(self.device), None
        if self.generator.classes is not None:
            labels = torch.randint(self.generator.classes, (n,), generator=rng, device=rng.device).to(self.device)
        features: list[Tensor] = []
        self._seen = features
        images = self._images(z, labels, rng)
        self._seen = None
        latent: Tensor = self.generator.latent_code(z, labels)
        return Generated(images.float().clamp(-1, 1), features, latent.float())

    def _images(self, z: Tensor, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        images: Tensor = self.generator(z, labels, noise="random", rng=rng) if labels is None else self.generator(z, labels)
        return images
