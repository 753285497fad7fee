"""The conditional Softplus loss of module M1 against worked examples and reference values."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from methods.cgan_kd.losses import softplus_ratio_loss

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def loss_and_gradients(real: object, fake: object, penalty: float) -> tuple[float, torch.Tensor, torch.Tensor]:
    a = torch.tensor(real, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(fake, dtype=torch.float64, requires_grad=True)
    loss = softplus_ratio_loss(a, b, penalty)
    loss.backward()
    return loss.item(), a.grad, b.grad


def test_worked_example() -> None:
    loss, grad_real, grad_fake = loss_and_gradients([1.2, 0.5], [0.8, 2.0], 0.01)
    assert loss == pytest.approx(-1.1861195, abs=1e-6)
    assert grad_real.tolist() == pytest.approx([-0.0889472, -0.1175019], abs=1e-6)
    assert grad_fake.tolist() == pytest.approx([0.0895639, 0.1089936], abs=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 0.01, 1.0])
def test_ratio_one_everywhere_gives_minus_softplus_of_one(penalty: float) -> None:
    assert loss_and_gradients([1.0] * 3, [1.0] * 3, penalty)[0] == pytest.approx(-1.3132617, abs=1e-6)


def test_ratio_zero_everywhere() -> None:
    assert loss_and_gradients([0.0] * 3, [0.0] * 3, 0.01)[0] == pytest.approx(-math.log(2) - 0.5 + 0.01, abs=1e-9)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [((1.6, 0.4), -1.3484580), ((1.0, 1.0), -1.3132617), ((1.7, 0.4), -1.3481239), ((1.6, 0.5), -1.3478659)],
)
def test_two_point_population_is_minimal_at_the_true_ratio(ratios: tuple[float, float], expected: float) -> None:
    """p_real = (0.8, 0.2), p_fake = (0.5, 0.5), as samples of ten points."""
    first, second = ratios
    loss, _, _ = loss_and_gradients([first] * 8 + [second] * 2, [first] * 5 + [second] * 5, 0.0)
    assert loss == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["dre_loss", "dre_loss_class"])
def test_reference_values(name: str) -> None:
    values = fixture(name)
    cases = sorted({key.split("_")[0] for key in values})
    assert len(cases) >= 2
    for case in cases:
        loss, grad_real, grad_fake = loss_and_gradients(
            values[f"{case}_dr_real"], values[f"{case}_dr_fake"], float(values[f"{case}_lambda"])
        )
        assert loss == pytest.approx(float(values[f"{case}_loss"]), rel=1e-4)
        np.testing.assert_allclose(grad_real, values[f"{case}_grad_real"], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(grad_fake, values[f"{case}_grad_fake"], rtol=1e-4, atol=1e-7)


@given(st.lists(st.floats(0, 30), min_size=2, max_size=20), st.floats(0, 1), st.randoms(use_true_random=False))
def test_loss_does_not_depend_on_the_order(ratios: list[float], penalty: float, random) -> None:
    shuffled = random.sample(ratios, len(ratios))
    before = loss_and_gradients(ratios, ratios, penalty)[0]
    assert loss_and_gradients(shuffled, ratios, penalty)[0] == pytest.approx(before, rel=1e-12, abs=1e-12)
    assert loss_and_gradients(ratios, shuffled, penalty)[0] == pytest.approx(before, rel=1e-12, abs=1e-12)
