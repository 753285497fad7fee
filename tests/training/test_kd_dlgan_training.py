"""What distilling changes of a GAN's training, and what it must not; the teachers; the stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from gankd.config import build_config, read_preset, with_knobs
from gankd.context import Context
from gankd.data import DataSet, load
from gankd.data.augment import Resident, normalise
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.stages.gan_batch import Seen
from gankd.stages.generator import build_gan, gan_training
from gankd.store import Store
from gankd.store.artifact import Artifact
from methods.kd_dlgan.config import CIFAR10, PROFILES, TEMPLATES, KdConfig, KdDlganConfig, TeacherConfig, form
from methods.kd_dlgan.contrast import contrastive_loss, zero_shot
from methods.kd_dlgan.distillation import KdTraining
from methods.kd_dlgan.prompts import sentences, text_features
from methods.kd_dlgan.stages import CARD, EMBEDDINGS, distilling, in_words, numbered
from methods.kd_dlgan.teachers import MockTeacher, OfflineTeacher, letter_groups, load_teacher

METHOD = find_method("kd_dlgan")
MADE = ("feature_classifier", "teacher", "embeddings")


def config(**knobs: Any) -> KdDlganConfig:
    tree = with_knobs(read_preset(METHOD.presets, "smoke"), {name.replace("__", "."): value for name, value in knobs.items()})
    return build_config(KdDlganConfig, tree)


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(config().data)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the teacher of the smoke preset, a mock, and what they say of the data."""
    folder = tmp_path_factory.mktemp("kd")
    for knobs in ({}, {"gan__flip": True}, {"kd__profile": "code_faithful"}, {"kd__centred": False}):
        job = Job("kd_dlgan", config(**knobs).model_dump(mode="json"), str(folder), stages=MADE, threads=1)
        run(job)
    return folder


def artifact(storage: Path, stage: str, cfg: KdDlganConfig, data: DataSet) -> Artifact:
    from gankd.naming import stage_keys

    made = Store(storage).get(stage_keys(METHOD, cfg, data.fingerprint)[stage])
    assert made is not None
    return made


def context(folder: Path, stage: str = "gan") -> Context:
    return Context(stage, "key", 0, folder, Store(folder), torch.device("cpu"))


def training(storage: Path, data: DataSet, **knobs: Any) -> KdTraining:
    cfg = config(**knobs)
    torch.manual_seed(0)
    return distilling(context(storage), cfg.gan, cfg.kd, data, *(artifact(storage, s, cfg, data) for s in MADE[1:]))


def plain(storage: Path, data: DataSet, **knobs: Any) -> Any:
    cfg = config(**knobs)
    torch.manual_seed(0)
    return gan_training(context(storage), cfg.gan, cfg.gan.g_lr, *build_gan(cfg.gan, data), data.train)


def state(one: Any) -> dict[str, Tensor]:
    return {f"{side}.{k}": v for side in ("generator", "discriminator") for k, v in one.modules[side].state_dict().items()}


def step(one: Any, number: int = 0) -> dict[str, Tensor]:
    one.ctx.seed_layers(number)
    losses: dict[str, Tensor] = one.step(number, one.ctx.rng(number))
    return losses


OFF = {"kd__agkd": 0.0, "kd__cgkd": 0.0, "kd__pd": 0.0, "kd__pairing": "index"}


def test_without_weights_it_is_the_gan_that_it_would_be_without_a_teacher(storage: Path, data: DataSet) -> None:
    one, other = training(storage, data, **OFF), plain(storage, data)
    for number in range(3):
        losses, expected = step(one, number), step(other, number)
        assert all(torch.equal(losses[name], expected[name]) for name in expected)
    assert all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def test_the_networks_are_drawn_as_without_a_head(storage: Path, data: DataSet) -> None:
    one, other = training(storage, data), plain(storage, data)
    assert all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def plain_losses() -> set[str]:
    return {"loss_generator", "loss_discriminator_real", "loss_discriminator_fake"}


def literal() -> dict[str, Any]:
    """The paper's forms, on the embeddings of the improved profile."""
    kept = ("distance", "aggregation", "reduction", "patterns_of", "normalisation", "centred", "diversity_in", "pairing", "pd")
    return {f"kd__{name}": PROFILES["paper_literal"][name] for name in kept}


@pytest.mark.parametrize("knobs", [{}, {"kd__profile": "code_faithful"}, literal()], ids=PROFILES)
def test_every_profile_trains_the_head_and_not_the_teacher(knobs: dict[str, Any], storage: Path, data: DataSet) -> None:
    one = training(storage, data, **knobs)
    before = {name: value.clone() for name, value in one.teacher.state_dict().items()}
    head = {name: value.clone() for name, value in one.head.state_dict().items()}
    losses = step(one)
    assert {"loss_agkd", "loss_cgkd"} | ({"loss_pd"} if knobs else set()) == losses.keys() - plain_losses()
    assert all(bool(value.isfinite()) for value in losses.values())
    assert all(torch.equal(value, before[name]) for name, value in one.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in one.teacher.parameters())
    assert not torch.equal(one.head[0].weight, head["0.weight"])
    assert one.modules["kd_head"] is one.head


@pytest.mark.parametrize("weights", [{"kd__pd": 0.0}, {"kd__pd": 50.0, "kd__profile": "code_faithful"}])
def test_the_generators_update_is_the_same_with_and_without(weights: dict[str, Any], storage: Path, data: DataSet) -> None:
    """But for PD where it goes through the teacher, nothing reaches the generator."""
    one, other = training(storage, data, kd__pairing="index", **weights), plain(storage, data)
    for each in (one, other):
        each.orders = torch.Generator().manual_seed(0)
        each.update_generator(0, each.ctx.rng(0))
    assert all(torch.equal(value, state(other)[name]) for name, value in state(one).items())


def test_pd_as_released_has_no_influence(storage: Path, data: DataSet) -> None:
    states = []
    for weight in (0.0, 10.0, 1000.0):
        one = training(storage, data, kd__profile="code_faithful", kd__pd=weight)
        losses = step(one)
        assert ("loss_pd" in losses) == bool(weight)
        states.append(state(one))
    assert all(torch.equal(value, states[0][name]) for other in states[1:] for name, value in other.items())


def test_pd_reaches_the_generator_through_the_teacher(storage: Path, data: DataSet) -> None:
    weights = {"kd__agkd": 0.0, "kd__cgkd": 0.0, "kd__pairing": "index"}
    one, other = training(storage, data, kd__pd=10.0, **weights), training(storage, data, kd__pd=0.0, **weights)
    losses = step(one)
    step(other)
    assert "loss_pd" in losses
    assert not torch.equal(one.generator.linear.weight, other.generator.linear.weight)
    assert all(parameter.grad is None for parameter in one.teacher.parameters())


def test_rows_pair_images_of_a_class(storage: Path, data: DataSet) -> None:
    seen: list[Seen] = []
    for pairing in ("class", "index"):
        one = training(storage, data, kd__pairing=pairing)
        distilled = one.discriminator_terms
        one.discriminator_terms = lambda batch, then=distilled: (seen.append(batch), then(batch))[1]
        step(one)
    of_class, of_index = (batch.batch for batch in seen)
    assert of_class.real_labels is not None
    assert torch.equal(of_class.fake_labels, of_class.real_labels)
    assert not torch.equal(of_index.fake_labels, of_index.real_labels)  # type: ignore[arg-type]
    assert int(of_class.real_labels.max()) < len(data.class_names)


@pytest.mark.parametrize("flip", [False, True])
def test_the_table_holds_what_the_teacher_says_of_each_drawn_image(flip: bool, storage: Path, data: DataSet) -> None:
    one = training(storage, data, gan__flip=flip)
    batch: Any = one.draw(0, torch.Generator().manual_seed(3), reals=True)
    assert one.knowledge.real is not None
    assert len(one.knowledge.real) == len(data.train) * (1 + flip)
    expected = one.teacher.encode_image(batch.reals)
    torch.testing.assert_close(one.knowledge.real[batch.index].float(), expected, rtol=2e-3, atol=2e-3)
    assert torch.equal(batch.real_labels, torch.tensor(data.train.labels)[batch.index % len(data.train)])


def test_mirrored_images_stand_behind_the_others(data: DataSet, tmp_path: Path) -> None:
    real = Resident(data.train)
    images, rows = numbered(real, True, context(tmp_path))(200, torch.Generator().manual_seed(0))
    plain, n = normalise(torch.tensor(data.train.images)), len(data.train)
    assert bool((rows >= n).any())
    assert bool((rows < n).any())
    expected = torch.where((rows >= n)[:, None, None, None], plain[rows % n].flip(3), plain[rows % n])
    assert torch.equal(images, expected)


def test_workers_share_a_drawn_batch(data: DataSet, tmp_path: Path) -> None:
    real = Resident(data.train)
    whole, parts = (
        [numbered(real, True, Context("gan", "key", 0, tmp_path, Store(tmp_path), torch.device("cpu"), rank, world))
         (8, torch.Generator().manual_seed(0)) for rank in range(world)] for world in (1, 2)
    )  # fmt: skip
    for single, both in zip(whole[0], zip(*parts, strict=True), strict=True):
        assert torch.equal(single, torch.cat(both))


def test_an_interrupted_training_goes_on_to_the_bit(storage: Path, data: DataSet, tmp_path: Path) -> None:
    knobs = {"gan__lecam": 0.3, "gan__lecam_start": 0, "kd__aggregation": 0.5}
    undisturbed, first, second = (training(storage, data, **knobs) for _ in range(3))
    expected = [step(undisturbed, number) for number in range(4)]
    for number in range(2):
        step(first, number)
    modules = {"modules": {n: m.state_dict() for n, m in first.modules.items()}}
    torch.save(modules | {"optimizers": {n: o.state_dict() for n, o in first.optimizers.items()}}, tmp_path / "state.pt")
    kept = torch.load(tmp_path / "state.pt", weights_only=True)
    super(type(second).__mro__[1], second).load_state_dict(kept)
    for number in (2, 3):
        found = step(second, number)
        assert all(torch.equal(found[name], expected[number][name]) for name in expected[number])


def test_contrast_is_least_where_images_meet_their_prompts() -> None:
    text, labels, scale = torch.eye(3), torch.tensor([0, 1, 2, 0]), torch.tensor(20.0)
    right, wrong = text[labels], text[(labels + 1) % 3]
    assert float(contrastive_loss(right, text, labels, scale)) < 0.5 < float(contrastive_loss(wrong, text, labels, scale))
    # Image -> text is the cross-entropy; text -> image the mean over the classes there are of their images' log-share.
    images = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    similarity = 20 * F.normalize(images, dim=1) @ text.t()
    shares = similarity.log_softmax(0)
    to_image = -torch.stack([shares[[0, 3], 0].mean(), shares[1, 1], shares[2, 2]]).mean()
    expected = (F.cross_entropy(similarity, labels) + to_image) / 2
    torch.testing.assert_close(contrastive_loss(images, text, labels, scale), expected)


def test_letter_groups_are_the_same_everywhere() -> None:
    assert letter_groups("a 3", 2048) == letter_groups(" A 3 ", 2048)
    assert letter_groups("ab", 64) == [19, 45, 18, 32, 40, 24]
    assert set(letter_groups("a dog", 2048)) & set(letter_groups("a photo of a dog", 2048))


def test_prompts_follow_the_data_or_the_released_code() -> None:
    names = ("red_fox", "cat")
    assert sentences(KdConfig(), names) == [[t.format("red fox"), t.format("cat")] for t in TEMPLATES]
    assert sentences(KdConfig(profile="paper_literal"), names) == [["a red fox", "a cat"]]
    assert sentences(KdConfig(profile="code_faithful"), names) == [[f"a {name}" for name in CIFAR10]]
    assert sentences(KdConfig(prompt_list=("one", "two")), names) == [["one", "two"]]
    teacher = MockTeacher(1, 8, 8)
    single = text_features(teacher, KdConfig(profile="paper_literal"), names)
    assert torch.equal(single, teacher.encode_text(["a red fox", "a cat"]))
    averaged = text_features(teacher, KdConfig(), names)
    assert bool((averaged.norm(dim=1) < 1).all())


def test_a_profile_gives_what_is_not_set() -> None:
    assert form(KdConfig(), "distance") == "cosine"
    assert form(KdConfig(profile="code_faithful"), "distance") == "l2"
    assert form(KdConfig(profile="code_faithful", distance="l1"), "distance") == "l1"
    assert all(set(knobs) == set(PROFILES["improved"]) for knobs in PROFILES.values())
    assert set(PROFILES["improved"]) <= set(KdConfig.model_fields)


@pytest.mark.parametrize(("preprocess", "resize"), [("raw", "nearest"), ("native", "bilinear"), ("native", "bicubic")])
def test_a_teacher_prepares_images(preprocess: str, resize: str) -> None:
    teacher = MockTeacher(3, 8, 16)
    teacher.preprocess, teacher.resize = preprocess, resize
    teacher.statistics = ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    grey = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    prepared = teacher.prepared(grey)
    assert prepared.shape == (1, 3, 16, 16)
    assert torch.equal(prepared[:, 0], prepared[:, 2])
    if preprocess == "raw":
        assert torch.equal(prepared[0, 0], grey[0, 0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    else:
        assert float(prepared.max()) == pytest.approx(2.0, abs=0.2)  # (1 - 0.5) / 0.25


def test_gradients_reach_images_only_when_asked_for() -> None:
    teacher = OfflineTeacher(1, 8, 8, (8, 16), 64, 8).requires_grad_(False).eval()
    images = torch.zeros(2, 1, 8, 8, requires_grad=True)
    assert not teacher.encode_image(images).requires_grad
    teacher.encode_image(images, allow_input_grad=True).sum().backward()
    assert images.grad is not None


def test_a_fingerprint_is_of_weights_and_of_what_is_done_to_images() -> None:
    torch.manual_seed(0)
    teacher = OfflineTeacher(1, 8, 8, (8,), 64, 8)
    before = teacher.fingerprint()
    teacher.resize = "nearest"
    other = teacher.fingerprint()
    teacher.resize = "bilinear"
    assert teacher.fingerprint() == before != other
    teacher.image[0].weight.data[0, 0, 0, 0] += 1
    assert teacher.fingerprint() != before


def test_the_offline_teacher_learns_its_classes(tmp_path: Path) -> None:
    knobs = {"teacher__steps": 200, "teacher__embed_dim": 32, "teacher__widths": [16, 32], "teacher__diffaugment": []}
    cfg = config(**knobs)
    job = Job("kd_dlgan", cfg.model_dump(mode="json"), str(tmp_path), stages=("teacher",), threads=1)
    metrics = run(job)
    assert metrics["teacher/val_accuracy"] > 70
    assert metrics["teacher/val_accuracy_unseen"] > 50
    data = load(cfg.data)
    made = artifact(tmp_path, "teacher", cfg, data)
    teacher = load_teacher(made, "cpu", "native", "bilinear")
    assert zero_shot(teacher, data.val, data.class_names)["val_accuracy"] == metrics["teacher/val_accuracy"]
    assert "not CLIP" in made.file(CARD).read_text()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_what_a_teacher_knows_is_said(data: DataSet) -> None:
    assert "trained on the same 100 labelled images, not CLIP" in in_words(TeacherConfig(), data)
    assert "for tests only" in in_words(TeacherConfig(kind="mock"), data)


def test_embeddings_where_the_teacher_sees_what_the_discriminator_sees(storage: Path, data: DataSet) -> None:
    tensors = [load_file(artifact(storage, "embeddings", config(**knobs), data).file(EMBEDDINGS))
               for knobs in ({}, {"kd__profile": "code_faithful"})]  # fmt: skip
    assert tensors[0].keys() == {"text", "centre", "images"}
    assert tensors[1].keys() == {"text", "centre"}
    assert not tensors[1]["centre"].any()  # nothing asks for it, so no image was looked at
    assert tensors[1]["text"].shape == (len(CIFAR10), 16)
    assert tensors[0]["images"].dtype == torch.float16
