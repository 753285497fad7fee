"""The stages of cGAN-KD that are its own, in the order of the paper's workflow figure.

D^g, the generator's fakes -> M1 (`subsampling`) -> D^g_s -> M2 (`filtering`) -> D~^g_rho -> M3 (`transfer`): the student.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import normalise, to_uint8
from gankd.engine import train
from gankd.stages.classifier import build_classifier, fit_classifier, load_network
from gankd.store.artifact import Artifact
from methods.cgan_kd.config import AssistantConfig, DensityRatioConfig, ExtractorConfig, SamplesConfig, StudentConfig
from methods.cgan_kd.filtering import TeacherFilter
from methods.cgan_kd.subsampling import DensityRatioTraining, RejectionSampler
from methods.cgan_kd.transfer import SoftTargets, fit_student, select_per_class


def train_assistant(ctx: Context, cfg: AssistantConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """TAKD's first hop, on real images alone, so that the control is TAKD itself. Makes a saved network."""
    network = build_classifier(cfg, data)  # drawn before the teacher is loaded, so that it does not depend on it
    return fit_classifier(ctx, cfg, data, network, partial(SoftTargets, teacher=load_network(teacher, ctx.device)))


def train_extractor(ctx: Context, cfg: ExtractorConfig, data: DataSet) -> dict[str, float]:
    """phi: a classifier whose wide inner layer is the feature. It sees [-1, 1], as the ratio net's fakes are."""
    return fit_classifier(ctx, cfg, data, build_classifier(cfg, data, trunk=cfg.trunk, dropout=cfg.dropout))


def train_density_ratio(
    ctx: Context, cfg: DensityRatioConfig, data: DataSet, biggan: Artifact, extractor: Artifact
) -> dict[str, float]:
    """M1, psi: fit the density ratio between real and generated features. Makes a saved network."""
    ctx.share(cfg.batch)
    training = DensityRatioTraining(ctx, cfg, data, load_network(biggan, ctx.device), load_network(extractor, ctx.device))
    metrics = train(ctx, training, steps=training.steps, batch=cfg.batch)
    models.save(training.psi, ctx.out)
    return metrics


@dataclass(frozen=True)
class ProcessedClass:
    """Processed fakes of one class: uint8 images (n, C, H, W), int64 labels (n,), and how M1 got them."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    draws: int
    tested: int
    accepted: int


@dataclass
class Fakes:
    """Processed fakes, one class at a time, by generator, phi, psi and teacher with the knobs of M1 and M2."""

    cfg: SamplesConfig
    device: torch.device
    generator: Any
    extractor: Any
    psi: Any
    teacher: Any

    def draw(self, label: int, n: int, rng: torch.Generator) -> Tensor:
        """D^g: `n` fakes of class `label`, (n, C, H, W) in [-1, 1], on grey levels that uint8 can hold."""
        images = self.generator.sample(n, torch.full((n,), label, device=self.device), rng)
        # psi and the teacher rate what the student will see: the stored grey levels.
        return normalise(to_uint8(images, truncate=self.cfg.reference_compat))

    def ratio(self, label: int, images: Tensor) -> Tensor:
        """psi(phi(images), label), (n,)."""
        features = self.extractor.features(images)
        ratios: Tensor = self.psi(features, torch.full((len(images),), label, device=self.device))
        return ratios

    @torch.no_grad()
    def process(self, ctx: Context, label: int) -> ProcessedClass:
        """D^g -> M1 -> D^g_s -> M2 -> D~^g_rho of class `label`."""
        cfg, rng = self.cfg, ctx.rng(label, device="cpu")
        subsampled = RejectionSampler(cfg, f"class {label}", partial(self.draw, label), partial(self.ratio, label), rng)
        filtered = TeacherFilter(cfg, label, subsampled.sample, self.teacher)
        if cfg.filter_quantile < 1 or cfg.replace_labels:
            images, labels = filtered.sample(cfg.per_class)
        else:
            images = subsampled.sample(cfg.per_class)
            labels = torch.full((len(images),), label)
        ctx.log({"acceptance": subsampled.acceptance_rate, "ratio_bound": subsampled.bound}, step=label)
        counts = subsampled.draws, subsampled.tested, subsampled.accepted
        return ProcessedClass(to_uint8(images).cpu().numpy(), labels.cpu().numpy(), *counts)


def make_samples(
    ctx: Context, cfg: SamplesConfig, data: DataSet,
    biggan: Artifact, extractor: Artifact, density_ratio: Artifact, teacher: Artifact,
) -> dict[str, float]:  # fmt: skip
    """M1 and M2 for every class. Makes images.npy uint8 (N, C, H, W) and labels.npy int64 (N,), rows grouped by class."""
    classes = data.classes or 0
    fakes = Fakes(cfg, ctx.device, *(load_network(each, ctx.device) for each in (biggan, extractor, density_ratio, teacher)))
    mine = {}
    for label in range(ctx.rank, classes, ctx.world_size):
        mine[label] = fakes.process(ctx, label)
        ctx.progress(label + 1, classes)
    by_label = {label: part for parts in ctx.gather(mine) for label, part in parts.items()}
    ordered = [by_label[label] for label in range(classes)]
    np.save(ctx.out / "images.npy", np.concatenate([part.images for part in ordered]))
    np.save(ctx.out / "labels.npy", np.concatenate([part.labels for part in ordered]))
    acceptance = sum(part.accepted for part in ordered) / sum(part.tested for part in ordered)
    return {"acceptance": acceptance, "draws": float(sum(part.draws for part in ordered))}


def train_student(
    ctx: Context, cfg: StudentConfig, data: DataSet,
    baseline: Artifact, samples: Artifact, teacher: Artifact | None = None, assistant: Artifact | None = None,
) -> dict[str, float]:  # fmt: skip
    """M3: the student on real and processed fake images. Makes a saved network."""
    return fit_student(ctx, cfg, data, models.load(baseline.path), chosen_fakes(ctx, cfg, data, samples), teacher or assistant)


def chosen_fakes(ctx: Context, cfg: StudentConfig, data: DataSet, made: Artifact) -> Split:
    """`cfg.fakes` of the images that a stage has made, evenly over the classes; 0 = all."""
    labels = torch.tensor(made.array("labels.npy"))
    chosen = np.arange(len(labels))
    if cfg.fakes:
        chosen = select_per_class(labels, cfg.fakes, data.classes or 0, ctx.rng(0, "fakes", device="cpu")).numpy()
    return Split(np.asarray(made.array("images.npy")[chosen]), np.asarray(labels[chosen]))


def train_control(
    ctx: Context, cfg: StudentConfig, data: DataSet,
    baseline: Artifact, teacher: Artifact | None = None, assistant: Artifact | None = None,
) -> dict[str, float]:  # fmt: skip
    """The control: the same student, the same start, the same steps, real images only."""
    return fit_student(ctx, cfg, data, models.load(baseline.path), None, teacher or assistant)
