"""What all generators offer, and that nothing else passes for one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd import models
from gankd.models.generative import Generative, is_generator

SMALL: dict[str, dict[str, Any]] = {
    "biggan": {"image_size": 8, "classes": 3, "dim_z": 8, "width": 4},
    "biggan_deep": {"image_size": 32, "classes": 3, "dim_z": 8, "shared_dim": 4, "depth": 1, "width": 4},
    "biggan_transfer": {"image_size": 8, "old_classes": 4, "classes": 3, "dim_z": 8, "width": 4},
    "stylegan2": {"image_size": 8, "dim_z": 8, "dim_w": 8, "channel_base": 32, "channel_max": 8},
}


class OfNumbers(Generative):
    """Takes a number as its label, or none."""

    dim_z = 4

    def __init__(self, classes: Any) -> None:
        super().__init__()
        self.classes, self.layer = classes, nn.Linear(4, 64)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        brightness = 0 if labels is None else labels[:, None]
        return torch.tanh(self.layer(z) + brightness).view(-1, 1, 8, 8)


@pytest.mark.parametrize("name", SMALL)
def test_a_generator_draws_its_latents_from_the_generator_given(name: str) -> None:
    assert set(SMALL) == set(models.GENERATORS)
    generator = models.build(name, **SMALL[name]).eval()
    labels = torch.tensor([0, 2, 1, 1])
    z = torch.randn(4, generator.dim_z, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        # A new StyleGAN2's noise has no strength yet.
        assert torch.equal(generator.sample(4, labels, torch.Generator().manual_seed(3)), generator(z, labels))
        assert generator(*generator.example()).shape[0] == 2
    assert is_generator(generator)


@pytest.mark.parametrize("classes", [None, "continuous"])
def test_labels_may_be_numbers_or_missing(classes: Any) -> None:
    generator = OfNumbers(classes)
    labels = torch.rand(3) if classes else None
    assert generator.sample(3, labels, torch.Generator()).shape == (3, 1, 8, 8)
    assert [value.dtype for value in generator.example()] == [torch.float32] * (2 if classes else 1)
    assert generator(*generator.example()).shape == (2, 1, 8, 8)


def test_what_makes_no_images_is_no_generator() -> None:
    others = (
        ("small_cnn", {"classes": 3, "image_channels": 1, "image_size": 8}),
        ("biggan_discriminator", {"image_size": 8, "classes": 3}),
    )
    assert not any(is_generator(models.build(name, width=4, **shape)) for name, shape in others)
