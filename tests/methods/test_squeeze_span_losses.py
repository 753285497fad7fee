"""The losses against the reference functions, and what must hold of them for any input."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from methods.squeeze_span.losses import (
    Weights,
    covariance_penalty,
    distance,
    simsiam_loss,
    span_loss,
    spread,
    squeeze_loss,
    variance_hinge,
)
from tests.methods.squeeze_span_fixtures import fixture, part

RELEASED = Weights(25.0, 25.0, 1.0)


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("case", range(4))
def test_losses_and_gradients_of_the_reference(case: int) -> None:
    arrays = part(fixture("losses"), f"c{case}/")
    z, y = arrays["z"].requires_grad_(), arrays["y"].requires_grad_()
    for name, value, of in (
        ("var", variance_hinge(z), {"dvar_dz": z}),
        ("cov", covariance_penalty(z), {"dcov_dz": z}),
        ("mse", distance(z, y), {"dmse_dz": z, "dmse_dy": y}),
    ):
        torch.testing.assert_close(value.detach(), arrays[name], rtol=1e-9, atol=1e-12)
        gradients = torch.autograd.grad(value, list(of.values()))
        for gradient, expected in zip(gradients, of, strict=True):
            torch.testing.assert_close(gradient, arrays[expected], rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(variance_hinge(y).detach(), arrays["var_y"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(covariance_penalty(y).detach(), arrays["cov_y"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_total_of_either_variant_with_gradients(variant: str) -> None:
    arrays = fixture("total_composition")
    weights = Weights(*(float(arrays[name]) for name in ("lambda", "mu", "nu")))
    z = {name: arrays[name].requires_grad_() for name in ("zf", "zg", "zr1", "zr2")}
    squeeze = squeeze_loss(z["zf"], z["zg"], weights, regularise_teacher=variant == "paper")
    span, alpha = span_loss(z["zr1"], z["zr2"], weights), float(arrays["alpha"])
    total = alpha * squeeze + (1 - alpha) * span
    for found, name in ((squeeze, f"squeeze_{variant}"), (span, "span"), (total, f"total_{variant}")):
        torch.testing.assert_close(found.detach(), arrays[name], rtol=1e-9, atol=0)
    for (name, _), gradient in zip(z.items(), torch.autograd.grad(total, list(z.values())), strict=True):
        torch.testing.assert_close(gradient, arrays[f"grad_{variant}/{name}"], rtol=1e-8, atol=1e-12)


def test_worked_numbers() -> None:
    z = tensor([[0, 0, 1], [2, 0.5, 1], [4, 1, 1]])
    assert float(variance_hinge(z)) == pytest.approx(0.496633336666, abs=1e-11)
    assert float(covariance_penalty(z)) == pytest.approx(2 / 3, abs=1e-12)
    y = tensor([[1, 2], [3, 0], [-1, 1]])
    assert float(covariance_penalty(y)) == pytest.approx(1.0, abs=1e-12)
    assert float(variance_hinge(y)) == 0
    assert float(distance(tensor([[1, 2], [3, 4]]), tensor([[0, 2], [3, 6]]))) == 1.25
    p1, z2, p2, z1 = (tensor(rows) for rows in ([[1, 0], [3, 4]], [[2, 0], [4, 3]], [[0, 2], [1, 1]], [[1, 1], [0, 1]]))
    assert float(simsiam_loss(p1, z1, p2, z2)) == pytest.approx(-0.843553390593, abs=1e-11)
    zf, zg = tensor([[0, 0], [1, 0.5]]), tensor([[0.5, 0], [1, 0]])
    one, other = tensor([[0, 1], [0.2, 0]]), tensor([[0, 0.8], [0, 0]])
    assert float(squeeze_loss(zf, zg, RELEASED)) == pytest.approx(14.926596599925, abs=1e-10)
    assert float(squeeze_loss(zf, zg, RELEASED, regularise_teacher=True)) == pytest.approx(35.380411803968, abs=1e-10)
    assert float(span_loss(one, other, RELEASED)) == pytest.approx(32.700927956129, abs=1e-10)


def test_a_constant_batch_costs_099_and_has_no_gradient() -> None:
    z = torch.ones(6, 4, dtype=torch.float64, requires_grad=True)
    loss = variance_hinge(z)
    assert float(loss.detach()) == pytest.approx(0.99)
    assert torch.autograd.grad(loss, z)[0].abs().max() == 0
    assert float(spread(z)) == 0


@given(st.integers(2, 12), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_either_product_gives_the_plain_formula(n: int, m: int, seed: int) -> None:
    z = torch.randn(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.cov(z.T).reshape(m, m)
    plain = (covariance.square().sum() - covariance.diagonal().square().sum()) / m
    torch.testing.assert_close(covariance_penalty(z), plain, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(covariance_penalty(3 * z), 81 * plain, rtol=1e-9, atol=1e-10)
    moved = z[torch.randperm(n, generator=torch.Generator().manual_seed(seed))] + torch.arange(m)
    torch.testing.assert_close(covariance_penalty(moved), plain, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(variance_hinge(moved), variance_hinge(z), rtol=1e-8, atol=1e-10)


def test_half_precision_is_computed_in_fp32() -> None:
    z = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    for loss in (variance_hinge, covariance_penalty):
        assert loss(z.bfloat16()).dtype == torch.float32
        torch.testing.assert_close(loss(z.bfloat16()), loss(z.bfloat16().float()), rtol=0, atol=0)


def test_autocast_does_not_make_the_covariances_coarse() -> None:
    for shape in ((256, 512), (512, 64)):  # either product
        z = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3
        plain = covariance_penalty(z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(covariance_penalty(z), plain, rtol=0, atol=0)


def test_no_gradient_reaches_simsiams_targets() -> None:
    p1, z1, p2, z2 = (torch.randn(4, 3, requires_grad=True) for _ in range(4))
    loss = simsiam_loss(p1, z1, p2, z2)
    loss.backward()
    assert -1 <= float(loss.detach()) <= 1
    assert z1.grad is None
    assert z2.grad is None
    assert p1.grad is not None
