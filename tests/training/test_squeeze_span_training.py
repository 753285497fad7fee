"""The stages of Squeeze & Span at the size of the smoke preset: every recipe, resuming, the pool, and what must stay as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd import models
from gankd.config import build_config, read_preset, with_knobs
from gankd.context import Context
from gankd.data import DataSet, load
from gankd.data.augment import Resident, normalise, to_uint8
from gankd.naming import stage_keys
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.stages.classifier import load_network
from gankd.store import Store
from gankd.store.artifact import Artifact
from methods.squeeze_span import stages
from methods.squeeze_span.config import RECIPES, SqueezeSpanConfig, form
from methods.squeeze_span.linear import LinearTraining
from methods.squeeze_span.losses import Weights, spread
from methods.squeeze_span.networks import SqueezeModule, Standardised, Student, mlp
from methods.squeeze_span.pool import Pool, Rows, bits, numbers, statistics
from methods.squeeze_span.pretraining import Pretraining, squeeze_and_span
from methods.squeeze_span.teacher import Teacher

METHOD = find_method("squeeze_span")


def config(**knobs: Any) -> SqueezeSpanConfig:
    tree = with_knobs(read_preset(METHOD.presets, "smoke"), {name.replace("__", "."): value for name, value in knobs.items()})
    return build_config(SqueezeSpanConfig, tree)


def bring_about(folder: Path, wanted: tuple[str, ...], **knobs: Any) -> dict[str, float]:
    job = Job(
        "squeeze_span", config(**knobs).model_dump(mode="json"), str(folder), stages=wanted, threads=1, checkpoint_seconds=0
    )
    return run(job)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(config().data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the generator and the pool of the smoke preset."""
    folder = tmp_path_factory.mktemp("squeeze_span")
    bring_about(folder, ("gan", "pool"))
    return folder


def artifact(folder: Path, stage: str, data: DataSet, **knobs: Any) -> Artifact:
    made = Store(str(folder)).get(stage_keys(METHOD, config(**knobs), data.fingerprint)[stage])
    assert made is not None
    return made


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    return Context("encoder", "encoder-0", 0, tmp_path, Store(str(tmp_path / "store")), torch.device("cpu"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_ends_in_a_linear_probe(storage: Path, recipe: str) -> None:
    found = bring_about(storage, ("encoder", "linear", "test_linear"), encoder__recipe=recipe)
    assert 0 <= found["test_linear/test_accuracy"] <= found["test_linear/test_top5"] <= 100
    assert found["linear/lr"] in config().linear.lrs


@pytest.mark.parametrize(
    "knobs",
    [
        {"encoder__fresh": True},
        {"encoder__renew": 0.5},
        {"encoder__augmentation": "batch"},
        {"encoder__forward": "concatenated"},
        {"encoder__regularise_teacher": True},
        {"encoder__standardise": True},
        {"encoder__recalibrate": True},
        {"encoder__blur": 0.5, "encoder__grey": 0.2, "encoder__flip": True},
        {"encoder__network": "resnet18_cifar", "encoder__width": 0, "encoder__epochs": 1},
        {"linear__augment": True},
        {"linear__optimiser": "lars"},
    ],
    ids=lambda knobs: " ".join(knobs),
)
def test_every_way_makes_something_else(storage: Path, data: DataSet, knobs: dict[str, Any]) -> None:
    bring_about(storage, ("linear",))
    bring_about(storage, ("linear",), **knobs)
    first, other = (artifact(storage, "linear", data, **each).file("model.safetensors").read_bytes() for each in ({}, knobs))
    assert first != other


def test_a_bigganas_teacher_is_marked_as_one_that_has_seen_labels(tmp_path: Path, data: DataSet) -> None:
    knobs = {"gan__network": "biggan", "gan__width": 4, "gan__loss": "hinge", "encoder__standardise": True}
    bring_about(tmp_path, ("linear",), **knobs)
    assert "has seen the labels" in artifact(tmp_path, "gan", data, **knobs).manifest["notes"][0]
    recipe = {"encoder__recipe": "discriminator_multi"}
    bring_about(tmp_path, ("linear",), **knobs, **recipe)


@pytest.mark.parametrize("knobs", [{}, {"encoder__renew": 0.4, "encoder__epochs": 4}, {"encoder__recipe": "simsiam_mixed"}])
def test_a_resumed_encoder_is_bitwise_the_undisturbed_one(
    storage: Path, tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch, knobs: dict[str, Any]
) -> None:
    bring_about(storage, ("encoder",), **knobs)
    undisturbed = artifact(storage, "encoder", data, **knobs).file("model.safetensors").read_bytes()
    bring_about(tmp_path, ("gan", "pool"))
    step = Pretraining.step

    def dies(self: Pretraining, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        if number == self.steps - 2:
            raise KeyboardInterrupt
        return step(self, number, rng)

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            bring_about(tmp_path, ("encoder",), **knobs)
    bring_about(tmp_path, ("encoder",), **knobs)
    assert artifact(tmp_path, "encoder", data, **knobs).file("model.safetensors").read_bytes() == undisturbed


def test_a_restart_goes_on_and_does_not_begin_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    step = Pretraining.step

    def counted(self: Pretraining, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        steps.append(number)
        if steps.count(number) == 1 and number == self.steps - 2:
            raise KeyboardInterrupt
        return step(self, number, rng)

    monkeypatch.setattr(Pretraining, "step", counted)
    with pytest.raises(KeyboardInterrupt):
        bring_about(tmp_path, ("encoder",))
    bring_about(tmp_path, ("encoder",))
    assert steps == [0, 1, 2, 3, 4, 4, 5]


def test_what_a_recipe_does_not_open_is_not_made(tmp_path: Path) -> None:
    bring_about(tmp_path, ("linear",), encoder__recipe="vicreg_real")
    bring_about(tmp_path, ("linear",), encoder__recipe="random")
    made = {folder.name.rpartition("-")[0] for folder in (tmp_path / "artifacts").iterdir()}
    assert made == {"data", "encoder", "linear"}
    bring_about(tmp_path, ("encoder",), encoder__fresh=True)
    assert not list((tmp_path / "artifacts").glob("pool-*"))


def test_trials_are_compared_by_epochs(ctx: Context, data: DataSet) -> None:
    cfg = config(encoder__recipe="vicreg_real").encoder
    training = stages.pretraining(ctx, cfg, data, stages.build_encoder(cfg, data), None, None, None)
    assert training.clock(training.steps) == cfg.epochs
    assert training.clock(training.steps_an_epoch) == 1


def test_strength_is_the_squeezes_alone() -> None:
    def weights(**knobs: Any) -> list[float]:
        cfg = config(encoder__strength=10.0, **knobs).encoder
        return [form(cfg, name) for name in ("distillation", "variance", "covariance")]

    assert weights() == weights(encoder__recipe="squeeze") == [10, 10, 1]
    assert weights(encoder__recipe="squeeze_variance") == [10, 10, 0]
    assert weights(encoder__recipe="vanilla") == weights(encoder__recipe="squeeze_unregularised") == [1, 0, 0]
    assert weights(encoder__recipe="vicreg_mixed") == [25, 25, 1]
    assert weights(encoder__distillation=3.0) == [3, 10, 1]


def test_running_the_generator_otherwise_keeps_nothing(storage: Path, data: DataSet) -> None:
    teacher = Teacher(load_network(artifact(storage, "gan", data)))
    z = torch.randn(2, teacher.generator.dim_z)
    teacher.generator(z)
    assert teacher._seen is None
    assert len(teacher.generate(2, torch.Generator()).features) == len(teacher.widths)
    assert teacher._seen is None


def test_the_control_does_not_look_at_what_is_generated(data: DataSet) -> None:
    before = stage_keys(METHOD, config(), data.fingerprint)
    for knob, value in {"encoder__alpha": 0.25, "encoder__squeeze_depth": 1, "pool__images": 50, "gan__steps": 5}.items():
        after = stage_keys(METHOD, config(**{knob: value}), data.fingerprint)
        assert after["control"] == before["control"]
        assert after["encoder"] != before["encoder"]
    assert stage_keys(METHOD, config(encoder__lr=0.1), data.fingerprint)["control"] != before["control"]


def test_real_images_alone_need_no_generator(data: DataSet) -> None:
    keys = [stage_keys(METHOD, config(encoder__recipe="vicreg_real", gan__steps=s), data.fingerprint)["encoder"] for s in (4, 5)]
    assert keys[0] == keys[1]


# The teacher and the pool.


def test_a_teacher_gives_the_mean_of_each_block_and_stays_as_it_is(storage: Path, data: DataSet) -> None:
    network: Any = load_network(artifact(storage, "gan", data))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps: list[Tensor] = []
    teacher = Teacher(network)
    for block in network.teaching_blocks():
        block.register_forward_hook(lambda module, inputs, output: maps.append(output[0]))
    made, again = (teacher.generate(6, torch.Generator().manual_seed(3)) for _ in range(2))
    assert [each.shape[1] for each in made.features] == teacher.widths
    for one, map_, other in zip(made.features, maps, again.features, strict=False):
        torch.testing.assert_close(one, map_.mean((2, 3)))
        assert torch.equal(one, other)
    assert torch.equal(made.images, again.images)
    assert made.images.min() >= -1
    assert made.images.max() <= 1
    assert not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_pool_holds_what_the_teacher_made(storage: Path, data: DataSet, ctx: Context) -> None:
    rows, teacher = Rows.of(artifact(storage, "pool", data)), Teacher(load_network(artifact(storage, "gan", data)))
    maker = Context("pool", "pool-0", 0, ctx.out, ctx.store, ctx.device)
    cfg = config().pool
    for number, start in enumerate(range(0, cfg.images, cfg.batch)):
        made = teacher.generate(cfg.batch, maker.rng(number, "pool"))
        part = slice(start, start + cfg.batch)
        assert torch.equal(torch.from_numpy(rows.images[part].copy()), to_uint8(made.images))
        assert torch.equal(torch.from_numpy(rows.features[part].copy()), bits(torch.cat(made.features, 1)))
        torch.testing.assert_close(numbers(torch.from_numpy(rows.latents[part].copy())), made.latent, rtol=2**-8, atol=1e-6)
    drawn = Pool(ctx, rows, teacher.widths).draw(10, 0)
    index = torch.randint(cfg.images, (10,), generator=ctx.rng(0, "from the pool", device="cpu"))
    assert torch.equal(drawn.images, normalise(torch.from_numpy(rows.images[index.numpy()])))
    mean, deviation = statistics(rows.features, ctx.device)
    features = numbers(torch.from_numpy(np.array(rows.features)))
    torch.testing.assert_close(mean, features.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(deviation, features.std(0, correction=0), rtol=1e-4, atol=1e-5)


def test_a_pool_is_renewed_by_epochs_and_the_same_after_a_leap(storage: Path, data: DataSet, ctx: Context) -> None:
    kept = artifact(storage, "pool", data)

    def pool() -> Pool:
        teacher = Teacher(models.load(artifact(storage, "gan", data).path))
        return Pool(ctx, Rows.of(kept), teacher.widths, 0.3, teacher, steps_an_epoch=2)

    walked, leapt = pool(), pool()
    before = walked.rows.images.copy()
    walked.draw(4, 3)
    changed = (walked.rows.images != before).any((1, 2, 3))
    assert changed[: walked.renewed].all()
    assert not changed[walked.renewed :].any()
    for step in range(4, 16):
        walked.draw(4, step)
    leapt.draw(4, 15)
    for one, other in zip(walked.rows.all(), leapt.rows.all(), strict=True):
        assert np.array_equal(one, other)
    assert (walked.rows.images != before).any((1, 2, 3)).all()


def test_workers_share_what_one_would_draw(storage: Path, data: DataSet, ctx: Context) -> None:
    rows, widths = Rows.of(artifact(storage, "pool", data)), [8, 4]
    whole = Pool(ctx, rows, widths).draw(8, 5)
    parts = []
    for rank in range(2):
        worker = Context("encoder", "encoder-0", 0, ctx.out, ctx.store, ctx.device, rank=rank, world_size=2)
        parts.append(Pool(worker, rows, widths).draw(8, 5))
    assert torch.equal(torch.cat([each.images for each in parts]), whole.images)
    assert torch.equal(torch.cat([each.features[1] for each in parts]), whole.features[1])


# What is learned.


def test_without_regularisers_the_representation_collapses_and_with_them_it_does_not() -> None:
    def trained(weights: Weights, lr: float) -> tuple[float, float]:
        torch.manual_seed(0)
        student = Student(nn.Flatten(), mlp(12, 16, 8, 3, last_bias=False))
        squeeze = SqueezeModule([6, 4], 16, 8, 3)
        optimizer = torch.optim.SGD([*student.parameters(), *squeeze.parameters()], lr, momentum=0.9, weight_decay=5e-4)
        for _ in range(250):
            features = torch.randn(64, 10)
            images = torch.cat([features, features[:, :2]], 1).view(64, 3, 2, 2) + 0.3 * torch.randn(64, 3, 2, 2)
            terms, z = squeeze_and_span(student, squeeze, images, features.split([6, 4], 1), [], weights, 1.0)
            optimizer.zero_grad()
            terms["loss_squeeze"].backward()
            optimizer.step()
        return float(spread(z)), float(spread(squeeze(features.split([6, 4], 1))))

    assert max(trained(Weights(1.0, 0.0, 0.0), lr=0.05)) < 0.05
    assert min(trained(Weights(25.0, 25.0, 1.0), lr=0.05 / 25)) > 0.7


def test_generated_images_are_augmented_one_by_one_or_all_alike(ctx: Context, data: DataSet) -> None:
    same = torch.rand(1, 1, 8, 8).expand(16, -1, -1, -1) * 2 - 1

    def views(augmentation: str) -> Tensor:
        cfg = config(encoder__augmentation=augmentation).encoder
        backbone = stages.build_encoder(cfg, data)
        student = Student(backbone, mlp(backbone.feature_dim, 8, 8, 2, last_bias=False))
        training = Pretraining(ctx, cfg, data, student, None, None)
        return training.of_generated(same, ctx.rng(0))

    assert len(views("sample").flatten(1).unique(dim=0)) > 12
    assert len(views("batch").flatten(1).unique(dim=0)) == 1


def test_recalibrated_statistics_are_those_of_the_real_images(data: DataSet) -> None:
    encoder = stages.build_encoder(config().encoder, data)
    real = Resident(data.train)
    stages.recalibrate(encoder, real)
    seen: list[Tensor] = []
    norm = next(module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d))
    norm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    encoder.eval()(real.take(torch.arange(len(real)))[0])
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    assert norm.momentum == 0.1


def test_a_discriminators_features_of_an_image_do_not_depend_on_its_neighbours(storage: Path, data: DataSet) -> None:
    for multi in (False, True):
        encoder = stages.discriminator_encoder(data, artifact(storage, "gan", data), multi=multi).eval()
        images, _ = Resident(data.train).take(torch.arange(20))
        with torch.no_grad():
            torch.testing.assert_close(
                encoder(images), torch.cat([encoder(images[:3]), encoder(images[3:])]), rtol=1e-4, atol=1e-5
            )
        assert encoder.feature_dim == encoder(images[:1]).shape[1]


def test_learning_rates_that_are_tried_at_once_do_not_touch_each_other(storage: Path, data: DataSet, tmp_path: Path) -> None:
    bring_about(storage, ("encoder",))
    store = Store(str(tmp_path))
    linear = Context("linear", "linear-0", 0, tmp_path, store, torch.device("cpu"))
    heads = []
    for rates in ((0.3,), (0.3, 3.0)):
        training = LinearTraining(
            linear, config(linear__lrs=rates).linear, data, load_network(artifact(storage, "encoder", data))
        )
        for step in range(training.steps):
            training.step(step, linear.rng(step))
        heads.append(training.heads.heads[0].state_dict())
    for name, value in heads[0].items():
        torch.testing.assert_close(heads[1][name], value, rtol=1e-5, atol=1e-6)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    features = 3 + 5 * torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    seen: list[Tensor] = []

    class Look(nn.Module):
        def forward(self, maps: list[Tensor]) -> Tensor:
            seen.extend(maps)
            return torch.cat(list(maps), 1)

    module = Standardised(Look(), [4, 2], *statistics(bits(features).numpy(), torch.device("cpu")))
    row = module(features.split([4, 2], 1))
    assert [each.shape[1] for each in seen] == [4, 2]
    torch.testing.assert_close(row.mean(0), torch.zeros(6), rtol=0, atol=0.02)
    torch.testing.assert_close(row.std(0), torch.ones(6), rtol=0, atol=0.02)


def test_a_recipe_is_a_row_and_a_knob_that_is_set_stands() -> None:
    assert form(config(encoder__recipe="vanilla").encoder, "squeeze_depth") == 0
    assert form(config(encoder__recipe="vanilla", encoder__squeeze_depth=2).encoder, "squeeze_depth") == 2
    for recipe in RECIPES:
        assert RECIPES[recipe].keys() == RECIPES["squeeze"].keys()
        assert config(encoder__recipe=recipe).encoder.recipe == recipe
