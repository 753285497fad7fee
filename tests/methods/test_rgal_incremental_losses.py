"""The hosts' losses and RGAL's relation term in a growing network, against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.rgal_incremental.config import StudentConfig
from methods.rgal_incremental.hosts import Step, abd, head_loss, rdfcil, rdfcil_scales, weighted_sum

OLD, NEW, REAL = 3, 2, 4


def seen() -> Step:
    """Four real images of classes 3 and 4, and six synthetic ones of classes 0 to 2; features of width 8."""
    torch.manual_seed(0)
    n = REAL + 6
    labels = torch.tensor([3, 4, 4, 3, 0, 1, 2, 2, 1, 0])
    new = (torch.randn(n, OLD + NEW, requires_grad=True), torch.randn(n, 8, requires_grad=True), [])
    return Step(new, (torch.randn(n, OLD), torch.randn(n, 8), []), labels, REAL)


def gradients(loss: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    found = torch.autograd.grad(loss, step.new[:2], allow_unused=True)
    return tuple(torch.zeros_like(of) if g is None else g for g, of in zip(found, step.new[:2], strict=True))  # type: ignore[return-value]


def test_rdfcil_weighs_by_the_numbers_of_classes() -> None:
    """20 new beside 80 old classes: alpha = log2(11), beta = 2."""
    ce, kd = rdfcil_scales(20, 80)
    assert ce == pytest.approx((1 + 1 / math.log2(11)) / 2)
    assert kd == pytest.approx(2 * math.log2(11))


def test_rdfcil() -> None:
    step = seen()
    terms = rdfcil(StudentConfig(host="rdfcil"), step)
    ce, kd = rdfcil_scales(NEW, OLD)
    assert {name: weight for name, (weight, _) in terms.items()} == pytest.approx(
        {"ce": 0.5 * ce, "kd": 0.15 * kd, "rkd": 0.5 * kd}
    )
    logits, old = step.new[0], step.old[0]
    torch.testing.assert_close(terms["kd"][1], (logits[REAL:, :OLD] - old[REAL:]).abs().mean())
    torch.testing.assert_close(terms["ce"][1], F.cross_entropy(logits[:REAL, OLD:], torch.tensor([0, 1, 1, 0])))
    # The new classes are learnt among themselves, from real images; the old ones kept by synthetic ones; angles by real ones.
    by_logits, _ = gradients(terms["ce"][1], step)
    assert not by_logits[REAL:].any()
    assert not by_logits[:, :OLD].any()
    _, by_features = gradients(terms["rkd"][1], step)
    assert by_features[:REAL].any()
    assert not by_features[REAL:].any()


def test_angles_do_not_know_of_turning_and_scaling() -> None:
    step = seen()
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    same = step._replace(old=(step.old[0], 3 * step.new[1].detach() @ turn, []))
    assert float(rdfcil(StudentConfig(host="rdfcil"), same)["rkd"][1].detach()) == pytest.approx(0, abs=1e-6)


def test_abd() -> None:
    step = seen()
    torch.manual_seed(1)
    head, old_head = nn.Linear(8, OLD + NEW), nn.Linear(8, OLD).requires_grad_(False)
    step = step._replace(old=(old_head(step.old[1]), step.old[1], []))
    terms = abd(StudentConfig(), step, head, old_head)
    assert {name: weight for name, (weight, _) in terms.items()} == {"ce": 1.0, "head": 1.0, "kd": 0.1}
    expected = ((step.new[1] - step.old[1]) @ old_head.weight.T).square().mean()
    torch.testing.assert_close(terms["kd"][1], expected)
    loss = weighted_sum(terms)
    torch.testing.assert_close(loss, terms["ce"][1] + terms["head"][1] + 0.1 * terms["kd"][1])


def test_the_last_layer_is_balanced_by_classes_and_nothing_below_it_is_moved() -> None:
    step, head = seen(), nn.Linear(8, OLD + NEW)
    loss = head_loss(step, head)
    losses = F.cross_entropy(head(step.new[1]), step.labels, reduction="none").detach()
    torch.testing.assert_close(loss.detach(), 2 / 5 * losses[:REAL].mean() + 3 / 5 * losses[REAL:].mean())
    _, by_features = gradients(loss, step)
    assert not by_features.any()
    assert torch.autograd.grad(head_loss(step, head), head.weight)[0].any()


@pytest.mark.parametrize("sampling", ["student", "teacher"])
def test_real_images_of_new_classes_are_negatives_and_no_pairs(sampling: Any) -> None:
    """Two synthetic images of one class, and real ones, which alone can be negatives."""
    from methods.rgal_incremental.replay import Replay

    torch.manual_seed(0)
    features = torch.randn(5, 8, requires_grad=True)
    labels = torch.tensor([1, 1, 2, 0, 0])
    step = Step((torch.randn(5, 3), features, []), (torch.randn(5, 1), torch.randn(5, 8), []), labels, 3)
    replay = Replay.__new__(Replay)
    replay.cfg, replay.classes = StudentConfig(striplet_sampling=sampling, margin=2.0), 3
    loss = replay.relation(step, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(loss, features)
    assert gradient[3:].any(dim=1).all()
    assert gradient[:3].any()
    # Of the two anchors each has drawn one negative: all other real images are left alone, though two have one class.
    assert int(gradient[:3].any(dim=1).sum()) <= 2
    unit = F.normalize(features.detach(), dim=1)
    gap = torch.linalg.vector_norm(unit[3] - unit[4])
    nearest = torch.cdist(unit[3:], unit[:3])
    bounds = [float(gap - d + 2.0) for d in (nearest.max(), nearest.min())]
    assert bounds[0] <= float(loss.detach()) <= bounds[1]
