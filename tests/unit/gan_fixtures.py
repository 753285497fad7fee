"""A small GAN on noise, for tests of its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from gankd.context import Context
from gankd.models import build
from gankd.stages.gan import GANTraining
from gankd.stages.sections import GanTrainingConfig

CLASSES = 3


def reals(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.randint(CLASSES, (n,), generator=rng)
    return torch.rand(n, 1, 8, 8, generator=rng) * 2 - 1, labels


def context(rank: int = 0, world_size: int = 1) -> Context:
    return Context("gan", "key", 0, Path(), cast(Any, None), torch.device("cpu"), rank, world_size)


def networks(seed: int = 0) -> tuple[Any, Any]:
    torch.manual_seed(seed)
    kwargs = {"image_size": 8, "classes": CLASSES, "image_channels": 1, "width": 8, "init": "ortho"}
    return build("biggan", dim_z=8, **kwargs), build("biggan_discriminator", **kwargs)


def training(seed: int = 0, kind: type[GANTraining] = GANTraining, further: Any = None, **knobs: Any) -> GANTraining:
    """`knobs` of its section; `further`: keyword arguments of `GANTraining`."""
    cfg = GanTrainingConfig(**({"batch": 4, "d_steps": 2, "ema_start": 0, "diffaugment": ()} | knobs))
    return kind(context(), cfg, 2e-4, *networks(seed), reals, **(further or {}))


def generator_at(step: int) -> torch.Generator:
    return torch.Generator().manual_seed(step)
