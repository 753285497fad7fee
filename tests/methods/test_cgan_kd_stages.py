"""Pieces of cGAN-KD's stages: the mixture of a batch, and processed fakes from start to end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd.config import build_config, with_knobs
from gankd.registry import find_method
from methods.cgan_kd.config import CganKdConfig, SamplesConfig, StudentConfig
from methods.cgan_kd.stages import Sampler, fakes_per_batch

METHOD = find_method("cgan_kd")


@pytest.mark.parametrize(
    ("real_per_fake", "workers", "expected"), [(None, 1, 40), (1.0, 1, 30), (2.0, 1, 20), (0.25, 1, 48), (2.0, 8, 24)]
)
def test_the_mixture_of_a_batch(real_per_fake: float | None, workers: int, expected: int) -> None:
    cfg = StudentConfig(batch=60, real_per_fake=real_per_fake)
    assert fakes_per_batch(cfg, n_real=1000, n_fake=2000, workers=workers) == expected


class Levels(nn.Module):
    """A generator of constant images: z decides the grey level, the label is ignored."""

    dim_z = 1

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return z.tanh().view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


class Mean(nn.Module):
    """Features: the mean grey level. Logits: bright images are class 1, dark ones class 0."""

    def features(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return 10 * torch.cat([-self.features(images), self.features(images)], 1)


class Brighter(nn.Module):
    """A ratio that wants images brighter than -0.5 and no others."""

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return (features[:, 0] > -0.5).float()


def make(**knobs: object) -> tuple[np.ndarray, np.ndarray]:
    cfg = SamplesConfig(per_class=200, burn_in=200, filter_burn_in=200, batch=100, **knobs)
    sampler = Sampler(cfg, torch.device("cpu"), Levels(), Mean(), Brighter(), Mean())
    images, labels, _ = sampler.make(1, torch.Generator().manual_seed(0))
    return images.numpy(), labels.numpy()


def test_rejection_removes_what_the_ratio_does_not_want() -> None:
    raw, _ = make(subsampling=False, filter_quantile=1.0)
    kept, labels = make(filter_quantile=1.0)
    assert (raw.mean((1, 2, 3)) < 60).any()
    assert (kept.mean((1, 2, 3)) >= 60).all()
    assert kept.dtype == np.uint8
    assert kept.shape == (200, 1, 4, 4)
    assert (labels == 1).all()


def test_the_filter_keeps_what_the_teacher_agrees_with() -> None:
    loose, _ = make(subsampling=False, filter_quantile=0.9)
    tight, _ = make(subsampling=False, filter_quantile=0.5)
    assert tight.min() > loose.min()


def test_replacement_gives_the_teachers_label() -> None:
    images, labels = make(subsampling=False, filter_quantile=1.0, replace_labels=True)
    assert np.array_equal(labels, (images.mean((1, 2, 3)) > 127).astype(int))
    assert set(labels) == {0, 1}


def test_paper_presets_hold_the_papers_values() -> None:
    def config(preset: str) -> CganKdConfig:
        from gankd.config import read_preset

        return build_config(CganKdConfig, with_knobs(read_preset(METHOD.presets, preset), {}))

    cifar, imagenet = config("cifar100"), config("imagenet100")
    assert (cifar.student.lr, cifar.student.batch, cifar.student.steps, cifar.student.fakes) == (0.01, 128, 281_280, 100_000)
    assert (cifar.biggan.steps, cifar.biggan.batch, cifar.biggan.d_steps, cifar.biggan.g_lr) == (38_000, 512, 4, 2e-4)
    assert (cifar.samples.filter_quantile, cifar.density_ratio.lam, cifar.extractor.epochs) == (0.9, 0.01, 350)
    assert (imagenet.biggan.network, imagenet.biggan.width, imagenet.biggan.attention) == ("biggan_deep", 128, (64,))
    assert (imagenet.student.batch, imagenet.biggan.d_lr, imagenet.data.image_size) == (256, 4e-4, 128)
