"""Spectral normalisation, batch norm, blocks and initialisation against reference values."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gankd.errors import UserError
from gankd.models.batch_norm import BatchNorm, ConditionalBatchNorm, standing_statistics
from gankd.models.biggan_blocks import DiscriminatorBlock, GeneratorBlock, SelfAttention, condition_layer
from gankd.models.biggan_import import our_names
from gankd.models.spectral_norm import SNConv2d, SNEmbedding, SNLinear, as_matrix, initialise, power_step
from tests.unit.biggan_fixtures import close, fixture


def spectral_layer(name: str, weight: torch.Tensor) -> nn.Module:
    """The layer that a group of the fixture is of, as large as its weight."""
    outputs, inputs, *kernel = weight.shape
    if name.startswith("conv"):
        return SNConv2d(inputs, outputs, kernel[0], padding=kernel[0] // 2, eps=1e-6)
    if name.startswith("embedding"):
        return SNEmbedding(outputs, inputs, eps=1e-6)
    return SNLinear(inputs, outputs, bias="nobias" not in name, eps=1e-6 if "nobias" in name else 1e-8)


def groups(name: str) -> list[str]:
    return sorted({key.partition("/")[0] for key in fixture(name)})


@pytest.mark.parametrize("name", groups("biggan_core/spectral_norm"))
def test_spectral_norm(name: str) -> None:
    expected = fixture("biggan_core/spectral_norm", name)
    layer = spectral_layer(name, expected["weight"]).double()
    layer.load_state_dict({k: expected[k] for k in layer.state_dict()})
    layer.eval()
    close(layer(expected["x"]), expected["eval_out"])
    close(layer.normalised_weight(), expected["eval_W"])
    close(layer.u0, expected["u0"], 0)
    layer.train()
    more_steps = 1 if name.endswith("itr2") else 0  # this layer of the reference makes two power steps a training forward
    for _ in range(more_steps):
        layer.normalised_weight()
    out = layer(expected["x"])
    close(out, expected["train1_out"])
    out.square().sum().backward()
    close(layer.weight.grad, expected["train1_grad_weight_of_sum_sq"])
    close(layer.u0, expected["u0_after1"])
    last = max(int(key.removeprefix("u0_after")) for key in expected if key.startswith("u0_after"))
    for i in range(2, last + 1):
        for _ in range(1 + more_steps):
            layer(expected["x"])
        close(layer.u0, expected[f"u0_after{i}"])
    close(layer.eval()(expected["x"]), expected[f"eval_out_after{last}"])


def test_power_step_worked_example() -> None:
    sigma, u = power_step(torch.diag(torch.tensor([3.0, 1.0])), torch.ones(1, 2), 1e-8)
    close(sigma, torch.tensor(2.86356), 1e-5)
    close(u, torch.tensor([[0.99388, 0.11043]]), 1e-5)


def test_two_training_forwards_may_precede_one_backward() -> None:
    layer = SNLinear(4, 3)
    x = torch.randn(2, 4)
    (layer(x) + layer(x)).sum().backward()
    assert layer.weight.grad is not None


def test_memory_format_does_not_change_sigma_and_costs_no_copy() -> None:
    layer = SNConv2d(6, 4, 3)
    expected = layer.eval().normalised_weight()
    layer.to(memory_format=torch.channels_last)
    close(layer.normalised_weight(), expected, 1e-6)
    assert as_matrix(layer.weight).data_ptr() == layer.weight.data_ptr()


def test_autocast_leaves_the_power_step_in_fp32() -> None:
    layer = SNLinear(64, 32).eval()
    expected = layer.normalised_weight()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weight = layer.normalised_weight()
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("size", [4, 7])
def test_fused_resampling_equals_the_two_steps(kernel: int, size: int) -> None:
    torch.manual_seed(0)
    conv = SNConv2d(3, 5, kernel, padding=kernel // 2).double().eval()
    x = torch.randn(2, 3, size, size + 1, dtype=torch.double, requires_grad=True)
    for fused, plain in (
        (conv.upsampled, lambda x: conv(F.interpolate(x, scale_factor=2))),
        (conv.pooled, lambda x: F.avg_pool2d(conv(x), 2)),
    ):
        inputs = (x, conv.weight, conv.bias)
        close(fused(x), plain(x), 1e-12)
        for ours, theirs in zip(
            torch.autograd.grad(fused(x).square().sum(), inputs), torch.autograd.grad(plain(x).square().sum(), inputs)
        ):
            close(ours, theirs, 1e-11)


def check_statistics(layer: nn.Module, group: str) -> None:
    after = our_names(fixture("biggan_core/batch_norm", f"{group}/sd_after"))
    for name, value in after.items():
        close(layer.state_dict()[name], value)


@pytest.mark.parametrize("group", ["ccbn", "ccbn_embed", "bn"])
def test_batch_norm(group: str) -> None:
    expected = fixture("biggan_core/batch_norm", group)
    x = fixture("biggan_core/batch_norm")["ccbn/x"]
    layer: nn.Module
    if group == "bn":
        layer, inputs = BatchNorm(x.shape[1]), (x,)
    else:
        width = expected["cond"].shape[1] if "cond" in expected else 0
        classes = len(expected["sd/gain.weight"])  # read where there is no condition of a width
        layer = ConditionalBatchNorm(x.shape[1], condition_layer(classes, width, 1e-6), 1e-5)
        inputs = (x, expected["cond"] if width else expected["labels"])
    layer.double().load_state_dict(our_names(fixture("biggan_core/batch_norm", f"{group}/sd")))
    close(layer.eval()(*inputs), expected["out_eval"])
    close(layer.train()(*inputs), expected["out_train"])
    check_statistics(layer, group)


def test_standing_statistics() -> None:
    expected = fixture("biggan_core/batch_norm", "standing")

    class Given(nn.Module):
        """Gain and bias as they come: only the statistics are of interest."""

        def __init__(self) -> None:
            super().__init__()
            self.bn = BatchNorm(expected["xs"].shape[2])

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return self.bn(x)

    network = Given().double().eval()
    standing_statistics(network, [(x, x) for x in expected["xs"]])
    assert not network.training
    count = expected["counter"]
    close(network.bn.stored_mean, expected["stored_mean_sum"] / count, 1e-5)
    close(network.bn.stored_var, expected["stored_var_sum"] / count, 1e-5)
    x = expected["xs"][0]
    out = network.bn.normalise(x) * expected["gain"] + expected["bias"]
    close(out, expected["out_eval_on_xs0"], 2e-5)


def block_of(name: str, expected: dict[str, torch.Tensor]) -> nn.Module:
    """The block that a group of the fixture is of, as wide as its input and output."""
    inputs, outputs = expected["x"].shape[1], expected["out_eval"].shape[1]
    if name == "attn":
        return SelfAttention(inputs, 1e-6)
    if name == "gblock":
        condition = condition_layer(0, expected["cond"].shape[1], 1e-6)
        return GeneratorBlock(inputs, outputs, partial(ConditionalBatchNorm, condition=condition), 1e-6)
    return DiscriminatorBlock(inputs, outputs, down="plain" not in name, first="first" in name, sn_eps=1e-6)


@pytest.mark.parametrize("name", groups("biggan_core/blocks"))
def test_block(name: str) -> None:
    expected = fixture("biggan_core/blocks", name)
    block = block_of(name, expected).double()
    block.load_state_dict(our_names(fixture("biggan_core/blocks", f"{name}/sd")))
    inputs = [expected[k] for k in ("x", "cond") if k in expected]
    close(block.eval()(*inputs), expected["out_eval"])
    if "out_train" in expected:
        close(block.train()(*inputs), expected["out_train"])


def test_attention_can_be_computed_by_the_fused_kernel() -> None:
    attention = SelfAttention(16).eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where this kernel does not take the tensors
        fused = attention(torch.ones(2, 16, 4, 4))
    assert fused.shape == (2, 16, 4, 4)


def test_bf16_maps_stay_bf16_and_channels_last() -> None:
    norm = partial(ConditionalBatchNorm, condition=condition_layer(3, 0, 1e-8))
    block = GeneratorBlock(8, 8, norm).to(memory_format=torch.channels_last)
    x = torch.randn(2, 8, 4, 4).to(torch.bfloat16, memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = block(x, torch.tensor([0, 2]))
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert block.bn1.stored_mean.dtype == torch.float32


def test_initialise() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 32, 3)
    bias = layer.bias.clone()
    initialise(layer, "N02")
    assert abs(layer.weight.std().item() - 0.02) < 1e-3
    initialise(layer, "ortho")
    rows = layer.weight.flatten(1)
    close(rows @ rows.t(), torch.eye(32), 1e-5)
    assert torch.equal(layer.bias, bias)
    with pytest.raises(UserError, match="N02, ortho"):
        initialise(layer, "orthogonal")
