"""What an update of a GAN draws, and what the terms of its loss see of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """This worker's rows of a micro-batch, as drawn; a method that draws more extends it.

    Attributes:
        z, fake_labels: latents (n, dim_z), and the labels asked for (n,).
        reals, real_labels: real images (m, C, H, W) in [-1, 1] and theirs (m,); None in the generator's update.
        fake_weights, real_weights: what each image counts in the discriminator's adversarial loss, (n,) and (m,); None = 1.
    """

    z: Tensor
    fake_labels: Tensor
    reals: Tensor | None = None
    real_labels: Tensor | None = None
    fake_weights: Tensor | None = None
    real_weights: Tensor | None = None


@dataclass(frozen=True)
class Seen:
    """A micro-batch and what the networks make of it, as a loss term sees it.

    Attributes:
        step: number of the iteration, from 0.
        batch: what was drawn.
        fakes: the generator's images (n, C, H, W) in [-1, 1]; in the discriminator's update without a gradient.
        shown_fakes, shown_reals: what the discriminator was shown: the fakes and batch.reals, augmented.
        fake_features, fake_logits, real_features, real_logits: what it makes of these, (n, F) and (n, 1).

    What is of real images is None in the generator's update.
    """

    step: int
    batch: Batch
    fakes: Tensor
    shown_fakes: Tensor
    fake_features: Tensor
    fake_logits: Tensor
    shown_reals: Tensor | None = None
    real_features: Tensor | None = None
    real_logits: Tensor | None = None


# Weighted scalars by the name under which they are logged, added to the adversarial loss of each micro-batch.
Terms = Callable[[Seen], Mapping[str, Tensor]]


def no_terms(seen: Seen) -> Mapping[str, Tensor]:
    """Of a plain GAN."""
    return {}
