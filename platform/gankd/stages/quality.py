"""How good a generator is, on the validation part, in the features of a classifier of the same data."""

from __future__ import annotations

import torch

from gankd.artifact import Artifact
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.metrics.frechet import frechet_distance, moments
from gankd.stages.classifier import load_network
from gankd.stages.sections import QualityConfig


@torch.no_grad()
def score_generator(ctx: Context, cfg: QualityConfig, data: DataSet, biggan: Artifact, extractor: Artifact) -> dict[str, float]:
    """Frechet distance to the validation images in the extractor's features, and how often the extractor sees the class.

    `fid_extractor` compares generators of the same data and extractor only; it is not the FID of Inception features.
    """
    generator, phi = load_network(biggan, ctx.device), load_network(extractor, ctx.device)
    rng = ctx.rng(0)
    real = torch.cat([phi.features(images) for images, _ in Resident(data.val, ctx.device).in_order(cfg.batch)])
    fake, right, made = [], 0, 0
    while made < cfg.images:
        n = min(cfg.batch, cfg.images - made)
        labels = torch.arange(made, made + n, device=ctx.device) % generator.classes
        images = generator(torch.randn(n, generator.dim_z, generator=rng, device=rng.device), labels)
        fake.append(phi.features(images))
        right += int((phi(images).argmax(1) == labels).sum())
        made += n
    distance = frechet_distance(*moments(real), *moments(torch.cat(fake)))
    return {"fid_extractor": distance, "class_accuracy": 100 * right / made}
