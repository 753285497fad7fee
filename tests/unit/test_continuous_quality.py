"""Generated images whose labels are numbers: measured by window of labels, trained, registered, sampled and evaluated."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd import models
from gankd.commands import evaluate, network, sample
from gankd.config import MethodConfig
from gankd.context import Context
from gankd.data import DataConfig, DataSet, Split
from gankd.errors import UserError
from gankd.method import Stage
from gankd.metrics.collapse import collapse
from gankd.metrics.directions import direction
from gankd.metrics.extractors import Extractor, regressor
from gankd.metrics.features import Features, measure
from gankd.metrics.spread import spread
from gankd.metrics.suite import cautions, real_side, suite, windows_of
from gankd.metrics.windows import Windows, windowed_frechet, windowed_spread
from gankd.models.generative import Generative
from gankd.stages import declared
from gankd.stages.checks import check_quality
from gankd.stages.classifier import train_classifier
from gankd.stages.generator import EvaluatedTraining, fit_gan, gan_training
from gankd.stages.quality import extractor_of, generated_labels, measure_real, score_generator, score_network
from gankd.stages.quality import test_generator as measure_on_test
from gankd.stages.sections import ClassifierConfig, ContinuousQualityConfig, GanTrainingConfig, QualityConfig
from gankd.store import Artifact, Store
from gankd.store.artifact import seal
from tests.unit.metric_fixtures import on_threads

LOW, HIGH = -90.0, 90.0
CFG = ContinuousQualityConfig(images=200, batch=64, windows=6, window_radius=15.0, kid_subset_size=20)
FIXTURE = Path(__file__).parents[1] / "fixtures" / "cgan_kd" / "fid_regression.npz"


def generator_at(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Dial(Generative):
    """A grey image as bright as its label says, in degrees, with a stripe that the latent moves, `swing` wide."""

    dim_z, classes = 3, "continuous"

    def __init__(self, swing: float = 0.5, shift: float = 0.0) -> None:
        super().__init__()
        self.swing, self.shift = swing, shift
        self.level = nn.Parameter(torch.tensor(1.0))

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        images = self.level * ((labels + self.shift) / HIGH * 0.9).view(-1, 1, 1, 1).expand(-1, 1, 32, 32).clone()
        images[..., 0] = self.swing * z.tanh().mean(1).view(-1, 1, 1)
        return images


class Gauge(nn.Module):
    """A regressor that reads the brightness beside the stripe off, and the stripe as its second feature."""

    feature_dim = 2

    def features(self, images: Tensor) -> Tensor:
        return torch.stack([images[..., 1:].mean((1, 2, 3)), images[..., 0].mean((1, 2))], 1)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * (self.features(images)[:, :1] / 0.9 + 1)


class Judge(nn.Module):
    """A discriminator of such images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def features(self, images: Tensor) -> Tensor:
        return Gauge.features(self, images)  # type: ignore[arg-type]

    def classify(self, features: Tensor, labels: Tensor) -> Tensor:
        out: Tensor = self.layer(features) + labels[:, None] / HIGH
        return out


class DialTraining(EvaluatedTraining):
    def labels(self, n: int, rng: torch.Generator) -> Tensor:
        return torch.rand(n, generator=rng) * (HIGH - LOW) + LOW


def gauge() -> Extractor:
    return regressor(Gauge(), LOW, HIGH)


def dials(n: int, seed: int = 0, **made: Any) -> Split:
    labels = torch.rand(n, generator=generator_at(seed)) * (HIGH - LOW) + LOW
    with torch.no_grad():
        images = Dial(**made).sample(n, labels, generator_at(seed + 100))
    return Split(images.add(1).mul(127.5).round().to(torch.uint8).numpy(), labels.numpy())


def features(n: int = 300, seed: int = 0, told: float = 0.0, **made: Any) -> Features:
    """Of dials, said to have labels that are `told` too large."""
    part = dials(n, seed, **made)
    return measure(gauge(), [(torch.from_numpy(part.images), torch.from_numpy(part.labels) + told)], n)


def dial_data() -> DataSet:
    train, val, test = dials(64, 0), dials(120, 1), dials(80, 2)
    return DataSet("dials", train, val, test, None, (), "degree", (LOW, HIGH), "d" * 8)


def context(folder: Path, stage: str) -> Context:
    store = Store(folder)
    return Context(stage, f"{stage}-key", 7, store.scratch(f"{stage}-key"), store, torch.device("cpu"), checkpoint_seconds=1e9)


def sealed(ctx: Context, metrics: dict[str, float], config: Any = None) -> Artifact:
    fields = {"metrics": metrics, "stage": ctx.stage, "seed": ctx.seed, "config": config.model_dump() if config else {}}
    return Artifact(ctx.key, ctx.stage, ctx.out, seal(ctx.key, ctx.out, fields))


class Sections(MethodConfig):
    quality: ContinuousQualityConfig = CFG


def reported(stage: Stage) -> set[str]:
    return set(stage.reported(Sections(), "mae"))


def test_windows_are_whole_and_evenly_spaced() -> None:
    labels = torch.tensor([-90.0, 0.0, 20.0, 90.0])
    windows = Windows.over(labels, 3, 30.0)
    assert windows.centres.tolist() == [-60, 0, 60]
    assert windows.counts(labels).tolist() == [1, 2, 1]  # both edges belong to a window
    assert Windows.over(labels, 5).radius == 9
    ages = torch.arange(1.0, 61.0).repeat(3)
    assert Windows.over(ages, 60, 0.0).counts(ages).tolist() == [3] * 60


def test_sliding_fid_is_that_of_the_images_of_a_window() -> None:
    with np.load(FIXTURE, allow_pickle=False) as data:
        real, fake, expected = torch.from_numpy(data["Xr"]), torch.from_numpy(data["Xg"]), float(data["fid"])
    far = torch.randn(5, real.shape[1], generator=generator_at(0), dtype=real.dtype)
    labels = [torch.cat([torch.full((n,), 20.0), torch.full((5,), 50.0)]) for n in (len(real), len(fake))]
    windows = Windows.over(torch.tensor([20.0, 30.0, 50.0]), 3, 0.0)
    sides = [(torch.cat([rows, far]), mine) for rows, mine in zip((real, fake), labels)]
    found = windowed_frechet(*sides, windows)
    assert found == pytest.approx({20.0: expected, 50.0: 0.0}, rel=1e-6, abs=1e-9)  # the window at 35 has no image
    by_class = [(rows, mine.long()) for rows, mine in sides]
    assert windowed_spread(*sides, windows) == spread(*by_class)


def test_the_suite_of_numbers_has_windows_in_place_of_classes() -> None:
    real, fake = features(), features(seed=1)
    found = suite(real, fake, CFG, "regressor")
    assert set(found) | {"feature_classifier_mae"} == reported(declared.quality("quality", of="gan", continuous=True))
    assert found["spread_regressor"] == pytest.approx(1, abs=0.1)
    assert found["label_score_regressor"] < 0.3  # a grey level is 0.4 degrees
    shifted = suite(real, features(seed=1, told=20.0), CFG, "regressor")
    assert shifted["fid_regressor"] == found["fid_regressor"]
    assert shifted["sfid_regressor"] > 10 * found["sfid_regressor"]
    assert shifted["label_score_regressor"] == pytest.approx(20, abs=0.1)
    assert [direction(f"test_{name}_regressor") for name in ("sfid", "label_score")] == ["min", "min"]
    plain = suite(real, fake, QualityConfig(), "x")  # of a section that tells no windows
    assert not any(name.startswith(("sfid", "intra_fid", "spread")) for name in plain)


def test_a_collapse_is_said_of_labels_too() -> None:
    real = features()
    found = suite(real, features(seed=1, swing=0.05), CFG, "regressor")
    assert found["spread_regressor"] < 0.5
    (said,) = collapse(found)
    assert "images of near labels differ by" in said


def test_windows_without_images_are_said_to_be_left_out() -> None:
    real, fake = features(), features(seed=1)
    narrow = CFG.model_copy(update={"windows": 400, "window_radius": 0.0})
    said = cautions(real, fake, "regressor", windows_of(real, narrow))
    assert any("400 of 400 windows of labels have fewer than 2 images" in sentence for sentence in said)
    assert "sfid_regressor" not in suite(real, fake, narrow, "regressor")
    assert cautions(real, fake, "regressor", windows_of(real, CFG)) == []


def test_features_of_numbers_survive_a_file(tmp_path: Path) -> None:
    real, fake = features(), features(seed=1)
    fake.save(tmp_path / "features.safetensors")
    read = Features.load(tmp_path / "features.safetensors")
    assert suite(real, read, CFG, "x") == suite(real, fake, CFG, "x")
    assert real_side(read, "x") == real_side(fake, "x")
    assert set(real_side(read, "regressor")) == reported(declared.real_statistics(continuous=True))


def test_two_workers_end_with_what_one_has() -> None:
    part = dials(90)
    images, labels = torch.from_numpy(part.images), torch.from_numpy(part.labels)
    parts = list(zip(images.split(20), labels.split(20)))
    one = measure(gauge(), parts, 90)
    for found in on_threads(2, lambda worker: measure(gauge(), parts[worker.rank :: 2], 90, ctx=worker)):
        assert torch.equal(found.labels, one.labels)
        assert found.off == pytest.approx(one.off)


def test_labels_are_those_of_real_images_or_spaced_over_their_range() -> None:
    real: Any = SimpleNamespace(labels=torch.tensor([-90.0, 0.0, 0.0, 30.0]), continuous=True)
    drawn = generated_labels(real, 8, generator_at(0))
    assert sorted(drawn.tolist()) == sorted(real.labels.tolist() * 2)
    spaced = generated_labels(real, 5, generator_at(0), "uniform")
    assert sorted(spaced.tolist()) == [-90, -60, -30, 0, 30]
    assert spaced.tolist() != sorted(spaced.tolist())


def test_a_generator_without_labels_has_none_that_could_be_wrong(tmp_path: Path) -> None:
    class Plain(Dial):
        classes = None

        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            return super().forward(z, z[:, 0] * 30)

    found = score_network(context(tmp_path, "quality"), CFG, Plain(), gauge(), features())
    assert found["fid_regressor"] > 0
    assert not any(name.startswith(("sfid", "spread", "label_score", "intra_fid")) for name in found)


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (QualityConfig(), "stage 'quality' needs class labels, but data set 'dials' has labels in degree"),
        (ContinuousQualityConfig(window_radius=91), "window_radius' cannot be 91: .* from -90 to 90 degree, so it is at most 90"),
    ],
)
def test_what_does_not_fit_the_labels_is_refused(cfg: QualityConfig, said: str) -> None:
    check_quality("quality", CFG, dial_data())
    with pytest.raises(UserError, match=said):
        check_quality("quality", cfg, dial_data())


def test_windows_need_numbers() -> None:
    part = Split(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4) % 2)
    classes = DataSet("two", part, part, part, 2, ("a", "b"), "", None, "00000000")
    with pytest.raises(UserError, match="'quality' needs numbers as labels, but data set 'two' has 2 classes"):
        check_quality("quality", CFG, classes)


Made = tuple[DataSet, Artifact, Artifact, Artifact, dict[str, float], Context]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The stages of a method of numbers: feature regressor, real statistics, generator, quality."""
    folder, data = tmp_path_factory.mktemp("made"), dial_data()
    models.allow({"dial": f"{__name__}:Dial"})
    cfg = ClassifierConfig(width=4, epochs=1, batch=16, lr=0.1, flip=False, crop_padding=0)
    ctx = context(folder, "feature_classifier")
    told = sealed(ctx, train_classifier(ctx, cfg, data.without_test()))
    ctx = context(folder, "real_statistics")
    known = sealed(ctx, measure_real(ctx, CFG, data, told))
    ctx = context(folder, "gan")
    pictures: list[Any] = []
    ctx.image = lambda name, picture, step=0: pictures.append((name, picture))  # type: ignore[method-assign]
    knobs = GanTrainingConfig(
        steps=4, batch=8, d_steps=1, ema_start=0, diffaugment=(), flip=False, evaluations=2, sample_grids=1,
        evaluation_images=40, keep="best",
    )  # fmt: skip
    generator = models.build("dial")
    training = gan_training(ctx, knobs, 1e-3, generator, Judge(), data.train, kind=DialTraining)
    gan = sealed(ctx, fit_gan(ctx, training, told, data.val))
    assert [name for name, _ in pictures] == ["sample_grid"]
    rows = np.asarray(pictures[0][1])[:, -1]
    assert rows[5] < rows[len(rows) // 2] < rows[-5]  # the lowest label first
    ctx = context(folder, "quality")
    return data, told, known, gan, score_generator(ctx, CFG, data, told, known, gan=gan), ctx


def test_a_generator_of_numbers_is_trained_and_measured(made: Made) -> None:
    data, told, _, gan, metrics, ctx = made
    assert {"fid_regressor", "sfid_regressor", "label_score_regressor", "spread_regressor", "step"} <= set(gan.metrics)
    assert set(metrics) == reported(declared.quality("quality", of="gan", continuous=True))
    assert metrics["feature_classifier_mae"] == told.metrics["val_mae"] > 0
    assert ctx.basis["regressor"]["labels from"] == data.val.labels.min()
    assert ctx.basis["sfid_regressor"] == {"windows": 6, "window radius": 15.0}
    assert not any("classes" in part for part in ctx.basis.values())
    (report,) = json.loads((ctx.out / "metrics.json").read_text())["by_extractor"].values()
    assert sum(report["sfid"].values()) / len(report["sfid"]) == pytest.approx(metrics["sfid_regressor"])
    assert len(report["windows"]["real"]) == len(report["windows"]["centres"]) == 6
    assert extractor_of(told).tag.startswith("regressor@")


def test_a_generator_of_numbers_is_tested(made: Made, tmp_path: Path) -> None:
    data, told, _, gan, *_ = made
    found = measure_on_test(context(tmp_path, "test_gan"), CFG, data, told, gan=gan)
    assert set(found) == reported(declared.tested_generator("gan", continuous=True))


@pytest.fixture
def registered(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The generator as the registry would give it, of a method whose artifacts lie in a store."""
    data, told, _, gan, _, ctx = made
    measured = sealed(ctx, made[4], CFG)
    kept = {artifact.key: artifact for artifact in (told, gan, measured)}
    tags = {
        "gankd.method": "cgan_kd", "gankd.data_config": DataConfig(name="digits_angle").model_dump_json(), "gankd.key": gan.key,
        "gankd.keys": json.dumps({"quality": measured.key, "feature_classifier": told.key}),
    }  # fmt: skip
    monkeypatch.setattr(network, "fetch", lambda *_: gan.path)
    monkeypatch.setattr(network, "version_tags", lambda *_: tags)
    monkeypatch.setattr(network, "load", lambda *_: data)
    monkeypatch.setattr(evaluate, "_artifact", lambda store, what, key: kept[key])
    return made


def test_a_registered_generator_is_sampled_label_by_label(
    registered: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Tensor] = []
    real = Dial.forward
    monkeypatch.setattr(Dial, "forward", lambda self, z, labels: (asked.append(labels), real(self, z, labels))[1])
    sample.write_samples("dials-generator", tmp_path / "grid.png", 2, 0, "-90, 0,90")
    sample.write_samples("dials-generator", tmp_path / "all.png", 1, 0)
    assert asked[0].tolist() == [-90, -90, 0, 0, 90, 90]
    assert asked[1].tolist() == torch.linspace(-90, 90, 10).tolist()
    for wrong in ("", "a,b", "nan", "1,inf"):
        with pytest.raises(UserError, match=r"--labels .* must be numbers, separated by commas"):
            sample.write_samples("dials-generator", tmp_path / "grid.png", 2, 0, wrong)


@pytest.mark.parametrize(
    ("classes", "labels", "said"),
    [(3, "0,3", "names class 3, .* the classes 0 to 2"), (3, "0.5", "the numbers of classes"), (None, "1", "takes no labels")],
)
def test_labels_that_a_generator_does_not_know_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, classes: Any, labels: str, said: str
) -> None:
    generator = Dial()
    generator.classes = classes
    monkeypatch.setattr(sample, "registered_network", lambda *_: (generator, {}))
    with pytest.raises(UserError, match=said):
        sample.write_samples("digits-generator", tmp_path / "grid.png", 2, 0, labels)


def test_a_registered_generator_is_evaluated_as_the_sweep_did(registered: Made) -> None:
    found = evaluate.evaluate_registered("dials-generator", "store", {})
    assert not isinstance(found, dict)
    rows = dict(zip(found.columns[0].cells, found.columns[1].cells))
    tag = str(found.columns[0]._cells[0]).partition("\\[")[2]
    for title, metric in (("SFID", "sfid"), ("label score", "label_score"), ("FID", "fid")):
        assert rows[f"{title}\\[{tag}"] == f"{registered[4][f'{metric}_regressor']:.4g}"
    assert "mae of the feature classifier on the validation part" in str(found.caption)
    assert "degree" in str(found.caption)
