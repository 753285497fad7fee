"""From which old classes a new one starts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.context import Context
from gankd.data import Split
from gankd.data.augment import Resident
from gankd.errors import UserError
from methods.cgan_transfer.config import BnConfig

IMAGES = 64  # of a class, at most, that are compared


def start_scores(ctx: Context, cfg: BnConfig, images: Split, generator: Any, discriminator: Any) -> Tensor | None:
    """Scores (M, N) of the old classes that a new class starts from; None for a random start.

    Nearest: old classes whose generated images are most like the new class's real ones, by the mean of the pretrained
    discriminator's features. That needs no old image and no further network.
    """
    old, device = int(generator.classes), ctx.device
    new = int(images.labels.max()) + 1
    if cfg.start == "random":
        return None
    if cfg.start == "uniform":
        return torch.full((new, old), 1 / old, device=device)
    if cfg.neighbours > old:
        raise UserError(f"knob 'bn.neighbours' cannot be {cfg.neighbours}: there are {old} old classes")
    similarity = class_similarity(ctx, images, generator, discriminator)
    chosen = similarity.topk(cfg.neighbours, dim=1).indices
    return torch.zeros(new, old, device=device).scatter_(1, chosen, 1 / cfg.neighbours)


@torch.no_grad()
def class_similarity(ctx: Context, images: Split, generator: Any, discriminator: Any) -> Tensor:
    """(M, N): cosine of a new and an old class's mean features, both taken from the mean over the old classes."""
    generator, discriminator = generator.eval(), discriminator.eval()
    real, rng = Resident(images, ctx.device), ctx.rng(0, "start")
    old = []
    for label in range(generator.classes):
        fakes = generator.sample(IMAGES, torch.full((IMAGES,), label, device=ctx.device), rng)
        old.append(discriminator.features(fakes).mean(0))
    new = []
    for label in range(int(images.labels.max()) + 1):
        index = (real.labels == label).nonzero()[:IMAGES, 0]
        new.append(discriminator.features(real.take(index)[0]).mean(0))
    olds, news = torch.stack(old), torch.stack(new)
    centre = olds.mean(0)
    # New classes are shifted alike from all old ones (real against generated); that shift says nothing about the class.
    shift = news.mean(0) - centre if len(news) > 1 else torch.zeros_like(centre)
    return F.normalize(news - centre - shift, dim=1) @ F.normalize(olds - centre, dim=1).t()
