"""k-bit numbers: GDFQ's worked examples, ranges by channel and by tensor, and the straight-through gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from methods.rgal_quantization.networks import QuantizedLayer
from methods.rgal_quantization.quantizer import ActivationRange, channel_ranges, fake_quantize, grid, levels

ONE = torch.tensor(1.0)


@pytest.mark.parametrize(("x", "q", "x_hat"), [(0.3, 2, 0.266667), (1.0, 7, 0.933333), (-1.0, -8, -1.066667)])
def test_worked_examples_at_4_bits(x: float, q: int, x_hat: float) -> None:
    """Specification 7.2: the range [-1, 1]."""
    scale, zero = grid(-ONE, ONE, 4)
    assert (float(scale), float(zero)) == (7.5, 0)
    assert float(levels(torch.tensor(x), scale, zero, 4)) == q
    assert float(fake_quantize(torch.tensor(x), -ONE, ONE, 4)) == pytest.approx(x_hat, abs=1e-6)


@given(bits=st.integers(2, 8), low=st.floats(-5, 4), width=st.floats(0.1, 10), seed=st.integers(0, 99))
def test_all_levels_of_a_range_are_used_and_none_is_further_than_half_a_step(
    bits: int, low: float, width: float, seed: int
) -> None:
    """Also of a range without 0."""
    x = torch.rand(2000, generator=torch.Generator().manual_seed(seed)) * width + low
    x_hat = fake_quantize(x, torch.tensor(low), torch.tensor(low + width), bits)
    step = width / (2**bits - 1)
    assert len(x_hat.unique()) <= 2**bits
    # The grid is moved so that 0 lies on it: by half a step at most, and what then lies outside is clamped.
    assert float((x_hat - x).abs().max()) <= step * 1.01


def test_the_arithmetic_is_torchs_where_that_is_defined() -> None:
    """torch's own operator, on a range that holds 0, away from ties."""
    x = torch.rand(500, generator=torch.Generator().manual_seed(0)) * 3 - 1
    for bits in (2, 4, 8):
        scale, zero = grid(torch.tensor(-1.0), torch.tensor(2.0), bits)
        half = 2 ** (bits - 1)
        theirs = torch.fake_quantize_per_tensor_affine(x, 1 / float(scale), -int(zero), -half, half - 1)
        torch.testing.assert_close(fake_quantize(x, torch.tensor(-1.0), torch.tensor(2.0), bits), theirs, atol=1e-6, rtol=0)


def test_the_gradient_goes_straight_through_outside_the_range_too() -> None:
    x = torch.tensor([-3.0, -0.4, 0.3, 5.0], requires_grad=True)
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (fake_quantize(x, -ONE, ONE, 4) * weights).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 2, 3, 4]
    assert fake_quantize(x, -ONE, ONE, 4).tolist() == fake_quantize(x.detach(), -ONE, ONE, 4).tolist()


def test_weights_have_a_range_for_each_output_channel() -> None:
    weight = torch.tensor([[0.1, -0.1, 0.05], [10.0, -10.0, 5.0]])[:, :, None, None]
    low, high = channel_ranges(weight)
    assert low.flatten().tolist() == pytest.approx([-0.1, -10])
    assert high.flatten().tolist() == pytest.approx([0.1, 10])
    hat = fake_quantize(weight, low, high, 3)
    torch.testing.assert_close(hat[1], 100 * hat[0])  # a small channel has as many levels as a large one
    assert channel_ranges(torch.ones(4, 3))[0].shape == (4, 1)


def followed(activation: ActivationRange, *batches: Tensor) -> tuple[float, float]:
    for batch in batches:
        activation(batch)
    return float(activation.low), float(activation.high)


def test_the_range_of_activations_follows_and_holds_0() -> None:
    activation = ActivationRange(8)
    activation.momentum = 0.0
    assert followed(activation, torch.tensor([0.5, 3.0])) == (0, 3)
    activation.momentum = 0.9
    assert followed(activation, torch.tensor([-1.0, 5.0])) == pytest.approx((-0.1, 3.2))
    activation.momentum = None
    assert followed(activation, torch.tensor([-9.0, 9.0])) == pytest.approx((-0.1, 3.2))
    assert float(activation(torch.zeros(1))) == 0  # so is the border of a convolution


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3, stride=2, padding=1), nn.Linear(3, 5)])
def test_a_layer_computes_with_quantized_numbers(layer: nn.Conv2d | nn.Linear) -> None:
    quantized = QuantizedLayer(layer, 4, 8)
    x = torch.rand(2, 3, 8, 8) if isinstance(layer, nn.Conv2d) else torch.rand(2, 3)
    quantized.activation.momentum = 0.0
    found = quantized(x)
    exact = layer.double()
    with torch.no_grad():
        exact.weight.copy_(fake_quantize(exact.weight.float(), *channel_ranges(exact.weight.float()), 4))
    x_hat = fake_quantize(x, torch.zeros(()), x.max(), 8)
    torch.testing.assert_close(found.double(), exact(x_hat.double()), atol=1e-5, rtol=1e-5)
    layer.float()
