"""Every KD loss against the reference's arrays, and what must hold for any input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.cgan_kd.config import KD_FORMS
from methods.cgan_kd.kd import connectors, contrast, features, relations, review, rotations
from methods.cgan_kd.kd.logits import soft_targets
from methods.cgan_kd.kd.seen import Drawn, Seen

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        return {key: torch.from_numpy(np.asarray(file[key])) for key in file.files}


def same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours.detach().double().squeeze(), theirs.double().squeeze(), rtol=1e-5, atol=1e-7)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Against the reference.


@pytest.mark.parametrize(
    ("name", "loss", "student", "teacher"),
    [
        ("kd_loss", lambda s, t: soft_targets(s, t, 4.0), "logit_s", "logit_t"),
        ("kd_loss_T10", lambda s, t: soft_targets(s, t, 10.0), "logit_s", "logit_t"),
        ("hint", F.mse_loss, "feat_s", "feat_t"),
        ("rkd", relations.relational, "feat_s", "feat_t"),
        ("pkt", relations.probabilistic, "feat_s", "feat_t"),
        ("cc", relations.correlation, "feat_s", "feat_t"),
        ("at", features.attention, "map_s", "map_t"),
        ("sp", relations.similarity_preserving, "map_s", "map_t"),
        ("ft", features.factors, "map_s", "map_t"),
        ("nst", features.selectivity, "map_s", "map_t"),
        ("ab", features.boundaries, "ab_s", "ab_t"),
    ],
)
def test_reference_losses(name: str, loss: Callable[[Tensor, Tensor], Tensor], student: str, teacher: str) -> None:
    values = arrays("kd_losses")
    same(loss(values[student], values[teacher]), values[name])


def test_reference_fsp() -> None:
    values = arrays("kd_losses")
    same(features.solution_flow(*([values[f"fsp_{who}{i}"] for i in (0, 1)] for who in "st")), values["fsp"])


def test_reference_vid() -> None:
    values = arrays("kd_losses")
    part = connectors.Likelihood(4, 8)
    same(part.scale, values["vid_log_scale"])
    with torch.no_grad():
        for i in (0, 2, 4):
            part.regressor[i].weight.copy_(values[f"vid_regressor_{i}_weight"])
    same(part(values["map_s"], values["map_t"]), values["vid"])


def test_reference_crd() -> None:
    values = arrays("crd")
    n_data = int(values["n_data"])
    of_student, of_teacher = contrast.Memory(n_data, 4), contrast.Memory(n_data, 4)
    of_student.rows.copy_(values["mem1_before"])
    of_teacher.rows.copy_(values["mem2_before"])
    scores_s = of_teacher.scores(values["v_s"], values["contrast_idx"])
    scores_t = of_student.scores(values["v_t"], values["contrast_idx"])
    same(of_teacher.z, values["Z1"])
    same(of_student.z, values["Z2"])
    same(scores_s, values["out_v1"])
    same(scores_t, values["out_v2"])
    same(contrast.noise_contrast(scores_s, n_data), values["loss_s"])
    same(contrast.noise_contrast(scores_t, n_data), values["loss_t"])
    of_student.update(values["v_s"], values["index"])
    of_teacher.update(values["v_t"], values["index"])
    same(of_student.rows, values["mem1_after"])
    same(of_teacher.rows, values["mem2_after"])


def test_reference_reviewkd() -> None:
    values = arrays("reviewkd_hcl")
    student, teacher = ([values[f"{who}{i}"] for i in range(4)] for who in "st")
    same(review.hierarchical_context(student, teacher), values["hcl"])
    for s, t, each in zip(student, teacher, values["hcl_each"], strict=True):
        same(review.hierarchical_context([s], [t]), each)


def test_takd_is_soft_targets_with_other_weights() -> None:
    values = arrays("takd_loss")
    share, temperature = float(values["lambda_kd"]), float(values["T"])
    soft = soft_targets(values["logit_s"], values["logit_t"], temperature)
    loss = (1 - share) * F.cross_entropy(values["logit_s"], values["labels"]) + share * soft
    torch.testing.assert_close(loss, values["loss"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("setting", ["cifar", "alt"])
def test_reference_sskd(setting: str) -> None:
    values = arrays("sskd_loss")
    one = {key.removeprefix(f"{setting}_"): value for key, value in values.items()}
    student, teacher = values["student_logits"], values["teacher_logits"]
    found_s, found_t = (rotations.similarities(values[f"{who}_proj"]) for who in ("student", "teacher"))
    labels, partners = (x.repeat_interleave(3) for x in (values["labels"], torch.arange(len(values["labels"]))))
    kept = rotations.trusted(rotations.turned(teacher), labels, float(one["ratio_tf"]))
    kept_found = rotations.trusted(found_t, partners, float(one["ratio_ss"]))
    assert kept.nonzero()[:, 0].tolist() == one["index_tf"].tolist()
    assert kept_found.nonzero()[:, 0].tolist() == one["index_ss"].tolist()
    terms = [
        F.cross_entropy(student[::4], values["labels"]),
        soft_targets(student[::4], teacher[::4], 4.0),
        rotations.learned(rotations.turned(student), rotations.turned(teacher), rotations.TEMPERATURE, kept),
        rotations.learned(found_s, found_t, rotations.SIMILARITY_TEMPERATURE, kept_found),
    ]
    for i, term in enumerate(terms, start=1):
        same(term, one[f"loss{i}"])
    weights = [float(one["ce_weight"]), KD_FORMS["sskd"]["kd_soft"], rotations.ROTATED, rotations.SIMILARITIES]
    same(torch.stack([weight * term for weight, term in zip(weights, terms, strict=True)]).sum(), one["total"])


def test_the_worked_number_of_soft_targets() -> None:
    assert float(soft_targets(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]]), 4.0)) == pytest.approx(1.3196299)


# What holds for any input.

OF_MAPS = {
    "at": features.attention,
    "ft": features.factors,
    "nst": features.selectivity,
    "sp": relations.similarity_preserving,
    "fsp": lambda s, t: features.solution_flow([s, s[:, :, ::2, ::2]], [t, t[:, :, ::2, ::2]]),
    "kdsvd": lambda s, t: features.singular_vectors([s, s[:, :, ::2, ::2]], [t, t[:, :, ::2, ::2]]),
    "reviewkd": lambda s, t: review.hierarchical_context([s], [t]),
}
OF_FEATURES = {
    "blkd": lambda s, t: soft_targets(s, t, 4.0),
    "rkd": relations.relational,
    "pkt": relations.probabilistic,
    "cc": relations.correlation,
}
SCALE_DOES_NOT_MATTER = ("at", "ft", "nst", "sp", "kdsvd", "rkd", "pkt")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000))
@pytest.mark.parametrize("name", [*OF_MAPS, *OF_FEATURES])
def test_a_loss_is_zero_at_equal_inputs_and_positive_elsewhere(name: str, seed: int) -> None:
    loss, shape = (OF_MAPS[name], (5, 4, 6, 6)) if name in OF_MAPS else (OF_FEATURES[name], (5, 7))
    student, teacher = seeded(*shape, seed=seed), seeded(*shape, seed=seed + 1)
    assert float(loss(teacher, teacher)) == pytest.approx(0, abs=1e-6)
    assert float(loss(student, teacher)) > 1e-6


@pytest.mark.parametrize("name", SCALE_DOES_NOT_MATTER)
def test_the_students_scale_does_not_matter(name: str) -> None:
    loss, shape = (OF_MAPS[name], (5, 4, 6, 6)) if name in OF_MAPS else (OF_FEATURES[name], (5, 7))
    student, teacher = seeded(*shape), seeded(*shape, seed=1)
    torch.testing.assert_close(loss(3 * student, teacher), loss(student, teacher), rtol=1e-3, atol=1e-6)


def test_ab_knows_only_the_teachers_signs_and_is_zero_beyond_the_margin() -> None:
    student, teacher = seeded(3, 4, 5, 5), seeded(3, 4, 5, 5, seed=1)
    torch.testing.assert_close(features.boundaries(student, 7 * teacher.relu()), features.boundaries(student, teacher))
    assert float(features.boundaries(1.5 * teacher.sign(), teacher)) == 0


def test_the_gradient_of_eigenvectors_is_exact_where_they_are_distinct_and_finite_where_not() -> None:
    student, teacher = seeded(2, 4, 6, 6).double().requires_grad_(), seeded(2, 4, 6, 6, seed=1).double()
    assert torch.autograd.gradcheck(lambda s: OF_MAPS["kdsvd"](s, teacher), (student,), atol=1e-4)
    flat = torch.zeros(2, 4, 3, 3, requires_grad=True)
    OF_MAPS["kdsvd"](flat, seeded(2, 4, 3, 3)).backward()
    assert flat.grad is not None
    assert bool(flat.grad.isfinite().all())


@pytest.mark.parametrize("size", [(8, 4), (4, 8), (8, 8), (8, 3)])
def test_a_regressor_brings_the_students_map_to_the_teachers_shape(size: tuple[int, int]) -> None:
    student, teacher = seeded(2, 3, size[0], size[0]), seeded(2, 5, size[1], size[1])
    assert connectors.regressor(student, teacher, relu=True)(student).shape == teacher.shape


def seen(width: int, seed: int) -> Seen:
    maps = [seeded(6, width, size, size, seed=seed) for size in (8, 4, 2)]
    return Seen(seeded(6, 10, seed=seed), maps[-1].mean((2, 3)), maps)


def test_ft_trains_the_paraphraser_beforehand_and_the_translator_afterwards() -> None:
    student, teacher = seen(4, 0), seen(8, 1)
    loss = connectors.Factors(student, teacher)

    def trained(value: Tensor) -> set[str]:
        loss.zero_grad(set_to_none=True)
        value.backward()
        return {name for name, part in loss.named_children() if any(p.grad is not None for p in part.parameters())}

    assert trained(loss.pretrain(lambda: student, teacher)) == {"paraphraser", "decoder"}
    assert trained(loss(student, teacher, None)) == {"translator"}


def test_reviewkd_fuses_maps_of_other_sizes_and_numbers() -> None:
    student, teacher = seen(4, 0), seen(8, 1)
    fewer = Seen(teacher.logits, teacher.features, [map_[:, :, ::2, ::2] for map_ in teacher.maps[:2]])
    loss = review.Review(student, fewer)
    assert loss(student, fewer, None).isfinite()
    assert len(loss.fusions) == 3  # the pooled features, and two maps
    assert isinstance(loss.fusions[0].narrow[0], nn.Conv2d)


def test_negatives_are_of_other_classes_each_as_likely() -> None:
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2, 2])
    index = torch.tensor([0, 1, 6])
    drawn = contrast.OtherClasses(labels).draw(index, 6000, torch.Generator().manual_seed(0))
    for place, row in zip(index, drawn, strict=True):
        counts = torch.bincount(row, minlength=len(labels)).float()
        allowed = labels != labels[place]
        assert bool((counts[~allowed] == 0).all())
        shares = counts[allowed] / 6000
        torch.testing.assert_close(shares, torch.full_like(shares, 1 / len(shares)), rtol=0, atol=0.03)


def test_a_rotated_image_is_taught_by_answers_that_are_right_first() -> None:
    answers = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 2.0, 0.0]])
    right = torch.tensor([0, 0, 2, 1])  # ranks 2, 0, 1, 0
    for share, kept in ((0.0, [1, 3]), (0.5, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        assert rotations.trusted(answers, right, share).nonzero()[:, 0].tolist() == kept


def test_sskd_shows_each_image_in_four_rotations() -> None:
    images = seeded(2, 1, 3, 3)
    views = rotations.SelfSupervised(seen(4, 0), seen(8, 1)).views(images)
    assert torch.equal(views[::4], images)
    assert torch.equal(views[5], torch.rot90(images[1], 1, (1, 2)))
    assert torch.equal(rotations.turned(views)[:3], views[1:4])


def test_sskd_pretrains_the_teachers_head_alone() -> None:
    student, teacher = (Seen(*(seeded(8, width, seed=seed) for width in (5, 6)), []) for seed in (0, 1))
    loss = rotations.SelfSupervised(student, teacher)
    loss.pretrain(lambda: student, teacher).backward()
    assert all(p.grad is not None for p in loss.head_teacher.parameters())
    assert all(p.grad is None for p in loss.head_student.parameters())
    loss.zero_grad(set_to_none=True)
    loss(student, teacher, Drawn(torch.tensor([1, 2]), torch.arange(2), torch.Generator())).backward()
    assert all(p.grad is None for p in loss.head_teacher.parameters())
    assert all(p.grad is not None for p in loss.head_student.parameters())
