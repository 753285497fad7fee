"""KD losses in `student` and `control`, at the size of the smoke preset: every loss, resuming, keys, workers, bad input."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from gankd.config import build_config, read_preset, with_knobs
from gankd.data import DataSet, load
from gankd.errors import UserError
from gankd.method import named
from gankd.models import CLASSIFIERS, build
from gankd.naming import stage_keys
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.stages.classifier import build_classifier, fit_classifier
from gankd.store import Store
from gankd.store.artifact import Artifact
from methods.cgan_kd.config import KD_FORMS, TWO_PHASES, CganKdConfig, StudentConfig
from methods.cgan_kd.kd.distiller import build_loss, check_maps
from methods.cgan_kd.kd.seen import Drawn, Seen, see
from methods.cgan_kd.stages import train_assistant
from methods.cgan_kd.transfer import Distillation, Mixture
from tests.methods.rgal_fixtures import context
from tests.workers import in_workers, tensors

METHOD = find_method("cgan_kd")
SHARED = ("teacher", "baseline", "samples")


def config(**knobs: Any) -> CganKdConfig:
    quick = {"student.steps": 8, "student.kd_negatives": 20, "student.kd_width": 16}
    changes = quick | {name.replace("__", "."): value for name, value in knobs.items()}
    if changes.get("student.kd") in ("fsp", "kdsvd"):
        changes |= {"baseline.width": 8}
    return build_config(CganKdConfig, with_knobs(read_preset(METHOD.presets, "smoke"), changes))


def bring_about(folder: Path, wanted: tuple[str, ...], **knobs: Any) -> dict[str, float]:
    tree = config(**knobs).model_dump(mode="json")
    return run(Job("cgan_kd", tree, str(folder), stages=wanted, threads=1, checkpoint_seconds=0))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(config().data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with what student and control start from."""
    folder = tmp_path_factory.mktemp("cgan_kd")
    bring_about(folder, SHARED)
    shutil.copytree(folder, folder.with_name("cgan_kd_untouched"))
    return folder


def artifact(folder: Path, stage: str, data: DataSet, **knobs: Any) -> Artifact:
    made = Store(str(folder)).get(stage_keys(METHOD, config(**knobs), data.fingerprint)[stage])
    assert made is not None
    return made


def weights(folder: Path, stage: str, data: DataSet, **knobs: Any) -> bytes:
    return artifact(folder, stage, data, **knobs).file("model.safetensors").read_bytes()


@pytest.mark.parametrize("kd", KD_FORMS)
def test_every_loss_teaches_with_and_without_fakes(storage: Path, data: DataSet, kd: str) -> None:
    found = bring_about(storage, ("student", "control"), student__kd=kd)
    assert all(0 <= value <= 100 for value in found.values())
    plain = {"baseline__width": config(student__kd=kd).baseline.width}
    bring_about(storage, ("student", "control"), **plain)
    made = [weights(storage, stage, data, **knobs) for knobs in ({"student__kd": kd}, plain) for stage in ("student", "control")]
    assert len(set(made)) == 4
    tensors = load_file(artifact(storage, "student", data, student__kd=kd).file("model.safetensors"))
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())


@pytest.mark.parametrize("knobs", [{"student__precision": "bf16"}, {"student__kd_weight": 3.0}, {"student__kd_soft": 0.0},
                                   {"student__kd_ce": 0.5}, {"student__kd_temperature": 2.0}, {"student__kd_warmup": 1.0},
                                   {"student__kd_negatives": 5}, {"student__kd_width": 8}], ids=" ".join)  # fmt: skip
def test_every_knob_of_crd_makes_something_else(storage: Path, data: DataSet, knobs: dict[str, Any]) -> None:
    bring_about(storage, ("student",), student__kd="crd")
    bring_about(storage, ("student",), student__kd="crd", **knobs)
    assert weights(storage, "student", data, student__kd="crd", **knobs) != weights(storage, "student", data, student__kd="crd")


@pytest.mark.parametrize("dies_at", [1, 7], ids=["while it prepares", "afterwards"])
@pytest.mark.parametrize("kd", ["crd", "ft", "ab"])
def test_a_resumed_student_is_bitwise_the_undisturbed_one(
    storage: Path, tmp_path: Path, data: DataSet, monkeypatch: pytest.MonkeyPatch, kd: str, dies_at: int
) -> None:
    knobs = {"student__kd": kd, "student__kd_pretraining": 0.5}
    bring_about(storage, ("student",), **knobs)
    undisturbed = weights(storage, "student", data, **knobs)
    again = shutil.copytree(storage.with_name("cgan_kd_untouched"), tmp_path / "store")
    step = Distillation.step

    def dies(self: Distillation, number: int, rng: torch.Generator) -> dict[str, Tensor]:
        if number == dies_at:
            raise KeyboardInterrupt
        return step(self, number, rng)

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "step", dies)
        with pytest.raises(KeyboardInterrupt):
            bring_about(again, ("student",), **knobs)
    bring_about(again, ("student",), **knobs)
    assert weights(again, "student", data, **knobs) == undisturbed


# Keys.


def test_without_a_loss_neither_teacher_nor_its_knobs_are_in_the_controls_key(data: DataSet) -> None:
    def keys(**knobs: Any) -> dict[str, str]:
        return stage_keys(METHOD, config(**knobs), data.fingerprint)

    others = ({"teacher__lr": 0.2}, {"student__kd_weight": 2.0}, {"student__kd_negatives": 7}, {"student__kd_temperature": 9.0})
    for knobs in others:
        assert keys(**knobs)["control"] == keys()["control"]
    assert keys(teacher__lr=0.2, student__kd="at")["control"] != keys(student__kd="at")["control"]
    assert keys(student__kd_weight=2.0, student__kd="at")["control"] != keys(student__kd="at")["control"]
    assert keys(student__kd_negatives=7, student__kd="at")["control"] == keys(student__kd="at")["control"]


def test_each_loss_has_the_papers_weights() -> None:
    knobs = {"kd_ce", "kd_soft", "kd_weight", "kd_pretraining", "kd_warmup", "kd_temperature"}
    assert all(form.keys() == knobs for form in KD_FORMS.values())
    assert (StudentConfig(kd="ft", steps=240).length, StudentConfig(kd="sskd", steps=240).length) == (270, 300)
    assert StudentConfig(kd="crd", steps=240, kd_pretraining=0.5).length == 240


# TAKD: two hops.


def test_the_assistant_teaches_in_place_of_the_teacher_and_is_made_for_nobody_else(storage: Path, data: DataSet) -> None:
    def stages(**knobs: Any) -> set[str]:
        return {stage.name for stage in METHOD.made(config(**knobs))}

    def changed(**knobs: Any) -> set[str]:
        before, after = (stage_keys(METHOD, config(student__kd=kd, **more), "data") for kd, more in ((kd, {}), (kd, knobs)))
        return {name for name in ("assistant", "student", "control") if before[name] != after[name]}

    assert {"assistant"} == stages(student__kd="takd") - stages() == stages(student__kd="takd") - stages(student__kd="blkd")
    kd = "takd"
    assert changed(assistant__temperature=3.0) == changed(teacher__lr=0.2) == {"assistant", "student", "control"}
    kd = "blkd"
    assert changed(assistant__temperature=3.0) == {"assistant"}
    assert changed(assistant__temperature=3.0, assistant__soft=0.0) == changed(assistant__soft=0.0)
    assert [stage.name for stage in METHOD.shared(["student.lr"], config(student__kd="takd"))].count("assistant") == 1
    made = []
    for soft in (0.5, 0.0):
        knobs = {"student__kd": "takd", "assistant__soft": soft}
        bring_about(storage, ("control",), **knobs)
        made += [weights(storage, stage, data, **knobs) for stage in ("assistant", "control")]
    assert len(set(made)) == 4


def test_an_assistant_without_soft_targets_is_an_ordinary_classifier(storage: Path, data: DataSet) -> None:
    """The step is that of the stage that trains classifiers, but for the loss."""
    made = config(assistant__soft=0.0)
    ctx = context(storage / "plain", "assistant")
    ctx.seed_layers(-1)
    cfg = made.assistant
    plain = fit_classifier(ctx, cfg, data, build_classifier(cfg, data))
    other = context(storage / "soft", "assistant")
    other.seed_layers(-1)
    assert train_assistant(other, cfg, data, artifact(storage, "teacher", data)) == plain
    assert load_file(other.out / "model.safetensors").keys() == load_file(ctx.out / "model.safetensors").keys()
    for name, value in load_file(other.out / "model.safetensors").items():
        assert torch.equal(value, load_file(ctx.out / "model.safetensors")[name]), name


@pytest.mark.parametrize(("kd", "refused"), [("takd", True), ("none", False)])
def test_an_assistant_is_checked_where_it_is_made(tmp_path: Path, kd: str, refused: bool) -> None:
    from gankd.sweep.plan import prepare
    from gankd.sweep.request import request_of

    overrides = {"assistant.batch": 100_000, "assistant.network": "vgg14", "student.kd": kd}
    asked = request_of({"method": "cgan_kd", "preset": "smoke", "overrides": overrides})
    with pytest.raises(UserError, match=r"assistant\.network' cannot be 'vgg14'") if refused else nullcontext():
        prepare(asked, str(tmp_path / "store"))


# The batch, and who learns.


def distillation(folder: Path, kd: str, rank: int = 0, world: int = 1) -> Distillation:
    """A student of fresh networks, real images and as many fakes, which are the images upside down."""
    cfg = config(student__kd=kd).student
    data = load(config().data)
    ctx = context(folder, "student")
    ctx.rank, ctx.world_size = rank, world
    torch.manual_seed(0)
    student, teacher = (build("small_cnn", classes=10, image_channels=1, image_size=8, width=width) for width in (4, 8))
    fakes = type(data.train)(data.train.images[:, :, ::-1].copy(), data.train.labels)
    mixture = Mixture(ctx, cfg, data, fakes)
    return Distillation(ctx, cfg, student, mixture, data, lambda step: 1.0, teacher.eval().requires_grad_(False))


def test_places_say_which_images_the_workers_have(tmp_path: Path) -> None:
    for world in (1, 2):
        places = []
        for rank in range(world):
            mixture = distillation(tmp_path / f"{world}{rank}", "crd", rank, world).mixture
            rng = torch.Generator().manual_seed(0)
            _, labels = mixture.batch(3, rng)
            places.append(mixture.places(3))
            assert torch.equal(mixture.labels[places[-1]][rank * len(labels) : (rank + 1) * len(labels)], labels)
        assert all(torch.equal(each, places[0]) for each in places)


def test_the_teacher_stays_as_it_is_and_the_parts_learn(tmp_path: Path) -> None:
    for kd in KD_FORMS.keys() - {"fsp", "kdsvd"}:
        training = distillation(tmp_path / kd, kd)
        before, parts = ({k: v.clone() for k, v in m.state_dict().items()} for m in (training.teacher, training.loss))
        for step in range(training.cfg.length):
            training.step(step, training.ctx.rng(step))
        assert all(torch.equal(value, before[name]) for name, value in training.teacher.state_dict().items())
        assert all(p.grad is None for p in training.teacher.parameters())
        assert [name for name, value in training.loss.named_parameters() if torch.equal(value, parts[name])] == []


def learn(rank: int, size: int, folder: Path) -> None:
    """A few losses with parts of all kinds, to their end; the state is left in the folder."""
    state = {}
    for kd in ("crd", "ab", "reviewkd", "sskd"):
        training = distillation(folder / f"{kd}{rank}", kd, rank, size)
        for step in range(training.cfg.length):
            training.ctx.seed_layers(step)
            training.step(step, training.ctx.rng(step))
        state |= tensors(training.state_dict(), kd)
    torch.save(state, folder / f"{rank}.pt")


def test_two_workers_hold_the_same_state(tmp_path: Path) -> None:
    in_workers(learn, 2, tmp_path, tmp_path)
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


# Bad input, before anything trains.


def check(**knobs: Any) -> None:
    made = config(**knobs)
    for name in ("student", "control"):
        stage = METHOD.stage(name)
        named(stage.check)("student", stage.config(made), load(made.data).without_test(), **stage.checked(made))


@pytest.mark.parametrize(
    ("knobs", "sentence"),
    [
        ({"student__kd": "fsp", "teacher__width": 16}, r"student\.kd=fsp needs .* student is \(8, 8, 8\), .* \(16, 8, 8\)"),
        ({"student__kd": "kdsvd", "teacher__width": 16}, r"student\.kd=kdsvd needs .* \(8, 8, 8\), .* \(16, 8, 8\)"),
        ({"student__kd": "crt"}, r"knob 'student\.kd' cannot be 'crt'"),
        ({"student__kd": "at", "student__kd_weight": -1.0}, r"knob 'student\.kd_weight' cannot be -1"),
        ({"student__kd": "at", "student__kd_temperature": 0.0}, r"knob 'student\.kd_temperature' cannot be 0"),
        ({"student__kd": "at", "student__batch": 1000}, r"student\.batch = 1000"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(knobs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        check(**knobs)
    assert "\n" not in str(error.value)


def test_a_map_that_no_regressor_can_enlarge_is_refused() -> None:
    student, teacher = (Seen(torch.zeros(2, 10), torch.zeros(2, 4), [torch.zeros(2, 4, size, size)]) for size in (4, 16))
    with pytest.raises(UserError, match=r"student's map \(4, 4, 4\) cannot be brought to the teacher's \(4, 16, 16\)"):
        check_maps("fitnet", student, teacher)


@pytest.mark.parametrize("names", [("MobileNetV2", "wrn_40_2"), ("vgg8", "resnet8x4"), ("ShuffleV1", "vgg13")], ids="/".join)
def test_maps_of_other_sizes_and_numbers_are_brought_together(tmp_path: Path, names: tuple[str, str]) -> None:
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    networks = [build(name, classes=10, image_channels=3, image_size=32).eval() for name in names]
    with torch.no_grad():
        student, teacher = (see(network, images) for network in networks)
        for kd in KD_FORMS.keys() - {"fsp", "kdsvd"}:
            drawn = Drawn(torch.arange(8 // (4 if kd == "sskd" else 1)), torch.arange(8), torch.Generator())
            loss = build_loss(config(student__kd=kd).student, student, teacher, torch.arange(20) % 10, context(tmp_path))
            assert loss(student, teacher, drawn).isfinite()
            if kd in TWO_PHASES:
                assert loss.pretrain(lambda: student, teacher).isfinite()


@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_a_network_shows_one_map_of_every_size_and_shapes_need_no_numbers(name: str) -> None:
    with torch.device("meta"), torch.no_grad():
        seen = see(build(name, classes=10, image_channels=3, image_size=32).eval(), torch.empty(2, 3, 32, 32))
    sizes = [maps.shape[2] for maps in seen.maps]
    assert sizes == sorted(set(sizes), reverse=True)
    assert len(sizes) >= 2
