"""What every generator offers, whatever is inside: latents in, images out, and what its labels are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Generative(nn.Module):
    """A generator of images in [-1, 1].

    Attributes:
        dim_z: width of its latent.
        classes: how many labels it knows; None for one that takes none, "continuous" for numbers as labels.

    One that can teach by what it makes on the way to an image has also

    teaching_blocks(): the modules that give its maps (N, C, H, W), from the coarsest on; a tuple's widest member is the map.
    latent_code(z, labels): what the maps are made from, (N, W).
    """

    dim_z: int
    classes: Any

    def latents(self, n: int, rng: torch.Generator) -> Tensor:
        """z ~ N(0, 1), (n, dim_z), on the device of `rng`."""
        return torch.randn(n, self.dim_z, generator=rng, device=rng.device)

    def sample(self, n: int, labels: Tensor | None, rng: torch.Generator) -> Tensor:
        """`n` images (n, C, H, W) with latents drawn from `rng`; `labels` (n,), None for a generator that takes none."""
        device = next((parameter.device for parameter in self.parameters()), rng.device)
        inputs = [self.latents(n, rng).to(device), *([] if labels is None else [labels.to(device)])]
        images: Tensor = self(*inputs)
        return images

    def example(self) -> tuple[Tensor, ...]:
        """Inputs for two images."""
        kind = torch.float32 if self.classes == "continuous" else torch.long
        labels = () if self.classes is None else (torch.zeros(2, dtype=kind),)
        return (torch.zeros(2, self.dim_z), *labels)


def is_generator(network: Any) -> bool:
    """Whether a network makes images."""
    return isinstance(network, Generative)
