"""KD-DLGAN's losses, head and iterations against reference values, and worked examples."""

import json
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd.models.ema import ExponentialMovingAverage
from gankd.models.spectral_norm import SNLinear
from gankd.stages.gan_batch import Batch
from gankd.stages.gan_losses import hinge_discriminator, hinge_generator
from gankd.stages.gan_regularisers import LeCam
from gankd.stages.sections import GanTrainingConfig
from methods.kd_dlgan.config import KdConfig
from methods.kd_dlgan.distillation import KdHead, KdTraining, Knowledge
from methods.kd_dlgan.losses import (
    aggregated_distances,
    distance,
    pairwise_similarity,
    pattern_distance,
    permuted_differences,
    similarity_pattern,
)
from tests.unit.biggan_fixtures import FIXTURES, close, fixture
from tests.unit.gan_fixtures import context

HALF = 5e-3  # of what the reference computes in half precision, and we do not


def relative(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.detach().to(expected.dtype), expected, rtol=tolerance, atol=tolerance * 1e-2)


def agkd(f: dict[str, Tensor], half: bool = False) -> tuple[Tensor, Tensor]:
    real, fake = (f[name].half() if half else f[name] for name in ("clip_real", "clip_fake"))
    found = aggregated_distances(real, fake, f["D_real"], f["D_fake"], "l2")
    return found.distilled_real + found.aggregated_real, found.distilled_fake + found.aggregated_fake


def test_agkd_as_released() -> None:
    f = fixture("kd_dlgan/agkd_triplet")
    f |= {name: f[name].requires_grad_() for name in ("D_real", "D_fake")}
    real, fake = agkd(f)
    relative(real, f["ref_real"], 1e-5)
    relative(fake, f["ref_fake"], 1e-5)
    (real + fake).backward()
    relative(cast(Tensor, f["D_real"].grad), f["ref_grad_D_real"], 1e-4)
    relative(cast(Tensor, f["D_fake"].grad), f["ref_grad_D_fake"], 1e-4)
    relative(agkd(f, half=True)[0], f["ref_real_halfclip"], HALF)


def test_cgkd_as_released() -> None:
    f = fixture("kd_dlgan/cgkd_image_text")
    student = f["D_feat"].requires_grad_()
    teacher = similarity_pattern(f["clip_feat"], f["text"], "row")
    value = pattern_distance(similarity_pattern(student, f["text"], "row"), teacher, "sum")
    value.backward()
    gradient = cast(Tensor, student.grad)
    for precision, tolerance in (("fp32", 1e-5), ("fp16", HALF)):
        relative(value, f[f"ref_sim_{precision}"][0], tolerance)
        largest = float(f[f"ref_sim_{precision}_grad_D"].abs().max())
        close(gradient / largest, f[f"ref_sim_{precision}_grad_D"] / largest, 1e-4 if precision == "fp32" else HALF)
        relative(permuted_differences(teacher, f["perm"]), f[f"ref_outdist_{precision}"][0], tolerance)
    assert not bool(f["ref_outdist_requires_grad"])


def test_forms_of_the_paper() -> None:
    f = fixture("kd_dlgan/paper_forms_derived")
    found = aggregated_distances(f["clip_real"], f["clip_fake"], f["D_real"], f["D_fake"], "l1")
    relative(found.distilled_real + found.distilled_fake, f["agkd_kd"], 1e-5)
    relative(found.aggregated_real + found.aggregated_fake, f["agkd_agg"], 1e-5)
    per_sample = distance(f["clip_real"], f["D_real"], "l1") + distance(f["clip_fake"], f["D_fake"], "l1")
    relative(per_sample, f["agkd_kd_per_sample"], 1e-5)
    for name, normalisation in (("row", "row"), ("fro", "matrix")):
        teacher = similarity_pattern(f["clip_fake"], f["text"], normalisation)
        student = similarity_pattern(f["D_fake"], f["text"], normalisation)
        close(teacher, f[f"C_T_{name}"], 1e-5)
        close(student, f[f"C_S_{name}"], 1e-5)
        relative(pattern_distance(student, teacher, "l1_mean"), f[f"cgkd_kd_{name}_l1_mean"], 1e-5)
    teacher = similarity_pattern(f["clip_fake"], f["text"], "row")
    relative(pairwise_similarity(teacher, "sum"), f["cgkd_pd_sum"], 1e-5)
    relative(pairwise_similarity(teacher), f["cgkd_pd_mean"], 1e-5)


def test_worked_examples() -> None:
    teacher_real, student_real = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 0]])
    teacher_fake, student_fake = torch.tensor([[0.0, 2]]), torch.tensor([[1.0, 1]])
    found = aggregated_distances(teacher_real, teacher_fake, student_real, student_fake, "l2")
    close(torch.stack(found), torch.tensor([1, 2**0.5, 1, 2.0]), 1e-6)
    l1 = aggregated_distances(teacher_real, teacher_fake, student_real, student_fake, "l1")
    assert float(l1.distilled_real + l1.distilled_fake) == float(l1.aggregated_real + l1.aggregated_fake) == 1.5
    text = torch.eye(2)
    student = similarity_pattern(torch.tensor([[3.0, 4], [1, 0]]), text, "row")
    teacher = similarity_pattern(torch.tensor([[1.0, 0], [0, 2]]), text, "row")
    close(pattern_distance(student, teacher, "sum"), torch.tensor(2.8), 1e-6)
    close(pattern_distance(student, teacher, "batch_mean"), torch.tensor(1.4), 1e-6)
    close(pattern_distance(student, teacher, "l1_mean"), torch.tensor(0.8), 1e-6)
    assert float(permuted_differences(teacher, torch.tensor([1, 0]))) == 4
    assert float(permuted_differences(teacher, torch.tensor([0, 1]))) == 0
    alike = teacher[:1].repeat(2, 1)
    assert (float(pairwise_similarity(teacher, "sum")), float(pairwise_similarity(alike, "sum"))) == (0, 2)


@pytest.mark.parametrize(("kind", "expected"), [("cosine", 1.0), ("smooth_l1", 0.5)])
def test_distances_of_directions_ignore_the_length(kind: str, expected: float) -> None:
    a, b = torch.tensor([[2.0, 0]]), torch.tensor([[0.0, 5]])
    close(distance(a, b, kind), torch.tensor([expected]), 1e-6)
    close(distance(a, 3 * a, kind), torch.zeros(1), 1e-6)


def test_softmax_patterns_are_sharper_when_cold() -> None:
    features, text = torch.randn(4, 8), torch.randn(3, 8)
    warm, cold = (similarity_pattern(features, text, "softmax", temperature) for temperature in (1.0, 0.05))
    close(warm.sum(1), torch.ones(4), 1e-6)
    assert bool((cold.amax(1) > warm.amax(1)).all())


def test_lecam_and_its_anchors() -> None:
    f = fixture("kd_dlgan/lecam_hinge")
    lecam = LeCam(float(f["decay"]), int(f["start_itr"]))
    lecam.real.fill_(float(f["init"]))
    lecam.fake.fill_(float(f["init"]))
    for t, step in enumerate(f["itr"].tolist()):
        real, fake = f["D_real"][t].clone().requires_grad_(), f["D_fake"][t].clone().requires_grad_()
        for value, name in zip(hinge_discriminator(real, fake), ("hinge_real", "hinge_fake"), strict=True):
            relative(value, f[name][t], 1e-5)
        relative(hinge_generator(fake), f["hinge_gen"][t], 1e-5)
        lecam.update(step, real.mean(), fake.mean())
        relative(lecam.real, f["ema_D_real_after"][t], 1e-5)
        relative(lecam.fake, f["ema_D_fake_after"][t], 1e-5)
        term = lecam(step, real, fake)
        if not f["lecam_active"][t]:
            assert float(term) == 0
            continue
        relative(term, f["lecam_reg"][t], 1e-5)
        term.backward()
        relative(cast(Tensor, real.grad), f["lecam_grad_D_real"][t], 1e-4)
        relative(cast(Tensor, fake.grad), f["lecam_grad_D_fake"][t], 1e-4)


def test_the_head() -> None:
    f = fixture("kd_dlgan/sn_kd_head")
    (hidden, width), outputs = f["W1"].shape, len(f["W2"])
    head = KdHead(width, hidden, outputs, sn_eps=1e-8, init="N02", rng_seed=0)
    layers = cast(list[SNLinear], list(head))
    for layer, number in zip(layers, (1, 2), strict=True):
        layer.load_state_dict({"weight": f[f"W{number}"], "bias": f[f"b{number}"], "u0": f[f"u{number}_before"]})
    for call in range(1, 5):
        close(head(f["h"]), f[f"out_train_call{call}"], 1e-5)
        for layer, number in zip(layers, (1, 2), strict=True):
            close(layer.u0, f[f"u{number}_after{call}"], 1e-5)
    close(head.eval()(f["h"]), f["out_eval"], 1e-5)
    out = head.train()(f["h"])
    close(out, f["out_train_for_grad"], 1e-5)
    out.backward(f["cot"])
    for layer, number in zip(layers, (1, 2), strict=True):
        relative(cast(Tensor, layer.weight.grad), f[f"grad_W{number}"], 1e-4)


def test_model_average() -> None:
    f = fixture("kd_dlgan/model_ema")
    network = nn.Linear(3, 2, bias=False)
    network.register_buffer("buf", f["target_init_buf"].clone())
    network.weight.data.copy_(f["target_init_w"])
    ema = ExponentialMovingAverage(network, float(f["decay"]), int(f["start_itr"]))
    for j, iteration in enumerate(f["itr"].tolist()):
        network.weight.data.copy_(f[f"src_w_{j}"])
        network.buf.copy_(f[f"src_buf_{j}"])  # type: ignore[operator]
        ema.update(iteration)
        close(ema.average.weight, f[f"tgt_w_{j}"], 1e-6)
        close(ema.average.buf, f[f"tgt_buf_{j}"], 1e-6)


class ToyGenerator(nn.Module):
    def __init__(self, f: dict[str, Tensor]) -> None:
        super().__init__()
        pixels, dim_z = f["fc.weight"].shape
        self.fc, self.emb = nn.Linear(dim_z, pixels), nn.Embedding(*f["emb.weight"].shape)
        self.load_state_dict(f)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return torch.tanh(self.fc(z) + self.emb(labels)).view(-1, 3, 2, 2)


class ToyDiscriminator(nn.Module):
    def __init__(self, f: dict[str, Tensor]) -> None:
        super().__init__()
        width, pixels = f["hid.weight"].shape
        self.hid, self.out = nn.Linear(pixels, width), nn.Linear(width, 1)
        self.emb = nn.Embedding(*f["emb.weight"].shape)
        self.load_state_dict({name: value for name, value in f.items() if not name.startswith("feat.")})

    def features(self, images: Tensor) -> Tensor:
        return self.hid(images.flatten(1)).relu()

    def classify(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.out(features) + (self.emb(labels) * features).sum(1, keepdim=True)


class ToyTeacher:
    """Remembers what it was shown."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.shown = matrix, list[Tensor]()

    def encode_image(self, images: Tensor) -> Tensor:
        self.shown.append(images)
        return images.flatten(1) @ self.matrix.t()


class Replayed(KdTraining):
    """The training on the draws of a fixture."""

    f: dict[str, Tensor]

    def replay(self, f: dict[str, Tensor]) -> None:
        self.f, self.drawn, self.permuted = f, 0, 0

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        f, j = self.f, self.drawn
        self.drawn += 1
        iteration, update = divmod(j, self.cfg.d_steps + 1)
        z, labels = f[f"z_{j}"], f[f"yfake_{j}"]
        if not reals:
            return Batch(z, labels)
        rows = slice(update * self.batch, (update + 1) * self.batch)
        return Batch(z, labels, f[f"x_{iteration}"][rows], f[f"y_{iteration}"][rows])

    def permutation(self, n: int) -> Tensor:
        self.permuted += 1
        return self.f[f"perm_{self.permuted - 1}"]


@pytest.mark.parametrize(("name", "tolerance"), [("train_step_fp32", 1e-4), ("train_step_half", HALF)])
def test_iterations_as_released(name: str, tolerance: float) -> None:
    f = fixture(f"kd_dlgan/{name}")
    with np.load(FIXTURES / f"kd_dlgan/{name}.npz") as arrays:
        c = json.loads(str(arrays["config_json"]))
    cfg = GanTrainingConfig(
        batch=c["batch_size"], d_steps=c["num_D_steps"], d_lr=c["D_lr"], lecam=c["LC"], lecam_start=c["lecam_start_itr"],
        lecam_decay=c["lecam_decay"], ema_decay=c["model_ema_decay"], ema_start=c["model_ema_start"], diffaugment=(),
    )  # fmt: skip
    weights = {side: fixture(f"kd_dlgan/{name}", f"{side}0") for side in "GD"}
    head = nn.Linear(*reversed(weights["D"]["feat.weight"].shape))
    head.load_state_dict({k.removeprefix("feat."): v for k, v in weights["D"].items() if k.startswith("feat.")})
    teacher = ToyTeacher(f["teacher_A"])
    networks: tuple[Any, Any] = ToyGenerator(weights["G"]), ToyDiscriminator(weights["D"])
    training = Replayed(context(), cfg, c["G_lr"], *networks, cast(Any, None), joined={"discriminator": {"kd_head": head}})
    weight = c["kd_weight"]
    kd = KdConfig(profile="code_faithful", agkd=weight, cgkd=weight, pd=weight)
    knowledge = Knowledge(f["text"], None, torch.zeros(f["text"].shape[1]), torch.zeros(1))
    training.distil(kd, cast(Any, teacher), knowledge, cast(Any, head))
    training.replay(f)
    assert training.lecam is not None
    training.lecam.real.copy_(f["ema_D_real_0"])
    training.lecam.fake.copy_(f["ema_D_fake_0"])
    shown: list[Tensor] = []
    whole = training.discriminate
    training.discriminate = lambda images, *of: (shown.append(images), whole(images, *of))[1]  # type: ignore
    for i in range(2):
        metrics = training.step(c["itr0"] + i, torch.Generator())
        expected = fixture(f"kd_dlgan/{name}", f"metric_{i}")
        relative(metrics["loss_generator"], expected["G_loss"], tolerance)
        relative(metrics["loss_discriminator_real"], expected["D_loss_real"], tolerance)
        relative(metrics["loss_discriminator_fake"], expected["D_loss_fake"], tolerance)
        relative(
            metrics["loss_agkd"] + metrics["loss_cgkd"], expected["D_loss_real_reg"] + expected["D_loss_fake_reg"], tolerance
        )
        relative(metrics["loss_pd"], expected["D_loss_outdistri_div"], tolerance)
        relative(metrics["loss_lecam"], expected["D_loss_LC"], tolerance)
        relative(training.lecam.real, f[f"ema_D_real_{i + 1}"], tolerance)
        relative(training.lecam.fake, f[f"ema_D_fake_{i + 1}"], tolerance)
        d = training.discriminator.state_dict() | {f"feat.{k}": v for k, v in head.state_dict().items()}
        states = {"G": training.generator.state_dict(), "D": d, "Gema": training.ema.average.state_dict()}
        for side, state in states.items():
            for key, value in fixture(f"kd_dlgan/{name}", f"{side}{i + 1}").items():
                torch.testing.assert_close(state[key], value, rtol=tolerance, atol=tolerance)
    # The teacher is shown what the discriminator is, generated images first, in its updates only.
    of_discriminator = [images for images in shown if len(images) == 2 * cfg.batch]
    assert len(of_discriminator) == len(teacher.shown) == 4
    assert all(torch.equal(a, b) for a, b in zip(of_discriminator, teacher.shown, strict=True))
