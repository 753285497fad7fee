"""The losses of RGAL against reference fixtures and worked examples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.rgal import losses
from methods.rgal.contrast import Contrast, instance_features
from methods.rgal.relations import distances
from tests.methods.rgal_fixtures import arrays, filled, texts

KD = arrays("kd")
TEMPERATURES = sorted(int(key.removeprefix("kd_T")) for key in KD if key.removeprefix("kd_T").isdigit())


def count(reference: dict[str, Tensor], name: str) -> int:
    """How many arrays `name`0, `name`1, ... there are."""
    return sum(key.removeprefix(name).isdigit() for key in reference if key.startswith(name))


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_distillation(temperature: int) -> None:
    rtol = 1e-4 if temperature < 10 else 1e-3  # T^2 times a small difference
    student = KD["student_logits"].clone().requires_grad_()
    loss = losses.distillation_loss(student, KD["teacher_logits"], temperature)
    loss.backward()
    torch.testing.assert_close(loss.detach(), KD[f"kd_T{temperature}"], rtol=rtol, atol=0)
    torch.testing.assert_close(student.grad, KD[f"kd_T{temperature}_grad_student"], rtol=10 * rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "temperature", "expected"),
    [
        ((1, 0), (3, 0), 1, 0.169823),
        ((1, 0), (3, 0), 20, 0.498234),
        ((2, 0, 1), (1, 3, 0), 1, 1.612939),
        ((2, 0, 1), (1, 3, 0), 4, 1.896396),
        ((2, 0, 1), (1, 3, 0), 20, 1.810420),
    ],
)
def test_worked_distillation(student: tuple[int, ...], teacher: tuple[int, ...], temperature: float, expected: float) -> None:
    s, t = torch.tensor([student]).float(), torch.tensor([teacher]).float()
    assert float(losses.distillation_loss(s, t, temperature)) == pytest.approx(expected, rel=1e-3)


def test_adversarial_term() -> None:
    student, teacher = KD["student_logits"].clone().requires_grad_(), KD["teacher_logits"].clone().requires_grad_()
    torch.testing.assert_close(losses.divergence(teacher, student).detach(), KD["kl_per_sample"], rtol=1e-4, atol=1e-6)
    loss = losses.adversarial_loss(student, teacher)
    loss.backward()
    torch.testing.assert_close(loss.detach(), KD["adv_loss"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(student.grad, KD["adv_grad_student"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(teacher.grad, KD["adv_grad_teacher"], rtol=1e-4, atol=1e-6)


def test_worked_adversarial_term() -> None:
    s, t = torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[3.0, 0], [2, 0]])
    assert float(losses.adversarial_loss(s, t)) == pytest.approx(-0.084911, abs=1e-5)


def test_one_hot_balance_and_activation() -> None:
    teacher = KD["teacher_logits"]
    torch.testing.assert_close(losses.one_hot_loss(teacher, KD["targets"]), KD["oh_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.class_balance_loss(teacher), KD["class_balance_loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.activation_loss(teacher), KD["act_loss"], rtol=1e-4, atol=0)
    worked = losses.class_balance_loss(torch.tensor([[2.0, 0, 0], [0, 2, 0]]))
    assert float(worked) == pytest.approx(-0.9585, abs=1e-4)


def test_batch_norm_statistics() -> None:
    reference, total = arrays("bn_loss"), torch.zeros(())
    for i in range(count(reference, "x")):
        maps = reference[f"x{i}"].requires_grad_()
        r = losses.statistics_loss(maps, reference[f"mean{i}"], reference[f"var{i}"])
        r.backward()
        torch.testing.assert_close(r.detach(), reference[f"r{i}"], rtol=1e-4, atol=0)
        torch.testing.assert_close(maps.grad, reference[f"grad{i}"], rtol=1e-3, atol=1e-6)
        if f"instance_mean{i}" in reference:
            torch.testing.assert_close(instance_features([maps.detach()]), reference[f"instance_mean{i}"], rtol=1e-4, atol=1e-6)
        total += r.detach()
    torch.testing.assert_close(total, reference["total"], rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_moments_are_those_of_the_maps(dtype: torch.dtype) -> None:
    """Far from zero, where E[x^2] - E[x]^2 would cancel; a constant channel has variance 0."""
    maps = 3 + 10 * torch.arange(4).view(1, 4, 1, 1) + torch.randn(6, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    maps[:, 3] = 7
    maps = maps.to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    expected = torch.var_mean(maps.float(), dim=(0, 2, 3), correction=0)
    (expected[0].square().sum() + expected[1].sin().sum()).backward()
    gradient, maps.grad = maps.grad, None
    mean, var = losses.channel_moments(maps)
    (var.square().sum() + mean.sin().sum()).backward()
    assert mean.dtype == var.dtype == torch.float32
    torch.testing.assert_close((var, mean), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(maps.grad, gradient, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-5)


def test_worked_batch_norm_statistics() -> None:
    maps = torch.tensor([[[[1.0]], [[0.0]]], [[[3.0]], [[0.0]]]])
    loss = losses.statistics_loss(maps, torch.tensor([0.0, 1.0]), torch.tensor([4.0, 1.0]))
    assert float(loss) == pytest.approx(5.398346, abs=1e-5)


def test_pooled_and_gram_differences() -> None:
    reference = arrays("cd_gram")
    blocks = range(count(reference, "s"))
    student, teacher = ([reference[f"{who}{i}"] for i in blocks] for who in "st")
    weights = [(reference[f"w{i}"], reference[f"b{i}"]) for i in blocks]
    adapted = [torch.nn.functional.conv2d(s, w, b) for s, (w, b) in zip(student, weights)]
    pooled = [torch.nn.functional.conv2d(s.mean((2, 3), keepdim=True), w, b).flatten(1) for s, (w, b) in zip(student, weights)]
    cd = losses.pooled_difference(pooled, [t.mean((2, 3)) for t in teacher])
    torch.testing.assert_close(cd, reference["cd"], rtol=1e-4, atol=0)
    torch.testing.assert_close(losses.gram_loss(adapted, teacher), reference["gram"], rtol=1e-4, atol=0)
    for i, maps in enumerate(teacher):
        torch.testing.assert_close(losses.gram_mask(maps), reference[f"gram_mask{i}"], rtol=1e-3, atol=1e-4)
    worked = losses.gram_mask(torch.tensor([[[[1.0, 2.0]], [[0.0, 1.0]]]]))
    torch.testing.assert_close(worked, torch.tensor([[0.001, 1.001]]), rtol=0, atol=1e-5)


def contrast(reference: dict[str, Tensor]) -> Contrast:
    keys = texts("cmi", "head_keys")
    batch, dim = reference["local"].shape
    built = Contrast(dim, reference["proj"].shape[1], capacity=64, batch=batch)
    state = {key.removeprefix("head."): key for key in keys}
    shapes = {name: tuple(value.shape) for name, value in built.head.state_dict().items()}
    seed = int(reference["fill_seed"])
    built.head.load_state_dict({name: filled(key, shapes[name], seed) for name, key in state.items()})
    return built


def test_contrast_of_cmi() -> None:
    reference = arrays("cmi")
    head, temperature = contrast(reference), float(reference["temperature"])
    local, other = reference["local"].requires_grad_(), reference["global_"].requires_grad_()
    remembered = reference["cached_local"], reference["cached_global"]
    embedded = head.embed(torch.cat([local, remembered[0], other, remembered[1]]))
    torch.testing.assert_close(embedded.detach(), reference["proj"], rtol=1e-4, atol=1e-5)
    per_item = losses.contrastive_loss(*embedded.chunk(2), temperature)
    torch.testing.assert_close(per_item.detach(), reference["per_item"], rtol=1e-3, atol=1e-5)
    loss = head.loss(local, other, remembered, temperature)
    loss.backward()
    torch.testing.assert_close(loss.detach(), reference["loss"], rtol=1e-4, atol=0)
    torch.testing.assert_close(local.grad, reference["grad_local"], rtol=1e-3, atol=1e-5)
    assert other.grad is None or not bool(other.grad.any())
    empty = head.loss(local, other, (local[:0], other[:0]), temperature)
    torch.testing.assert_close(empty.detach(), reference["loss_empty_bank"], rtol=1e-4, atol=0)


@pytest.mark.parametrize(("temperature", "expected"), [(0.5, 0.126928), (0.1, 4.54e-5)])
def test_worked_contrast(temperature: float, expected: float) -> None:
    loss = losses.contrastive_loss(torch.eye(2), torch.eye(2), temperature).mean()
    assert float(loss) == pytest.approx(expected, rel=1e-3)


def test_the_ring_of_the_contrast_holds_at_exactly_full() -> None:
    """The reference draws nothing from a ring that has just become full, and its loss is NaN."""
    built = Contrast(4, 4, capacity=16, batch=8)
    for turn in range(1, 5):
        built.kept.fill_(turn)
        built.remember_kept()
        local, other = built.remembered(4096, torch.Generator().manual_seed(0))
        assert len(local) == min(8 * turn, 16)
        assert sorted(set(local[:, 0].tolist())) == [max(1, turn - 1), turn][turn == 1 :]
        assert bool(built.loss(torch.randn(8, 4), torch.randn(8, 4), (local, other), 0.1).isfinite())


def test_nothing_is_computed_in_half_precision() -> None:
    student, teacher = KD["student_logits"], KD["teacher_logits"]
    maps = arrays("bn_loss")["x0"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert losses.distillation_loss(student.bfloat16(), teacher.bfloat16(), 20).dtype == torch.float32
        mean, var = torch.zeros(maps.shape[1]), torch.ones(maps.shape[1])
        assert losses.statistics_loss(maps.bfloat16(), mean, var).dtype == torch.float32
        assert distances(student.bfloat16()).dtype == torch.float32
        assert losses.adversarial_loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32
