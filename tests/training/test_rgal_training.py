"""RGAL's two phases: the reference's traces, what each phase leaves alone, resuming, and that no training image is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gankd import models
from gankd.config import build_config, parse_overrides, read_preset, with_knobs
from gankd.data import DataSet, Split
from gankd.data import load as load_data
from gankd.data.augment import normalise
from gankd.engine import Algorithm, train
from gankd.errors import StageFailed, UserError
from gankd.registry import find_method
from methods.rgal.alternation import Alternation, NoiseTraining
from methods.rgal.config import RgalConfig, StudentConfig, SynthesisConfig
from methods.rgal.distillation import Distillation, build_adapters
from methods.rgal.relations import DISTANCE_WEIGHTED, relation_loss
from methods.rgal.stages import train_student
from methods.rgal.synthesis import Synthesis, draw_labels
from methods.rgal.teacher_check import check_teacher
from tests.methods.rgal_fixtures import CIFAR10, arrays, context, fill, filled, negative_matrix, texts, wrn_keys

METHOD = find_method("rgal")


def smoke(*assignments: str) -> RgalConfig:
    return build_config(RgalConfig, with_knobs(read_preset(METHOD.presets, "smoke"), parse_overrides(assignments)))


def pair(trace: dict[str, Tensor], prefix: str = "") -> tuple[Any, Any]:
    """The filled teacher WRN-16-2, with the trace's last layer, and student WRN-16-1."""
    head = {f"fc.{name}": trace[f"{prefix}teacher_fc_{name}"] for name in ("weight", "bias")}
    classes = len(head["fc.bias"])
    teacher, student = (models.build(f"wrn_16_{k}", classes=classes, normalisation=CIFAR10) for k in (2, 1))
    fill(teacher.network, wrn_keys(16, 2), int(trace["fill_teacher"]), head)
    fill(student.network, wrn_keys(16, 1), int(trace["fill_student"]))
    return teacher.eval().requires_grad_(False), student


TRACES = {
    "adv_student": {},
    "std_student": {"relation_mode": "cooperative"},
    "adv_teacher": {"triplet_target": "teacher", "sampler": "distance"},
}


@pytest.mark.parametrize("variant", TRACES)
def test_synthesis_follows_the_reference(variant: str, tmp_path: Path) -> None:
    trace = arrays("synthesis_trace")
    teacher, student = pair(trace, f"{variant}_")
    student.eval().requires_grad_(False)
    of = {name.removeprefix(f"{variant}_"): value for name, value in trace.items() if name.startswith(variant)}
    (batch, nz), steps = of["z0"].shape, len(of["total_loss"])
    weights = dict(zip(("adv", "bn", "oh", "triplet"), trace["weights"].tolist(), strict=True))
    cfg = SynthesisConfig(
        nz=nz, ngf=8, batch=batch, g_steps=steps, flip=False, crop_padding=0, precision="fp32", best="total",
        **weights, **TRACES[variant],
    )  # fmt: skip
    channels, size = of["best_images"].shape[1:3]
    synthesis = Synthesis(context(tmp_path), cfg, teacher, student, channels, size, classes=teacher.network.linear.out_features)
    rng = torch.Generator().manual_seed(0)
    synthesis.begin(rng)
    inversion = synthesis.inversion
    with torch.no_grad():
        inversion.z.copy_(of["z0"])
        inversion.labels.copy_(of["targets"])
    seed = int(trace["fill_generator"])
    generator = inversion.generator
    generator.load_state_dict({key: filled(key, tuple(value.shape), seed) for key, value in generator.state_dict().items()})
    for step in range(steps):
        with torch.no_grad():
            view = probe(generator, inversion.z)
            labels = teacher(view).argmax(1)
        metrics = synthesis.step(rng, negative_matrix(labels, of["neg_idx"][step]))
        torch.testing.assert_close(metrics["loss_triplet"], of["triplet_loss"][step], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(metrics["loss_synthesis"], of["total_loss"][step], rtol=1e-3, atol=0)
    images = (inversion.images[: len(of["best_images"])].float() / 255 - of["best_images"]).abs()
    assert float(images.max()) < 1.5 / 255
    assert all(p.grad is None for network in (teacher, student) for p in network.parameters())


def probe(generator: Any, z: Tensor) -> Tensor:
    """The images of a generator in training mode, without a trace in its running statistics."""
    kept = {name: value.clone() for name, value in generator.state_dict().items()}
    images: Tensor = generator(z)
    generator.load_state_dict(kept)
    return images


def test_distillation_follows_the_reference(tmp_path: Path) -> None:
    trace = arrays("student_trace")
    teacher, student = pair(trace)
    views = trace["images01"] * 2 - 1
    views = torch.cat([views, views.flip(-1)])
    steps, weights = len(trace["kd_loss"]), dict(zip(("cd", "gram", "striplet"), trace["weights"].tolist(), strict=True))
    cfg = StudentConfig(rounds=1, kd_steps=steps, batch=len(trace["images01"]), precision="fp32", **weights)
    adapters = build_adapters(teacher, student, views[:1])
    for i, adapter in enumerate(adapters):
        seed = int(trace["fill_adapter0"]) + i
        adapter.load_state_dict({key: filled(key, tuple(value.shape), seed) for key, value in adapter.state_dict().items()})
    distillation = Distillation(context(tmp_path), cfg, teacher, student.train(), adapters, relate=True)
    labels = teacher(views).argmax(1)
    for step in range(steps):
        negatives = negative_matrix(labels, trace["neg_idx"][step])
        metrics = distillation.step(views, 0, torch.Generator().manual_seed(0), negatives)
        torch.testing.assert_close(metrics["loss_kd"], trace["kd_loss"][step], rtol=2e-3, atol=0)
        torch.testing.assert_close(metrics["loss_distillation"], trace["total_loss"][step], rtol=2e-3, atol=0)
    torch.testing.assert_close(student.network.linear.weight.detach(), trace["fc_weight"], rtol=1e-3, atol=1e-4)
    sizes = [float(value.norm()) for adapter in adapters for value in (adapter.weight.detach(), adapter.bias.detach())]
    torch.testing.assert_close(torch.tensor(sizes, dtype=torch.float64), trace["adapter_l2"], rtol=1e-3, atol=1e-4)
    from tests.methods.rgal_fixtures import our_names

    state, names = student.network.state_dict(), texts("student_trace", "param_names")
    ours = our_names(wrn_keys(16, 1), student.network)
    for i, name in enumerate(names):
        assert float(state[ours[name]].double().norm()) == pytest.approx(float(trace["param_l2"][i]), rel=1e-3, abs=1e-4), name


# On a small set-up of our own.


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load_data(smoke().data)


@pytest.fixture(scope="module")
def teacher(data: DataSet) -> Any:
    """A quickly trained teacher."""
    torch.manual_seed(0)
    network = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=8)
    images, labels = torch.from_numpy(np.array(data.train.images)).float() / 127.5 - 1, torch.from_numpy(data.train.labels)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    network.zero_grad()
    return network.eval().requires_grad_(False)


def alternation(folder: Path, data: DataSet, teacher: Any, *assignments: str) -> Alternation:
    cfg = smoke(*assignments)
    ctx = context(folder)
    ctx.seed_layers(-1)
    return Alternation(ctx, cfg.student, data, teacher, cfg.synthesis)


def run(training: Any, steps: int | None = None) -> dict[str, Tensor]:
    steps = steps or training.steps
    train(training.ctx, training, steps=steps, batch=10)
    return dict(training.student.state_dict())


class Forbidden:
    """Images that must not be looked at; only their shape is known."""

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.shape = shape

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"a training image was touched: {name}")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("training images were read")


@pytest.mark.parametrize("stage", ["student", "noise"])
def test_no_training_image_is_read_after_the_teacher(tmp_path: Path, data: DataSet, teacher: Any, stage: str) -> None:
    cfg = smoke("student.rounds=2", "synthesis.cr=0.5")
    poisoned = replace(data, train=Split(np.flip(data.train.images, 0) ^ 255, np.zeros_like(data.train.labels)))
    hidden = replace(data, train=Split(Forbidden(data.train.images.shape), Forbidden()))  # type: ignore[arg-type]
    results = []
    for name, seen in (("clean", data), ("poisoned", poisoned), ("hidden", hidden)):
        artifact = saved(tmp_path / f"teacher-{name}", teacher)
        ctx = context(tmp_path / name, stage)
        ctx.seed_layers(-1)
        if stage == "student":
            train_student(ctx, cfg.student, seen, cfg.synthesis, artifact)
        else:
            from methods.rgal.stages import train_on_noise

            train_on_noise(ctx, cfg.student, seen, artifact)
        results.append((ctx.out / "model.safetensors").read_bytes())
    assert results[0] == results[1] == results[2]


def saved(folder: Path, network: Any) -> Any:
    from gankd.store.artifact import Artifact

    models.save(network, folder)
    return Artifact("teacher-key", "teacher", folder, {})


@pytest.mark.parametrize("stop", [2, 6, 11])
@pytest.mark.parametrize(
    "setting", [(), ("synthesis.cr=0.5", "synthesis.bank=30", "student.warm_up=1", "synthesis.generator=warm")]
)
def test_a_resumed_run_is_bitwise_the_undisturbed_one(
    tmp_path: Path, data: DataSet, teacher: Any, stop: int, setting: tuple[str, ...]
) -> None:
    """Stopped in the middle of synthesis, of distillation, and in the second round."""
    undisturbed = run(alternation(tmp_path / "a", data, teacher, *setting))
    first = alternation(tmp_path / "b", data, teacher, *setting)
    for step in range(stop):
        first.ctx.seed_layers(step)
        first.step(step, first.ctx.rng(step))
    torch.save({"algorithm": first.state_dict(), "step": stop, "evaluation": {}}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    second = alternation(tmp_path / "c", data, teacher, *setting)
    second.ctx.resume = lambda: state  # type: ignore[method-assign]
    resumed = run(second)
    assert all(torch.equal(undisturbed[name], resumed[name]) for name in undisturbed)


def test_frozen_networks_get_no_gradient_and_keep_their_statistics(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    training = alternation(tmp_path, data, teacher)
    before = {name: value.clone() for name, value in training.student.state_dict().items()}
    for step in range(4):
        training.step(step, training.ctx.rng(step))
    assert all(torch.equal(before[name], value) for name, value in training.student.state_dict().items())
    assert all(p.grad is None for network in (training.student, teacher) for p in network.parameters())
    assert not training.student.training
    training.step(4, training.ctx.rng(4))
    assert training.student.training
    assert any(not torch.equal(before[name], value) for name, value in training.student.state_dict().items())


def test_synthesis_lowers_the_statistics_and_the_cross_entropy(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    settings = ("synthesis.g_steps=60", "synthesis.lr_g=0.01", "synthesis.lr_z=0.01", "synthesis.batch=40", "synthesis.ngf=8")
    training = alternation(tmp_path, data, teacher, *settings)
    metrics = [training.step(step, training.ctx.rng(step)) for step in range(50)]
    for name in ("loss_bn", "loss_oh"):
        assert float(metrics[-1][name]) < 0.7 * float(metrics[0][name])


DIRECTION = (
    *("synthesis.triplet=3", "synthesis.margin=1", "synthesis.triplet_target=teacher", "synthesis.sampler=distance"),
    *("synthesis.bn=0.1", "synthesis.adv=0", "synthesis.best=last", "synthesis.targets=balanced", "synthesis.crop_padding=0"),
    *("synthesis.lr_g=0.01", "synthesis.lr_z=0.01", "synthesis.g_steps=120", "synthesis.batch=60", "synthesis.ngf=16"),
)


def test_the_relation_term_works_in_the_papers_direction(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    """Against synthesis without triplets: adversarial raises the distances in a class and lowers those to drawn negatives,
    the released code's direction, cooperative, does the reverse."""
    same, negative = {}, {}
    for mode in ("adversarial", "off", "cooperative"):
        training = alternation(tmp_path / mode, data, teacher, *DIRECTION, f"synthesis.relation_mode={mode}")
        for step in range(120):
            training.step(step, training.ctx.rng(step))
        with torch.no_grad():
            logits, features, _ = teacher.outputs(normalise(training.pool.newest(60)[0]))
        rng = torch.Generator().manual_seed(0)
        found = relation_loss([features], logits, logits.argmax(1), direction="standard", sampler=DISTANCE_WEIGHTED, rng=rng)
        same[mode], negative[mode] = float(found.same), float(found.different)
    assert same["adversarial"] > same["off"] > same["cooperative"], same
    assert negative["adversarial"] < negative["off"] < negative["cooperative"], negative


def test_the_contrast_of_a_resnet34_has_512_numbers_an_image_and_the_statistics_term_all_its_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    teacher = models.build("ResNet34", classes=10, image_channels=1, image_size=8).eval().requires_grad_(False)
    student = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=4).eval().requires_grad_(False)
    knobs = {"batch": 6, "nz": 4, "ngf": 4, "bank": 12, "head": 8, "precision": "fp32", "triplet": 0}
    found = {}
    for cr in (0.0, 0.5):
        cfg = SynthesisConfig(cr=cr, **knobs)  # type: ignore[arg-type]
        synthesis = Synthesis(context(tmp_path / str(cr)), cfg, teacher, student, channels=1, size=8, classes=10)
        rng = torch.Generator().manual_seed(0)
        synthesis.begin(rng)
        found[cr] = synthesis.step(rng)
    torch.testing.assert_close(found[0.5]["loss_bn"], found[0.0]["loss_bn"])
    assert synthesis.contrast is not None
    assert synthesis.contrast.bank.shape == (12, 2 * 512)
    assert bool(found[0.5]["loss_cr"].isfinite())


def test_the_teacher_gate(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    ctx = context(tmp_path)
    assert check_teacher(ctx, teacher, data, None) > 20
    with pytest.raises(StageFailed, match=r"below the floor of 99\.9 %"):
        check_teacher(ctx, teacher, data, 99.9)
    torch.manual_seed(0)
    fresh = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=8).eval()
    with pytest.raises(StageFailed, match="3 batch norm layers are those of a new network"):
        check_teacher(ctx, fresh, data, 0)


def test_a_block_that_the_teacher_does_not_have_is_refused(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    with pytest.raises(UserError, match=r"'synthesis.start_layer' cannot be 3: small_cnn has the blocks 0 to 2 at 8 px"):
        alternation(tmp_path, data, teacher, "synthesis.triplet_target=teacher", "synthesis.start_layer=3")


def test_the_control_starts_from_the_same_student(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    ours = alternation(tmp_path / "a", data, teacher)
    ctx = context(tmp_path / "b", "noise")
    ctx.seed_layers(-1)
    control = NoiseTraining(ctx, smoke().student, data, teacher)
    first, second = ours.student.state_dict(), control.student.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(control.pool) == 80
    assert isinstance(control, Algorithm)
    metrics = control.step(0, ctx.rng(0))
    assert "loss_striplet" not in metrics


def test_targets() -> None:
    def counts(**knobs: Any) -> list[int]:
        return draw_labels(SynthesisConfig(**knobs), 10, torch.Generator().manual_seed(0)).bincount(minlength=10).tolist()

    assert counts(batch=200, targets="balanced") == [20] * 10
    assert sorted(counts(batch=25, targets="balanced")) == [2] * 5 + [3] * 5
    grouped = counts(batch=16, targets="grouped", group=4)
    assert sorted(grouped) == [0] * 6 + [4] * 4
    assert sum(counts(batch=200)) == 200
    assert len(set(counts(batch=200))) > 2


def test_a_batch_without_a_pair_does_not_crash(tmp_path: Path, data: DataSet, teacher: Any) -> None:
    training = alternation(
        tmp_path, data, teacher, "synthesis.batch=2", "student.batch=2", "student.paired=false", "student.pool=4"
    )
    for step in range(16):
        metrics = training.step(step, training.ctx.rng(step))
        assert all(bool(value.isfinite()) for value in metrics.values())


def preset(name: str) -> RgalConfig:
    return build_config(RgalConfig, read_preset(METHOD.presets, name))


def test_the_presets_hold_the_published_values() -> None:
    ours, cmi = preset("cifar10"), preset("cifar10_cmi")
    s, d = ours.synthesis, ours.student
    assert (s.g_steps, s.batch, s.lr_g, s.nz, s.ngf) == (400, 256, 1e-3, 256, 64)
    assert (s.bn, s.oh, s.adv, s.triplet, s.triplet_target, s.start_layer, s.end_layer) == (1, 1, 1, 0.1, "student", 2, 4)
    assert (s.relation_mode, s.sampler, s.low, s.high, s.margin, s.cr) == ("adversarial", "focal", 0.5, 1.0, 0.2, 0)
    assert (d.rounds, d.kd_steps, d.batch, d.paired, d.T, d.pool) == (200, 400, 128, True, 20, 51_200)
    assert (d.cd, d.gram, d.striplet, d.striplet_feature, d.lr, d.weight_decay) == (0.1, 0, 0.1, ("global",), 0.1, 1e-4)
    assert (cmi.synthesis.cr, cmi.synthesis.cr_T, cmi.synthesis.adv, cmi.synthesis.g_steps) == (0.8, 0.1, 0.5, 200)
    assert (cmi.student.cd, cmi.student.striplet, cmi.student.paired, cmi.synthesis.relates) == (0, 0, False, False)
    assert preset("cifar100").data.name == "cifar100"
    assert preset("cifar10_small").data.name == "hdf5"


def test_the_demonstrations_share_their_teacher_with_cgan_kd_and_each_other() -> None:
    other = read_preset(find_method("cgan_kd").presets, "digits")
    for name in ("digits", "cmi"):
        assert read_preset(METHOD.presets, name)["teacher"] == other["teacher"]
        assert read_preset(METHOD.presets, name)["data"] == other["data"]
    assert preset("cmi").baseline == preset("digits").baseline
    assert preset("digits").student.pool == preset("digits").student.rounds * preset("digits").synthesis.batch


def test_the_default_space_fits_the_presets() -> None:
    from gankd.sweep.space import check_space, load_space

    assert next(iter(load_space(METHOD, None, preset("digits")).samplers)) == "synthesis.triplet"
    for name in ("digits", "cmi", "smoke", "cifar10"):
        space = load_space(METHOD, None, preset(name))
        check_space(space, METHOD, preset(name).model_dump(mode="json"))
        # The teacher and the comparison on real data are trained once for all trials.
        shared = {stage.name for stage in METHOD.shared(space.samplers)}
        assert {"teacher", "baseline"} <= shared
        assert not {"student", "noise"} & shared
