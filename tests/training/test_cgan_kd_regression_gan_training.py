"""Training of the label embedding and of CcGAN on turned bars: what is drawn, what trains, what is kept, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd import models
from gankd.config import build_config
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.engine import train
from gankd.errors import UserError
from gankd.stages.classifier import train_classifier
from gankd.stages.sections import ClassifierConfig
from gankd.store import Store
from gankd.store.artifact import Artifact, seal
from methods.cgan_kd_regression.ccgan import CcganTraining, VicinalBatch, build_ccgan, train_ccgan
from methods.cgan_kd_regression.gan_checks import check_ccgan, check_label_embedding
from methods.cgan_kd_regression.gan_config import CcganConfig, LabelEmbeddingConfig
from methods.cgan_kd_regression.label_embedding import LabelEmbeddingTraining, train_label_embedding

PACKAGE = "methods.cgan_kd_regression"
models.allow(
    {
        "label_embedding": f"{PACKAGE}.label_embedding:LabelEmbedding",
        "fourier_features": f"{PACKAGE}.label_embedding:FourierFeatures",
        "sagan": f"{PACKAGE}.sagan:Generator",
        "sagan_discriminator": f"{PACKAGE}.sagan:Discriminator",
    }
)
EMBEDDING = LabelEmbeddingConfig(
    dim=32, trunk="small", width=4, epochs=16, batch=16, label_epochs=40, label_batch=16, lr=0.05, weight_decay=0.0
)
GAN = CcganConfig(
    width=8, dim_z=4, steps=4, batch=8, d_steps=2, sample_grids=2, diffaugment=("translation",), precision="fp32", ema_decay=0.5
)


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Bars of 16 px turned by an angle in degrees; 80 of them to train on."""
    angles = np.random.default_rng(0).uniform(-90, 90, 96).astype(np.float32)
    y, x = np.mgrid[-7.5:8.5, -7.5:8.5] / 8
    turned = np.radians(angles)[:, None, None]
    bars = np.exp(-((x * np.sin(turned) + y * np.cos(turned)) ** 2) * 20) * 255
    train, val = (Split(bars[part, None].astype(np.uint8), angles[part]) for part in (slice(80), slice(80, None)))
    return DataSet("bars", train, val, None, None, (), "degree", (-90.0, 90.0), "bars")


def context(folder: Path, stage: str, seconds: float = 1e9) -> Context:
    ctx = Context(stage, stage, 0, folder / stage, Store(folder / "store"), torch.device("cpu"), checkpoint_seconds=seconds)
    ctx.out.mkdir(parents=True, exist_ok=True)
    ctx.seed_layers(-1)
    return ctx


@pytest.fixture(scope="module")
def embedded(data: DataSet, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("embedding")
    return folder / "label_embedding", train_label_embedding(context(folder, "label_embedding"), EMBEDDING, data)


def embedding_training(folder: Path, data: DataSet, kind: type[LabelEmbeddingTraining] = LabelEmbeddingTraining) -> Any:
    cfg = EMBEDDING.model_copy(update={"epochs": 2, "label_epochs": 2})
    return kind(context(folder, "label_embedding", 0), cfg, data)


def gan_training(
    folder: Path, data: DataSet, embedded: Path, kind: type[CcganTraining] = CcganTraining, **knobs: Any
) -> CcganTraining:
    cfg = GAN.model_copy(update=knobs)
    training = kind(context(folder, "ccgan", 0), cfg, *build_ccgan(cfg, data, models.load(embedded)), data)
    training.evaluation = cast(Any, Unevaluated())
    return training


class Unevaluated:
    """What `fit_gan` would set."""

    def at(self, step: int, *, eligible: bool) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        assert state == {}


def state(one: Any) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for name, module in one.modules.items() for key, value in module.state_dict().items()}


def equal(one: Any, other: Any) -> bool:
    return all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def sealed(ctx: Context, metrics: dict[str, float]) -> Artifact:
    fields = {"metrics": metrics, "stage": ctx.stage, "seed": ctx.seed, "config": {}}
    return Artifact(ctx.key, ctx.stage, ctx.out, seal(ctx.key, ctx.out, fields))


class Stopped(Exception):
    pass


def stopping(kind: type[Any], at: int) -> type[Any]:
    """A training that ends before its step `at`."""

    def step(self: Any, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        if number == at:
            raise Stopped
        found: dict[str, Tensor] = kind.step(self, number, rng)
        return found

    return type("Stopping", (kind,), {"step": step})


def test_the_embedding_is_learned_and_tells_its_labels(embedded: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = embedded
    embedding = models.load(folder)
    assert embedding.recipe == {"name": "label_embedding", "low": -90.0, "high": 90.0, "dim": 32}
    assert metrics["parameters"] == sum(p.numel() for p in embedding.parameters())
    assert metrics["val_mae"] < 30  # 45 by answering 0 always
    assert metrics["label_mae"] < 10
    assert embedding(torch.tensor([-90.0, 0, 90])).shape == (3, 32)


def test_fixed_features_of_the_label_need_no_training(data: DataSet, tmp_path: Path) -> None:
    cfg = LabelEmbeddingConfig(kind="fourier", frequencies=3)
    metrics = train_label_embedding(ctx := context(tmp_path, "label_embedding"), cfg, data)
    assert metrics == {"parameters": 0}
    embedding = models.load(ctx.out)
    assert embedding.recipe == {"name": "fourier_features", "low": -90.0, "high": 90.0, "dim": 6}
    one = gan_training(tmp_path, data, ctx.out)
    labels = torch.tensor([-90.0, 12, 90])
    for network in (one.generator, one.discriminator):
        assert torch.equal(network.embedding(labels), embedding(labels))
    losses = one.step(0, torch.Generator().manual_seed(0))
    assert all(bool(torch.isfinite(loss)) for loss in losses.values())
    models.save(one.generator, tmp_path / "kept")
    kept = models.load(tmp_path / "kept")
    z = torch.randn(3, 4)
    torch.testing.assert_close(kept.eval()(z, labels), one.generator.eval()(z, labels))
    assert not torch.allclose(kept(z[:1], labels[:1]), kept(z[:1], labels[2:]))  # the label is heard


def test_knobs_of_the_kind_that_is_not_used_change_no_key() -> None:
    assert LabelEmbeddingConfig(kind="fourier").inert() >= {"dim", "epochs", "trunk", "lr", "precision"}
    assert not {"kind", "frequencies"} & LabelEmbeddingConfig(kind="fourier").inert()
    assert LabelEmbeddingConfig().inert() == {"frequencies", "width"}
    assert LabelEmbeddingConfig(trunk="small").inert() == {"frequencies"}


@pytest.mark.parametrize("at", [7, 15])  # in either network's part
def test_an_interrupted_embedding(at: int, data: DataSet, tmp_path: Path) -> None:
    one = embedding_training(tmp_path / "one", data)
    steps = one.image_steps + one.label_steps
    assert (one.image_steps, steps) == (10, 20)
    expected = train(one.ctx, one, steps=steps, batch=16)
    stopped = embedding_training(tmp_path / "two", data, stopping(LabelEmbeddingTraining, at))
    with pytest.raises(Stopped):
        train(stopped.ctx, stopped, steps=steps, batch=16)
    other = embedding_training(tmp_path / "two", data)
    assert train(other.ctx, other, steps=steps, batch=16) == expected
    assert equal(one, other)


def test_an_interrupted_ccgan(data: DataSet, embedded: tuple[Path, Any], tmp_path: Path) -> None:
    one = gan_training(tmp_path / "one", data, embedded[0])
    train(one.ctx, one, steps=4, batch=8)
    stopped = gan_training(tmp_path / "two", data, embedded[0], stopping(CcganTraining, 2))
    with pytest.raises(Stopped):
        train(stopped.ctx, stopped, steps=4, batch=8)
    other = gan_training(tmp_path / "two", data, embedded[0])
    train(other.ctx, other, steps=4, batch=8)
    assert equal(one, other)


def test_the_discriminator_is_told_centres_and_fakes_are_made_for_their_own_labels(
    data: DataSet, embedded: tuple[Path, Any], tmp_path: Path
) -> None:
    one = gan_training(tmp_path, data, embedded[0])
    asked: list[Tensor] = []
    told: list[Tensor] = []
    drawn: list[Any] = []
    generator, classify, draw = one.generator.forward, one.discriminator.classify, one.draw
    one.generator.forward = lambda z, labels: (asked.append(labels), generator(z, labels))[1]
    one.discriminator.classify = lambda features, labels: (told.append(labels), classify(features, labels))[1]
    one.draw = lambda *of, **by: (drawn.append(draw(*of, **by)), drawn[-1])[1]  # type: ignore[method-assign]
    losses = one.step(0, one.ctx.rng(0))
    assert {"loss_discriminator_real", "loss_discriminator_fake", "loss_generator"} == losses.keys()
    first, second, last = drawn
    for batch, made, seen in zip((first, second), asked, told):
        assert isinstance(batch, VicinalBatch)
        assert torch.equal(made, cast(Tensor, batch.asked))
        assert torch.equal(seen, torch.cat([batch.fake_labels] * 2))
        assert torch.equal(batch.fake_labels, cast(Tensor, batch.real_labels))
        radius = one.vicinal.vicinity.radius * 180
        assert 0 < float((made - batch.fake_labels).abs().max()) <= radius + 1e-3
        # The real images' labels, told from the images themselves.
        index = [int((torch.tensor(data.train.images).float() / 127.5 - 1 - image).abs().sum((1, 2, 3)).argmin()) for image in cast(Tensor, batch.reals)]  # fmt: skip # noqa: E501
        near = torch.tensor(data.train.labels[index])
        assert float((near - batch.fake_labels).abs().max()) <= radius + 1e-3
        weights = torch.exp(-(((near - batch.fake_labels) / 180 / one.vicinal.vicinity.width) ** 2))
        torch.testing.assert_close(batch.real_weights, weights, rtol=1e-3, atol=1e-4)
    assert torch.equal(asked[-1], last.fake_labels)
    assert torch.equal(told[-1], last.fake_labels)


def test_the_embedding_is_frozen_and_the_generator_is_whole(data: DataSet, embedded: tuple[Path, Any], tmp_path: Path) -> None:
    told = ClassifierConfig(network="small_cnn", width=4, epochs=2, batch=16, flip=False, crop_padding=0)
    regressor = sealed(regressor_ctx := context(tmp_path, "feature_classifier"), train_classifier(regressor_ctx, told, data))
    ctx = context(tmp_path, "ccgan")
    embedding = sealed(replace(context(tmp_path, "label_embedding"), out=embedded[0]), embedded[1])
    metrics = train_ccgan(ctx, GAN, data, embedding, regressor)
    made, label = models.load(ctx.out), models.load(embedded[0])
    assert all(torch.equal(value, made.embedding.state_dict()[name]) for name, value in label.state_dict().items())
    assert made.classes == "continuous"
    assert made.label_range == (-90, 90)
    assert made.sample(2, torch.tensor([-30.0, 30]), torch.Generator().manual_seed(0)).shape == (2, 1, 16, 16)
    assert metrics["radius"] == pytest.approx(2.6282609 * 5 * float(np.diff(np.sort(data.train.labels)).max()), rel=1e-4)
    assert metrics["sigma"] == pytest.approx(1.06 * float(data.train.labels.std()) * 80**-0.2, rel=1e-4)
    assert metrics["step"] == 4


def test_mode_seeking_sees_each_label_twice(data: DataSet, embedded: tuple[Path, Any], tmp_path: Path) -> None:
    one = gan_training(tmp_path, data, embedded[0], mode_seeking=1.0)
    assert "loss_mode_seeking" in one.step(0, one.ctx.rng(0))
    labels = one.draw(0, one.ctx.rng(0), reals=False).fake_labels
    assert torch.equal(labels[::2], labels[1::2])
    assert not torch.equal(labels[:-2:2], labels[2::2])


@pytest.mark.parametrize("world", [1, 2])
def test_workers_share_one_draw(world: int, data: DataSet, embedded: tuple[Path, Any], tmp_path: Path) -> None:
    parts = []
    for rank in range(world):
        one = gan_training(tmp_path / str(rank), data, embedded[0])
        one.ctx.rank, one.ctx.world_size, one.rows = rank, world, slice(rank * 8 // world, (rank + 1) * 8 // world)
        one.chooser = one.ctx.rng(0, "labels", device="cpu")
        parts.append(one.draw(0, one.ctx.rng(0), reals=True))
    whole = gan_training(tmp_path / "whole", data, embedded[0])
    whole.chooser = whole.ctx.rng(0, "labels", device="cpu")
    expected = vars(whole.draw(0, whole.ctx.rng(0), reals=True))
    assert all(torch.equal(torch.cat([vars(part)[name] for part in parts]), value) for name, value in expected.items())


# What is refused before anything trains.


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"kappa": 0.0}, "kappa cannot be 0"),
        ({"transition": (0.2, 0.5)}, "labels here are numbers"),
        ({"kappa": 1.5}, "knob 'kappa' cannot be 1.5"),
        ({"soft_cut": 0.0}, "knob 'soft_cut' cannot be 0"),
    ],
)
def test_knobs_that_are_refused(knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        build_config(CcganConfig, knobs)


def test_data_that_is_refused(data: DataSet) -> None:
    classes = replace(data, classes=3, label_range=None)
    one_label = replace(data, train=Split(data.train.images, np.full(80, 5, np.float32)))
    odd = replace(data, train=Split(data.train.images[:, :, :12, :12], data.train.labels))
    small = replace(data, train=data.train.take(np.arange(7)))
    for set_of, sentence in (
        (classes, r"'bars' has 3 classes: store them .*astype\('float32'\)"),
        (one_label, "all of the 80 training images of data set 'bars' have 5"),
        (odd, "16, 32, 64 px, but data set 'bars' has 12 px"),
        (small, "more than the 7 training images"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_ccgan("ccgan", GAN, set_of)
    with pytest.raises(UserError, match="stage 'label_embedding' needs numbers"):
        check_label_embedding("label_embedding", EMBEDDING, classes)
    check_ccgan("ccgan", GAN, data)
    check_label_embedding("label_embedding", EMBEDDING, data)


def test_knobs_that_change_nothing() -> None:
    assert {"soft_cut", "ema_start", "sample_grids"} <= CcganConfig(vicinity="hard").inert()
    assert not {"soft_cut", "ema_start"} & CcganConfig(ema_decay=0.99).inert()
    assert "width" in LabelEmbeddingConfig().inert()
    assert "width" not in EMBEDDING.inert()
