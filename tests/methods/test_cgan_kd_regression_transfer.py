"""M1, M2 and M3 for labels that are numbers: phi, psi, rejection, the teacher's filter and labels, the choice of fakes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd.config import build_config, read_preset
from gankd.data import DataConfig, DataSet, Split, load
from gankd.engine import train
from gankd.errors import StageFailed, UserError
from gankd.models import build
from gankd.models.generative import Generative
from gankd.registry import find_method
from gankd.stages.task import Continuous
from methods.cgan_kd.subsampling import softplus_ratio_loss
from methods.cgan_kd_regression.autoencoder import EvenLabels, sparse_autoencoder_loss
from methods.cgan_kd_regression.checks import check_training
from methods.cgan_kd_regression.config import CganKdRegressionConfig, LabelRatioConfig, SamplesConfig
from methods.cgan_kd_regression.density_ratio import LabelRatio, LabelRatioTraining, Zeta
from methods.cgan_kd_regression.filtering import adjusted, answers, smallest_errors
from methods.cgan_kd_regression.stages import Fakes, chosen_fakes, label_values
from tests.methods.rgal_fixtures import context

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
METHOD = find_method("cgan_kd_regression")
TASKS = {"steer": Continuous(-88.13, 97.92, "degree"), "utk": Continuous(0, 60, "year")}


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# The networks, against the reference's numbers.


def test_loss_of_the_sparse_autoencoder() -> None:
    v = fixture("sparse_ae_loss")
    weights = float(v["lambda_sparsity"]), float(v["lambda_regression"])
    terms = sparse_autoencoder_loss(v["features"], v["recon"], v["real_norm"].double(), v["pred"], v["labels"], *weights)
    assert sum(terms.values()).item() == pytest.approx(float(v["loss"]), rel=1e-6)


@pytest.mark.parametrize(("size", "channels"), [(64, 3), (32, 3), (16, 1)])
def test_the_autoencoder_gives_back_images_and_a_place(size: int, channels: int) -> None:
    network = build("sparse_autoencoder", image_channels=channels, image_size=size, width=4).eval()
    images = torch.rand(2, channels, size, size) * 2 - 1
    features = network.features(images)
    assert features.shape == (2, channels * size**2) == (2, network.feature_dim)
    assert features.min() >= 0
    assert network.decoder(features).shape == images.shape
    assert network(images).shape == (2, 1)


def test_the_papers_parameter_counts() -> None:
    with torch.device("meta"):
        network, ratio = build("sparse_autoencoder"), LabelRatio(12_288, 128)
    parts = (network.encoder, network.decoder, network.predictor, ratio)
    counts = [sum(p.numel() for p in part.parameters()) for part in parts]
    assert counts == [52_722_240, 52_230_787, 13_243_905, 13_416_321]


def test_the_ratio_of_the_reference_with_the_embedding_before_the_feature() -> None:
    v = fixture("cdr_mlp_regression")
    widths = [len(v[f"w_main_{layer}_weight"]) for layer in (0, 4)]
    network = LabelRatio(v["x_feature"].shape[1], v["label_embedding"].shape[1], widths, output="relu").eval()
    names = (key.removeprefix("w_main_").split("_") for key in v if key.startswith("w_main_"))
    network.load_state_dict({f"layers.{layer}.{kind}": v[f"w_main_{layer}_{kind}"] for layer, kind in names})
    ratios = network(v["x_feature"], v["label_embedding"])
    np.testing.assert_allclose(ratios.detach(), v["out"][:, 0], rtol=1e-4, atol=1e-6)


# M2, against the reference and as we do it.


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("percent", [70, 90, 100])
@pytest.mark.parametrize("replace", [False, True])
def test_the_references_filter_and_labels(name: str, percent: int, replace: bool) -> None:
    v = fixture("filter_regression")
    asked = v[f"{name}_assigned"]
    told = answers(TASKS[name], v[f"{name}_pred_norm_raw"][:, None], truncate=name == "utk")
    np.testing.assert_allclose((told - asked).abs(), v[f"{name}_abs_err"], rtol=1e-4, atol=1e-4)
    kept, labels = adjusted(asked, told, percent / 100, replace=replace, reference_compat=True)
    case = f"{name}_q{percent}_adj{int(replace)}"
    assert kept.threshold == pytest.approx(float(v[f"{case}_cutoff"]), rel=1e-4)
    assert kept.rows.tolist() == v[f"{case}_kept_index"].tolist()
    np.testing.assert_allclose(labels, v[f"{case}_labels"], rtol=1e-4, atol=1e-4)


def test_the_share_that_is_asked_for_is_kept_also_of_equal_errors() -> None:
    def rows(errors: list[float], quantile: float, **how: bool) -> list[int]:
        return smallest_errors(torch.tensor(errors, dtype=torch.float64), quantile, **how).rows.tolist()

    rising = [float(e) for e in range(10)]
    assert [len(rows(rising, q)) for q in (0.7, 0.9, 1.0)] == [7, 9, 10]
    assert [len(rows(rising, q, reference_compat=True)) for q in (0.7, 0.9, 1.0)] == [7, 9, 9]
    assert rows([5, *[1] * 8, 0], 0.7) == [1, 2, 3, 4, 5, 6, 9]
    assert (len(rows([0] * 10, 0.7)), rows([0] * 10, 0.7, reference_compat=True)) == (7, [])


def test_answers_stay_inside_the_range_and_ages_are_not_truncated() -> None:
    assert answers(TASKS["utk"], torch.tensor([[-0.1], [0.499], [1.2]])).tolist() == pytest.approx([0, 29.94, 60])
    assert answers(TASKS["utk"], torch.tensor([[0.499]]), truncate=True).tolist() == [29]


# M1, with a generator that paints its label and networks that read it.


class Painter(Generative):
    """The label of 0..10 is the grey level, and the latent a mistake: one in four images shows a label that is 4 higher."""

    classes, dim_z = "continuous", 1
    mistake = 4.0

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        shown = labels + self.mistake * (z[:, 0] > 0.6745)
        return (shown / 10 - 1).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)  # -1 for 0, 1 for 20


class Reader(nn.Module):
    """phi: the label that is shown, and its place in 0..10."""

    feature_dim = 1

    def features(self, images: Tensor) -> Tensor:
        return 10 * (images.mean((2, 3)) + 1)

    def predictor(self, features: Tensor) -> Tensor:
        return features / 10

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor(self.features(images))


class Itself(nn.Module):
    """The embedding of a label: the label."""

    dim = 1

    def forward(self, labels: Tensor) -> Tensor:
        return labels[:, None]


class Right(nn.Module):
    """A ratio that wants images of their label and no others."""

    zeta = 0.0

    def forward(self, features: Tensor, embedded: Tensor) -> Tensor:
        return ((features - embedded).abs()[:, 0] < 0.5).float()


TASK = Continuous(0, 10, "")


def subsampled(folder: Path, psi: Any = None, **knobs: Any) -> Tensor:
    """The labels that 200 fakes of label 3 show."""
    cfg = SamplesConfig(per_label=200, burn_in=50, batch=100, **knobs)
    fakes = Fakes(cfg, TASK, torch.device("cpu"), False, Itself(), Painter(), Reader(), psi or Right(), Reader())
    found = fakes.subsample(context(folder, "samples"), 7, 3.0)
    assert found.images.shape == (200, 1, 4, 4)
    assert found.images.dtype == np.uint8
    shown = torch.from_numpy(found.images[:, 0, 0, 0] / 12.75)
    torch.testing.assert_close(found.told.double(), shown, atol=1e-3, rtol=0)  # the teacher judges what is stored
    return shown


def test_rejection_for_one_label(tmp_path: Path) -> None:
    raw, kept = subsampled(tmp_path, subsampling=False), subsampled(tmp_path)
    assert 0.1 < (raw > 5).double().mean() < 0.4
    assert (kept < 5).all()


class Indifferent(nn.Module):
    """A ratio that wants all images, fitted with fakes of labels up to 1 away."""

    zeta = 1.0

    def forward(self, features: Tensor, embedded: Tensor) -> Tensor:
        return torch.ones(len(features))


def test_with_zeta_fakes_are_of_near_labels_that_the_extractor_tells(tmp_path: Path) -> None:
    near = subsampled(tmp_path, Indifferent())
    assert near.min() >= 1.9
    assert near.max() <= 4.1
    assert near.std() > 0.4
    raw = subsampled(tmp_path, Indifferent(), subsampling=False)
    assert len(raw.unique()) == 2  # of the label itself, or the mistake
    assert Zeta(TASK, 1.0).asked(torch.tensor([0.0, 10.0]), torch.tensor([0.0, 1.0])).tolist() == [0, 10]


def painted(labels: np.ndarray) -> DataSet:
    grey = np.round(labels * 12.75).astype(np.uint8)
    part = Split(grey.reshape(-1, 1, 1, 1).repeat(4, 2).repeat(4, 3), labels.astype(np.float32))
    return DataSet("painted", part, part, part, None, (), "", (0.0, 10.0), "0")


def ratio_training(folder: Path, **knobs: Any) -> LabelRatioTraining:
    data = painted(np.arange(11).repeat(5))
    cfg = LabelRatioConfig(widths=(64,), epochs=80, batch=40, lr=1e-2, dropout=0.0, **knobs)
    ctx = context(folder, "density_ratio")
    ctx.seed_layers(-1)
    return LabelRatioTraining(ctx, cfg, data, Itself(), Painter(), Reader())


def test_the_ratio_that_is_learned_falls_where_the_generator_errs(tmp_path: Path) -> None:
    training = ratio_training(tmp_path)
    train(training.ctx, training, steps=training.steps, batch=40)
    label = torch.full((2,), 5.0)
    right, wrong = training.psi.eval()(torch.tensor([[5.0], [9.0]]), Itself()(label)).tolist()
    assert right > 3 * wrong


def test_training_with_zeta_leaves_out_what_is_told_outside(tmp_path: Path) -> None:
    labels = torch.arange(11.0).repeat(8)[:40]
    near = ratio_training(tmp_path, zeta=-1.0, zeta_rounds=1).fake_features(labels, seeded())
    assert 0.5 < near[1].double().mean() < 0.95
    again = ratio_training(tmp_path, zeta=-1.0, zeta_rounds=6).fake_features(labels, seeded())
    assert again[1].all()
    assert (again[0][:, 0] - labels).abs().max() <= 1
    lost = ratio_training(tmp_path, zeta=-1.0, zeta_rounds=2)
    lost.extractor.predictor = lambda features: features / 10 + 5
    with pytest.raises(
        StageFailed, match=r"tells no fake's label within 1 of the one asked for, in 2 rounds: raise density_ratio"
    ):
        lost.step(0, seeded())


def test_zeta_of_nothing_draws_what_there_was_without_it(tmp_path: Path) -> None:
    training = ratio_training(tmp_path)
    _, labels = training.real.batch(40, seeded(1))
    features, near = training.fake_features(labels, seeded(2))
    z = training.generator.latents(40, seeded(2))
    assert near.all()
    assert torch.equal(features, Reader().features(training.generator(z, labels)))
    loss = training.step(0, seeded(1))["loss"]
    assert math.isfinite(float(loss))
    assert softplus_ratio_loss(torch.ones(2), torch.ones(2)).item() == pytest.approx(-1.3132617)


def test_every_label_is_as_likely_whatever_its_images() -> None:
    labels = np.concatenate([np.zeros(90), np.full(9, 5.0), [10.0]]).astype(np.float32)
    data = painted(labels)
    images, drawn = EvenLabels(data.train, torch.device("cpu"), flip=False).batch(3000, seeded())
    assert [round(float((drawn == label).double().mean()), 1) for label in (0, 5, 10)] == [0.3, 0.3, 0.3]
    torch.testing.assert_close(Reader().features(images)[:, 0], drawn, atol=0.1, rtol=0)


def test_which_labels_fakes_are_made_of() -> None:
    data = painted(np.array([2.0, 2, 2, 2, 3, 4, 5, 8]))
    assert label_values(SamplesConfig(labels=5), data).tolist() == [0, 2.5, 5, 7.5, 10]
    assert label_values(SamplesConfig(spread="distinct"), data).tolist() == [2, 3, 4, 5, 8]
    assert label_values(SamplesConfig(spread="quantiles", labels=3), data).tolist() == [2, 2.5, 8]


# M3 and what is wrong.


def test_fakes_are_chosen_at_random_and_once() -> None:
    some = chosen_fakes(50, 20, seeded())
    assert len(set(some.tolist())) == 20
    assert some.tolist() == sorted(some.tolist()) == chosen_fakes(50, 20, seeded()).tolist()
    assert some.tolist() != chosen_fakes(50, 20, seeded(1)).tolist()
    assert chosen_fakes(50, 0, seeded()).tolist() == chosen_fakes(50, 70, seeded()).tolist() == list(range(50))


def test_paper_presets_hold_the_papers_values() -> None:
    def config(preset: str) -> CganKdRegressionConfig:
        return build_config(CganKdRegressionConfig, read_preset(METHOD.presets, preset))

    steering, ages = config("steering_angle"), config("utkface")
    assert (steering.teacher.network, ages.teacher.network) == ("vgg19", "vgg13")
    assert (steering.ccgan.d_steps, steering.ccgan.kappa, steering.ccgan.steps, steering.ccgan.batch) == (2, -5, 20_000, 512)
    assert (ages.ccgan.d_steps, ages.ccgan.kappa, ages.ccgan.steps) == (4, -2, 20_000)
    for each in (steering, ages):
        assert (each.samples.filter_quantile, each.samples.replace_labels, each.density_ratio.lam) == (0.7, True, 0.01)
        assert (each.baseline.head, each.baseline.lr, each.baseline.epochs, each.student.lr) == ((512, 512), 0.01, 350, 0.01)
    assert (steering.samples.labels, steering.samples.per_label, steering.samples.burn_in) == (2000, 50, 500)
    assert (ages.samples.spread, ages.samples.per_label, ages.samples.burn_in) == ("distinct", 2000, 100)
    assert (steering.student.fakes, ages.student.fakes) == (50_000, 60_000)
    assert (steering.student.flip, ages.student.flip) == (False, True)


def test_classes_are_refused() -> None:
    with pytest.raises(UserError, match=r"needs numbers as labels, but data set 'digits' has 10 classes"):
        check_training("density_ratio", LabelRatioConfig(), load(DataConfig()))
