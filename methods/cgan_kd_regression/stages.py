"""The stages of cGAN-KD for labels that are numbers, after the GAN's, in the order of the paper's workflow figure.

D^g, the generator's fakes -> M1 -> D^g_s -> M2: the teacher's filter -> D~^g_rho, and its labels -> D^^g_rho -> M3: the student.
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
from gankd.pictures import scatter
from gankd.stages.classifier import load_network
from gankd.stages.task import Continuous, task_of
from gankd.store.artifact import Artifact
from methods.cgan_kd.subsampling import RejectionSampler
from methods.cgan_kd.transfer import fit_student
from methods.cgan_kd_regression.config import LabelRatioConfig, SamplesConfig, StudentConfig
from methods.cgan_kd_regression.density_ratio import LabelRatioTraining, Zeta
from methods.cgan_kd_regression.filtering import adjusted, answers


def train_density_ratio(
    ctx: Context, cfg: LabelRatioConfig, data: DataSet, label_embedding: Artifact, ccgan: Artifact, extractor: Artifact
) -> dict[str, float]:
    """M1, psi: fit the density ratio between real and generated features. Makes a saved network."""
    ctx.share(cfg.batch)
    networks = (load_network(each, ctx.device) for each in (label_embedding, ccgan, extractor))
    training = LabelRatioTraining(ctx, cfg, data, *networks)
    metrics = train(ctx, training, steps=training.steps, batch=cfg.batch)
    models.save(training.psi, ctx.out)
    return metrics


@dataclass(frozen=True)
class SubsampledLabel:
    """D^g_s of one label: uint8 images (n, C, H, W), the teacher's labels of them (n,), and how M1 got them."""

    images: NDArray[np.uint8]
    told: Tensor
    draws: int
    tested: int
    accepted: int


@dataclass
class Fakes:
    """Fakes after M1, one label at a time, with what the teacher says of them."""

    cfg: SamplesConfig
    task: Continuous
    device: torch.device
    truncate_answers: bool
    embedding: Any
    generator: Any
    extractor: Any
    psi: Any
    teacher: Any

    @property
    def zeta(self) -> Zeta:
        """The vicinity that psi was fitted with, where it rejects."""
        return Zeta(self.task, self.psi.zeta if self.cfg.subsampling else 0.0)

    def draw(self, label: float, n: int, rng: torch.Generator) -> Tensor:
        """D^g: `n` fakes of `label`, or near it, (n, C, H, W) in [-1, 1], on grey levels that uint8 can hold."""
        labels = torch.full((n,), label)
        if self.zeta.radius:
            labels = self.zeta.asked(labels, torch.rand(n, generator=rng, device=rng.device))
        images = self.generator.sample(n, labels, rng)
        # psi and the teacher rate what the student will see: the stored grey levels.
        return normalise(to_uint8(images, truncate=self.cfg.reference_compat))

    def ratio(self, label: float, images: Tensor) -> Tensor:
        """psi(phi(images), h(label)), (n,); 0 outside the label's vicinity, so that such a fake is not accepted."""
        features, labels = self.extractor.features(images), torch.full((len(images),), label, device=self.device)
        ratios: Tensor = self.psi(features, self.embedding(labels))
        return ratios * self.zeta.holds(self.extractor, features, labels)

    @torch.no_grad()
    def subsample(self, ctx: Context, number: int, label: float) -> SubsampledLabel:
        """D^g -> M1 -> D^g_s of the label with this number."""
        named = f"the label {label:.5g} {self.task.unit}".rstrip()
        rng = ctx.rng(number, device="cpu")
        sampler = RejectionSampler(self.cfg, named, partial(self.draw, label), partial(self.ratio, label), rng)
        images = sampler.sample(self.cfg.per_label)
        told = torch.cat([self.teacher(part) for part in images.split(self.cfg.batch)])
        ctx.log({"acceptance": sampler.acceptance_rate, "ratio_bound": sampler.bound}, step=number)
        counts = sampler.draws, sampler.tested, sampler.accepted
        labels = answers(self.task, told, truncate=self.truncate_answers).cpu()
        return SubsampledLabel(to_uint8(images).cpu().numpy(), labels, *counts)


def label_values(cfg: SamplesConfig, data: DataSet) -> Tensor:
    """The labels that fakes are made of, ascending, float32 (n,), in their unit."""
    real = torch.tensor(data.train.labels)
    if cfg.spread == "distinct":
        return real.unique()
    if cfg.spread == "quantiles":
        return real.quantile(torch.linspace(0, 1, cfg.labels))
    assert data.label_range is not None
    return torch.linspace(*data.label_range, cfg.labels)


def make_samples(
    ctx: Context, cfg: SamplesConfig, data: DataSet,
    label_embedding: Artifact, ccgan: Artifact, extractor: Artifact, density_ratio: Artifact, teacher: Artifact,
) -> dict[str, float]:  # fmt: skip
    """M1 for every label, then M2 for all. Makes images.npy uint8 (N, C, H, W) and labels.npy float32 (N,), by ascending label
    asked for. Metrics, of M2 in the label's unit: the mean error of the teacher before, and the largest after, the filter."""
    task = task_of(data)
    assert isinstance(task, Continuous)
    whole = bool((data.train.labels == np.round(data.train.labels)).all())
    networks = (load_network(each, ctx.device) for each in (label_embedding, ccgan, extractor, density_ratio, teacher))
    fakes = Fakes(cfg, task, ctx.device, cfg.reference_compat and whole, *networks)
    values, mine = label_values(cfg, data), {}
    for number in range(ctx.rank, len(values), ctx.world_size):
        mine[number] = fakes.subsample(ctx, number, float(values[number]))
        ctx.progress(number + 1, len(values))
    by_number = {number: part for parts in ctx.gather(mine) for number, part in parts.items()}
    ordered = [by_number[number] for number in range(len(values))]
    asked, told = values.repeat_interleave(cfg.per_label), torch.cat([part.told for part in ordered])
    kept, labels = adjusted(asked, told, cfg.filter_quantile, replace=cfg.replace_labels, reference_compat=cfg.reference_compat)
    np.save(ctx.out / "images.npy", np.concatenate([part.images for part in ordered])[kept.rows.numpy()])
    np.save(ctx.out / "labels.npy", labels.numpy())
    ctx.image("answers", scatter(asked, told, "asked for", "the teacher's answer", task.unit))
    return {
        "acceptance": sum(part.accepted for part in ordered) / sum(part.tested for part in ordered),
        "draws": float(sum(part.draws for part in ordered)),
        "fakes": float(len(labels)),
        "error": float((told - asked).abs().mean()),
        "threshold": kept.threshold,
    }


def train_student(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact, samples: Artifact) -> dict[str, float]:
    """M3: the student on real and processed fake images. Makes a saved network."""
    labels = samples.array("labels.npy")
    chosen = chosen_fakes(len(labels), cfg.fakes, ctx.rng(0, "fakes", device="cpu"))
    fakes = Split(np.asarray(samples.array("images.npy")[chosen]), np.asarray(labels[chosen]))
    return fit_student(ctx, cfg, data, models.load(baseline.path), fakes)


def chosen_fakes(count: int, wanted: int, rng: torch.Generator) -> NDArray[np.int64]:
    """Ascending rows of `wanted` of `count` fakes, drawn without replacement; all where 0 are wanted, or more than there are."""
    order = torch.randperm(count, generator=rng)
    return (order[:wanted] if wanted else order).sort().values.numpy()


def train_control(ctx: Context, cfg: StudentConfig, data: DataSet, baseline: Artifact) -> dict[str, float]:
    """The control: the same student, the same start, the same steps, real images only."""
    return fit_student(ctx, cfg, data, models.load(baseline.path), None)
