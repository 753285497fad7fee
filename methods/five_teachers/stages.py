"""What the comparison adds to the stages of the five methods: the choice of a sampler, and of what the student is taught by."""

from __future__ import annotations

import json
from typing import Any

from gankd import models
from gankd.config import Selection
from gankd.context import Context
from gankd.data import DataSet
from gankd.stages.quality import CLASSES
from gankd.stages.sections import GanConfig
from gankd.store.artifact import Artifact
from methods.cgan_kd import stages as cgan_kd
from methods.cgan_kd.config import DensityRatioConfig, SamplesConfig
from methods.cgan_kd.stages import chosen_fakes
from methods.cgan_kd.transfer import fit_student
from methods.five_teachers.config import LessonConfig, SamplerConfig
from methods.kd_dlgan import stages as kd_dlgan
from methods.kd_dlgan.config import KdConfig


def embed_data(ctx: Context, cfg: KdConfig, data: DataSet, gan: Selection, text_teacher: Artifact) -> dict[str, float]:
    """KD-DLGAN's, with the image-text teacher."""
    return kd_dlgan.embed_data(ctx, cfg, data, gan, text_teacher)


def train_taught_gan(
    ctx: Context, cfg: GanConfig, data: DataSet, kd: KdConfig,
    text_teacher: Artifact, embeddings: Artifact, feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """KD-DLGAN's GAN, with the image-text teacher."""
    return kd_dlgan.train_gan(ctx, cfg, data, kd, text_teacher, embeddings, feature_classifier)


def choose_sampler(
    ctx: Context, cfg: SamplerConfig, data: DataSet,
    gan: Artifact | None = None, pretrain: Artifact | None = None, ft: Artifact | None = None, taught_gan: Artifact | None = None,
) -> dict[str, float]:  # fmt: skip
    """The generator of all classes by `sampler.kind`. Makes a saved network.

    Of the transferred kind the old classes' images come from the GAN that was pretrained on them, the new ones' from the other.
    """
    whole = gan or taught_gan
    models.save(models.load(whole.path) if whole else joined(pretrain, ft), ctx.out)
    return {}


def joined(*artifacts: Artifact | None) -> Any:
    """Generators of some classes each, together of all, as one."""
    made = [artifact for artifact in artifacts if artifact is not None]
    parts = [models.load(artifact.path) for artifact in made]
    numbers = [json.loads(artifact.file(CLASSES).read_text()) for artifact in made]
    whole = models.build("by_class", parts=[part.recipe for part in parts], numbers=numbers)
    for own, part in zip(whole.parts, parts, strict=True):
        own.load_state_dict(part.state_dict())
    return whole


def train_density_ratio(
    ctx: Context, cfg: DensityRatioConfig, data: DataSet, sampler: Artifact, extractor: Artifact
) -> dict[str, float]:
    """cGAN-KD's psi, of the sampler that was chosen."""
    return cgan_kd.train_density_ratio(ctx, cfg, data, sampler, extractor)


def make_samples(
    ctx: Context, cfg: SamplesConfig, data: DataSet,
    sampler: Artifact, extractor: Artifact, density_ratio: Artifact, teacher: Artifact,
) -> dict[str, float]:  # fmt: skip
    """cGAN-KD's M1 and M2, of the sampler that was chosen."""
    return cgan_kd.make_samples(ctx, cfg, data, sampler, extractor, density_ratio, teacher)


def train_student(
    ctx: Context, cfg: LessonConfig, data: DataSet,
    baseline: Artifact | None = None, samples: Artifact | None = None, inversion: Artifact | None = None,
    encoder: Artifact | None = None, teacher: Artifact | None = None,
) -> dict[str, float]:  # fmt: skip
    """The student by its lesson, in as many steps as any other. Makes a saved network."""
    made = samples or inversion
    fakes = chosen_fakes(ctx, cfg, data, made) if made else None
    start = models.load(baseline.path) if baseline else as_classifier(data, encoder)
    return fit_student(ctx, cfg, data, start, fakes, teacher)


def as_classifier(data: DataSet, encoder: Artifact | None) -> Any:
    """An encoder's network, with a fresh last layer."""
    assert encoder is not None
    body = models.load(encoder.path).network
    network = models.build(**{**body.recipe, "classes": data.classes})
    kept = {name: tensor for name, tensor in body.state_dict().items() if not name.startswith("linear.")}
    network.load_state_dict({**network.state_dict(), **kept})
    return network
