"""The relation terms of RGAL: sampler and triplets against reference fixtures, worked examples, and what they do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from methods.rgal.relations import (
    DISTANCE_WEIGHTED,
    Direction,
    Sampler,
    distances,
    draw_negatives,
    log_weight,
    negative_probabilities,
    relation_loss,
    triplet_loss,
)

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rgal"
SAMPLERS = {"distance": DISTANCE_WEIGHTED, "focal": Sampler(0.5, 1.0)}


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


SAMPLER = fixture("sampler")
BATCHES = sorted(key.removesuffix("_anchor") for key in SAMPLER if key.endswith("_anchor"))
BY_HAND = sorted(key.removesuffix("_logits") for key in SAMPLER if key.startswith("hand") and key.endswith("_logits"))


def negatives_of(n: int, anchor: Tensor, same: Tensor, drawn: Tensor) -> Tensor:
    """The (N, N) matrix of negatives of a list of triplets."""
    negatives = torch.zeros(n, n, dtype=torch.int64)
    negatives[anchor, same] = drawn
    return negatives


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (10, (5.7711, 4.4167, 2.3954, 1.3053, 1.0069, 0.1034, -0.3351)),
        (100, (71.0585, 54.6350, 30.3242, 17.4281, 13.9526, 3.7774, -0.3171)),
    ],
)
def test_log_weights(classes: int, expected: tuple[float, ...]) -> None:
    d = torch.tensor([0.5, 0.6, 0.8, 0.95, 1.0, 1.2, 1.4])
    torch.testing.assert_close(log_weight(d, classes), torch.tensor(expected), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("name", SAMPLERS)
def test_probabilities_are_the_masked_softmax(case: str, name: str) -> None:
    arrays = fixture("sampler")
    logits, labels, anchor = (arrays[f"{case}_{what}"] for what in ("logits", "labels", "anchor"))
    torch.testing.assert_close(distances(logits), arrays[f"{case}_dist"], atol=1e-5, rtol=1e-4)
    found = negative_probabilities(logits, labels, SAMPLERS[name])[anchor]
    torch.testing.assert_close(found, arrays[f"{case}_{name}_p_stable"], atol=1e-4, rtol=1e-3)
    agrees = arrays[f"{case}_{name}_row_agrees"]
    torch.testing.assert_close(found[agrees], arrays[f"{case}_{name}_p_ref"][agrees], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("case", BY_HAND)
def test_a_close_sample_of_the_same_class_does_not_empty_the_row(case: str, name: str) -> None:
    arrays = fixture("sampler")
    found = negative_probabilities(arrays[f"{case}_logits"], arrays[f"{case}_labels"], SAMPLERS[name])[0]
    torch.testing.assert_close(found, arrays[f"{case}_{name}_p_stable"], atol=1e-5, rtol=1e-3)


def test_worked_example_of_five_rows() -> None:
    logits = torch.tensor([[3.0, 0, 0, 0], [2.9, 0.3, 0, 0], [2.4, 1.8, 0, 0], [1.8, 0, 2.4, 0], [1.5, 0, 0, 2.6]])
    labels = torch.tensor([0, 0, 1, 2, 3])
    torch.testing.assert_close(distances(logits)[0, 1:], torch.tensor([0.10304, 0.63246, 0.89443, 1.0003]), atol=1e-4, rtol=0)
    expected = {"focal": (0, 0, 0.6535, 0.3465, 0), "distance": (0, 0, 0.5081, 0.2694, 0.2225)}
    for name, probabilities in expected.items():
        found = negative_probabilities(logits, labels, SAMPLERS[name])[0]
        torch.testing.assert_close(found, torch.tensor(probabilities, dtype=torch.float32), atol=1e-4, rtol=0)


def test_draws_follow_the_probabilities() -> None:
    logits, labels = (SAMPLER[f"{BATCHES[0]}_{what}"] for what in ("logits", "labels"))
    p = negative_probabilities(logits, labels, SAMPLERS["focal"])
    rounds = -(-100_000 // len(p))
    generator = rng()
    drawn = torch.cat([draw_negatives(p, generator) for _ in range(rounds)], 1)
    frequency = torch.stack([row.bincount(minlength=len(p)) for row in drawn]) / drawn.shape[1]
    sigma = (p * (1 - p) / drawn.shape[1]).sqrt()
    assert bool(((frequency - p).abs() <= 5 * sigma + 1e-4).all())
    assert not bool((frequency[p == 0] > 0).any())
    assert not bool((labels[drawn] == labels[:, None]).any())


@pytest.mark.parametrize("direction", ["standard", "adversarial"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_triplets_match_the_reference(name: str, direction: Direction) -> None:
    arrays = fixture("triplet_loss")
    features = [arrays["feat0"].requires_grad_(), arrays["feat1"].requires_grad_()]
    negatives = negatives_of(len(arrays["labels"]), arrays["anchor"], arrays["same"], arrays[f"{name}_diff"])
    relation = triplet_loss(features, arrays["labels"], negatives, direction=direction)
    relation.loss.backward()
    prefix = f"{name}_{direction}"
    torch.testing.assert_close(relation.loss, arrays[f"{prefix}_loss"], rtol=1e-4, atol=1e-6)
    assert int(relation.triplets) == len(arrays["anchor"])
    for i, feature in enumerate(features):
        torch.testing.assert_close(feature.grad, arrays[f"{prefix}_grad{i}"], rtol=1e-3, atol=1e-6)
        if name == "distance":
            alone = triplet_loss([feature], arrays["labels"], negatives, direction=direction).loss
            torch.testing.assert_close(alone, arrays[f"feat{i}_{prefix}_loss"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("same", "direction", "expected"),
    [
        ((0.8, 0.6), "standard", 0.0),
        ((0.8, 0.6), "adversarial", 0.461972),
        ((0.0, 1.0), "standard", 0.719787),
        ((0.0, 1.0), "adversarial", 0.0),
    ],
)
def test_worked_triplets(same: tuple[float, float], direction: Direction, expected: float) -> None:
    rows = torch.tensor([(1.0, 0.0), same, (0.6, 0.8)])
    # One anchor: the second row's label pairs with the first only through (0, 1), so look at the matrix entry by itself.
    d = distances(rows)
    sign = 1 if direction == "standard" else -1
    assert float((sign * (d[0, 1] - d[0, 2]) + 0.2).clamp(min=0)) == pytest.approx(expected, abs=1e-5)
    loss = triplet_loss([rows], torch.tensor([0, 0, 1]), torch.full((3, 3), 2), direction=direction).loss
    both = [(sign * (d[0, 1] - d[i, 2]) + 0.2).clamp(min=0) for i in (0, 1)]
    assert float(loss) == pytest.approx(float(sum(both)) / 2, abs=1e-6)


def test_the_number_of_triplets() -> None:
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    relation = triplet_loss(
        [torch.randn(6, 4, generator=rng())], labels, torch.zeros(6, 6, dtype=torch.int64), direction="standard"
    )
    assert int(relation.triplets) == 6 + 0 + 2


HARD_BATCHES = {
    "one class": (torch.randn(6, 10, generator=rng(1)), torch.zeros(6, dtype=torch.int64)),
    "all labels distinct": (torch.randn(6, 10, generator=rng(2)), torch.arange(6)),
    "duplicate rows": (torch.ones(6, 10), torch.tensor([0, 0, 1, 1, 2, 2])),
    "antipodal rows": (torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), torch.tensor([0, 0, 1, 1])),
    "two classes": (torch.randn(8, 2, generator=rng(3)), torch.arange(8) % 2),
    "three classes": (torch.randn(9, 3, generator=rng(4)), torch.arange(9) % 3),
    "a thousand classes": (torch.randn(8, 1000, generator=rng(5)), torch.arange(8) // 2),
    "zero rows": (torch.zeros(4, 10), torch.tensor([0, 0, 1, 1])),
}


@pytest.mark.parametrize("direction", ["standard", "adversarial"])
@pytest.mark.parametrize("case", HARD_BATCHES)
def test_hard_batches_give_finite_losses_and_gradients(case: str, direction: Direction) -> None:
    rows, labels = HARD_BATCHES[case]
    for sampler in SAMPLERS.values():
        features = rows.clone().requires_grad_()
        relation = relation_loss([features], rows, labels, direction=direction, sampler=sampler, rng=rng())
        relation.loss.backward()
        assert bool(relation.loss.isfinite())
        assert features.grad is not None
        assert bool(features.grad.isfinite().all())
        if case in ("one class", "all labels distinct"):
            assert float(relation.loss.detach()) == 0
            assert int(relation.triplets) == 0


@pytest.mark.parametrize(("direction", "spreads"), [("adversarial", True), ("standard", False)])
def test_a_step_spreads_a_class_or_gathers_it(direction: Direction, spreads: bool) -> None:
    """The paper's direction: intra-class diversity up, inter-class distance down; the released code does the reverse."""
    rows = torch.randn(40, 8, generator=rng()).requires_grad_()
    labels = torch.arange(40) % 4
    negatives = draw_negatives(negative_probabilities(rows.detach(), labels, DISTANCE_WEIGHTED), rng(1))
    before = triplet_loss([rows], labels, negatives, direction=direction)
    before.loss.backward()
    assert rows.grad is not None
    after = triplet_loss([rows.detach() - 5 * rows.grad], labels, negatives, direction=direction)
    assert bool(after.same > before.same) == spreads
    assert bool(after.different < before.different) == spreads
    assert bool(after.loss < before.loss.detach())


def test_a_cap_on_the_dimension_softens_the_choice() -> None:
    most = max(BATCHES, key=lambda case: SAMPLER[f"{case}_logits"].shape[1])
    logits, labels = SAMPLER[f"{most}_logits"], SAMPLER[f"{most}_labels"]
    sharp = negative_probabilities(logits, labels, DISTANCE_WEIGHTED)
    soft = negative_probabilities(logits, labels, Sampler(-1, 1.4, floor=0.5, dimension_cap=16))
    assert float(soft.max(1).values.mean()) < float(sharp.max(1).values.mean())
