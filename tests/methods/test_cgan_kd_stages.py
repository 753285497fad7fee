"""Processed fakes from start to end, through M1 and M2, and the grey levels that they are kept in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd.config import build_config, with_knobs
from gankd.data.augment import to_uint8
from gankd.models.generative import Generative
from gankd.registry import find_method
from methods.cgan_kd.config import CganKdConfig, SamplesConfig
from methods.cgan_kd.stages import Fakes
from tests.methods.rgal_fixtures import context

METHOD = find_method("cgan_kd")
FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


class Levels(Generative):
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


def make(folder: Path, **knobs: object) -> tuple[np.ndarray, np.ndarray]:
    cfg = SamplesConfig(per_class=200, burn_in=200, filter_burn_in=200, batch=100, **knobs)
    fakes = Fakes(cfg, torch.device("cpu"), Levels(), Mean(), Brighter(), Mean())
    processed = fakes.process(context(folder, "samples"), 1)
    return processed.images, processed.labels


def test_rejection_removes_what_the_ratio_does_not_want(tmp_path: Path) -> None:
    raw, _ = make(tmp_path, subsampling=False, filter_quantile=1.0)
    kept, labels = make(tmp_path, filter_quantile=1.0)
    assert (raw.mean((1, 2, 3)) < 60).any()
    assert (kept.mean((1, 2, 3)) >= 60).all()
    assert kept.dtype == np.uint8
    assert kept.shape == (200, 1, 4, 4)
    assert (labels == 1).all()


def test_the_filter_keeps_what_the_teacher_agrees_with(tmp_path: Path) -> None:
    loose, _ = make(tmp_path, subsampling=False, filter_quantile=0.9)
    tight, _ = make(tmp_path, subsampling=False, filter_quantile=0.5)
    assert tight.min() > loose.min()


def test_replacement_gives_the_teachers_label(tmp_path: Path) -> None:
    images, labels = make(tmp_path, subsampling=False, filter_quantile=1.0, replace_labels=True)
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


def test_reference_uint8_truncates() -> None:
    with np.load(FIXTURES / "uint8_denorm.npz", allow_pickle=False) as values:
        tanh, expected = torch.from_numpy(values["tanh_out"]), values["uint8"]
    levels = to_uint8(tanh, truncate=True)
    assert levels.tolist() == expected.tolist()
    assert to_uint8(torch.tensor([-1, 0, 0.5, 1]), truncate=True).tolist() == [0, 127, 191, 255]


def test_rounding_returns_every_level_and_has_no_bias() -> None:
    levels = torch.arange(256)
    assert torch.equal(to_uint8(levels / 127.5 - 1), levels.to(torch.uint8))
    images = torch.rand(100_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = (images * 0.5 + 0.5) * 255
    assert (to_uint8(images) - exact).mean().abs() < 0.01
    assert (to_uint8(images, truncate=True) - exact).mean().item() == pytest.approx(-0.5, abs=0.01)
    assert to_uint8(torch.tensor([-1.2, 1.2])).tolist() == [0, 255]
