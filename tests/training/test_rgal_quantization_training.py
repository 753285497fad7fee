"""RGAL's alternation on a quantized network: what it learns from, what it leaves alone, its control, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd import models
from gankd.config import build_config, parse_overrides, preset_names, read_preset, with_knobs
from gankd.data import DataSet, Split
from gankd.data import load as load_data
from gankd.data.augment import normalise
from gankd.engine import train
from gankd.naming import stage_keys
from gankd.registry import find_method
from gankd.store.artifact import Artifact
from methods.rgal_quantization import stages
from methods.rgal_quantization.config import RgalQuantizationConfig
from methods.rgal_quantization.networks import QuantizedClassifier, following, quantize
from methods.rgal_quantization.training import QuantizedAlternation
from tests.methods.rgal_fixtures import context

METHOD = find_method("rgal_quantization")


def smoke(*assignments: str) -> RgalQuantizationConfig:
    return build_config(RgalQuantizationConfig, with_knobs(read_preset(METHOD.presets, "smoke"), parse_overrides(assignments)))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(smoke().data)


@pytest.fixture(scope="module")
def teacher(data: DataSet) -> Any:
    """A quickly trained teacher."""
    torch.manual_seed(0)
    network = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=8)
    images, labels = normalise(torch.from_numpy(np.array(data.train.images))), torch.from_numpy(data.train.labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.zero_grad()
    return network.eval().requires_grad_(False)


def calibrated(teacher: Any, cfg: RgalQuantizationConfig) -> QuantizedClassifier:
    network = quantize(teacher, cfg.quantizer).eval()
    with following(network, 0.0), torch.no_grad():
        network(torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    return network


def alternation(folder: Path, data: DataSet, teacher: Any, *assignments: str) -> QuantizedAlternation:
    cfg = smoke(*assignments)
    return QuantizedAlternation(context(folder), cfg.student, data, teacher, cfg.synthesis, calibrated(teacher, cfg))


def stepped(training: QuantizedAlternation, first: int, last: int) -> list[dict[str, Tensor]]:
    return [training.step(step, training.ctx.rng(step)) for step in range(first, last)]


def state(training: QuantizedAlternation) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.student.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


# The smoke preset: 4 steps of synthesis (a round of warm-up), then 4 of synthesis and 4 of training in each of 4 rounds.


def test_synthesis_leaves_the_quantized_network_and_training_the_teacher_alone(
    tmp_path: Path, data: DataSet, teacher: Any
) -> None:
    training = alternation(tmp_path, data, teacher)
    before, full = state(training), {name: value.clone() for name, value in teacher.state_dict().items()}
    metrics = stepped(training, 0, 8)
    assert {"loss_bn", "loss_oh", "loss_adv", "loss_triplet"} <= metrics[-1].keys()
    assert changed(before, state(training)) == set()
    metrics = stepped(training, 8, 12)
    assert {"loss_ce", "loss_kd", "loss_cd", "loss_striplet"} <= metrics[-1].keys()
    assert "network.layers.0.0.layer.weight" in changed(before, state(training))
    assert not any("running" in name for name in changed(before, state(training)))
    assert all(torch.equal(full[name], value) for name, value in teacher.state_dict().items())


def test_the_ranges_follow_the_images_in_the_first_rounds_only(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    training = alternation(tmp_path, data, teacher, "student.range_rounds=1")

    def ranges(first: int, last: int) -> set[str]:
        before = state(training)
        stepped(training, first, last)
        return {name for name in changed(before, state(training)) if name.endswith((".low", ".high"))}

    assert ranges(0, 8) == set()
    assert ranges(8, 12)
    assert ranges(12, 20) == set()


def test_labels_belong_to_their_images(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    """Both views of an image have the label that it was made for."""
    training = alternation(tmp_path, data, teacher, "student.crop_padding=0")
    pool, levels = training.pool, torch.arange(60, dtype=torch.uint8)
    pool.append(levels[:, None, None, None].expand(60, 1, 8, 8), levels.long() % 10)
    for number in (0, 3, 7):  # across the end of a pass, too
        images = training.distillation.batch(pool, number, training.ctx.rng(number))
        labels = training.distillation.labels(pool, number)
        made = ((images[:, 0, 0, 0] + 1) * 127.5).round().long()
        assert len(labels) == 20
        assert torch.equal(labels, made % 10)


def test_all_terms_are_weighed(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    training = alternation(tmp_path, data, teacher, "student.ce=2", "student.kd=3", "student.cd=5", "student.striplet=7")
    metrics = stepped(training, 0, 9)[-1]
    total = sum(weight * metrics[f"loss_{name}"] for name, weight in (("ce", 2), ("kd", 3), ("cd", 5), ("striplet", 7)))
    torch.testing.assert_close(metrics["loss_distillation"], total)


def saved(folder: Path, stage: str, network: Any) -> Artifact:
    models.save(network, folder / stage)
    return Artifact(f"{stage}-key", stage, folder / stage, {})


@pytest.mark.parametrize("stage", ["student", "gdfq"])
def test_no_training_image_is_read(tmp_path: Path, data: DataSet, teacher: Any, stage: str) -> None:
    cfg, results = smoke("student.rounds=1"), []
    poisoned = replace(data, train=Split(np.flip(data.train.images, 0) ^ 255, np.zeros_like(data.train.labels)))
    for name, seen in (("clean", data), ("poisoned", poisoned)):
        artifacts = {"teacher": saved(tmp_path / name, "teacher", teacher)}
        ctx = context(tmp_path / name, "ptq_noise")
        stages.calibrate_on_noise(ctx, cfg.quantizer, seen, artifacts["teacher"])
        artifacts["ptq_noise"] = Artifact("ptq-key", "ptq_noise", ctx.out, {})
        spec, ctx = METHOD.stage(stage), context(tmp_path / name, stage)
        run = stages.train_student if stage == "student" else stages.train_without_relations
        metrics = run(ctx, spec.config(cfg), seen, **spec.further(cfg), **artifacts)  # type: ignore[arg-type, operator]
        assert metrics["val_accuracy"] > 20
        results.append((ctx.out / "model.safetensors").read_bytes())
    assert results[0] == results[1]


def test_the_control_knows_nothing_of_rgals_terms() -> None:
    def keys(*assignments: str) -> dict[str, str]:
        return stage_keys(METHOD, smoke(*assignments), "data")

    before = keys()
    for knob in ("synthesis.triplet=1", "synthesis.adv=0", "synthesis.low=0.4", "student.striplet=1", "student.cd=0"):
        after = keys(knob)
        assert {name for name in before if before[name] != after[name] and not name.startswith("test_")} == {"student", "int8"}
    assert keys("synthesis.bn=2")["gdfq"] != before["gdfq"]
    assert keys("student.lr=0.5")["gdfq"] != before["gdfq"]


@pytest.mark.parametrize("stop", [2, 10, 14])
def test_a_resumed_run_is_bitwise_the_undisturbed_one(tmp_path: Path, data: DataSet, teacher: Any, stop: int) -> None:
    undisturbed = alternation(tmp_path / "a", data, teacher)
    train(undisturbed.ctx, undisturbed, steps=undisturbed.steps, batch=10)
    first = alternation(tmp_path / "b", data, teacher)
    stepped(first, 0, stop)
    torch.save({"algorithm": first.state_dict(), "step": stop, "evaluation": {}}, tmp_path / "state.pt")
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    second = alternation(tmp_path / "c", data, teacher)
    second.ctx.resume = lambda: kept  # type: ignore[method-assign]
    train(second.ctx, second, steps=second.steps, batch=10)
    assert changed(state(undisturbed), state(second)) == set()


def test_presets_lie_in_the_space_and_share_their_teacher_with_cgan_kd() -> None:
    from gankd.sweep.space import check_space, load_space

    for name in preset_names(METHOD.presets):
        config = build_config(RgalQuantizationConfig, read_preset(METHOD.presets, name))
        space = load_space(METHOD, None, config)
        check_space(space, METHOD, config.model_dump(mode="json"))
        assert {stage.name for stage in METHOD.shared(space.samplers)} == {"teacher", "ptq_noise", "ptq_real", "gdfq"}
    ours, other = (read_preset(find_method(name).presets, "digits") for name in ("rgal_quantization", "cgan_kd"))
    rounds = smoke().student.rounds + smoke().student.warm_up
    assert smoke().student.pool == rounds * smoke().synthesis.batch  # nothing is thrown away
    assert (ours["teacher"], ours["data"]) == (other["teacher"], other["data"])
