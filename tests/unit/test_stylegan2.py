"""StyleGAN2: the reference's values, sizes, and what training and a student ask of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models import build, load, save
from gankd.models.stylegan2_layers import batch_spread, with_maps_of
from tests.unit.biggan_fixtures import close, fixture

TINY = {"channel_base": 128, "channel_max": 12}
ARCHITECTURES = ["skip", "orig", "resnet"]
DTYPES = [torch.double, torch.float]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tolerance(dtype: torch.dtype) -> float:
    """The reference's values are fp32: their own error is 4e-6."""
    return 4e-6 if dtype == torch.double else 1e-5


def generator(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build("stylegan2", **{"image_size": 16, "dim_z": 8, "dim_w": 10, **TINY, **changes})


def discriminator(**changes: Any) -> Any:
    torch.manual_seed(0)
    return build("stylegan2_discriminator", **{"image_size": 16, **TINY, **changes})


def with_state(network: nn.Module, name: str, dtype: torch.dtype) -> Any:
    network.load_state_dict(fixture(f"squeeze_span/{name}", "sd"))
    return network.to(dtype).eval()


@pytest.mark.parametrize("dtype", DTYPES)
def test_generator(dtype: torch.dtype) -> None:
    expected = fixture("squeeze_span/stylegan2_tiny_g")
    network = with_state(generator(), "stylegan2_tiny_g", dtype)
    maps: list[Tensor] = []
    for block in network.teaching_blocks():
        block.register_forward_hook(lambda _module, _inputs, output: maps.append(output[0]))
    z, error = expected["z"].to(dtype), tolerance(dtype)
    close(network(z), expected["image"], error)
    assert [list(found.shape[1:]) for found in maps] == expected["f_shapes"].tolist()
    for i, found in enumerate(maps):
        close(found, expected[f"feat{i}"], error)
    close(torch.cat([found.mean((2, 3)) for found in maps], 1), expected["pooled_concat"], error)
    close(network(z, noise="none"), expected["image_noise_none"], error)
    close(network.mapping(z), expected["w"], error)
    close(network.latent_code(z), expected["w_feature"], error)
    close(network.synthesis(expected["w"].to(dtype), noise="const"), expected["image"], error)


@pytest.mark.parametrize("dtype", DTYPES)
def test_discriminator(dtype: torch.dtype) -> None:
    expected = fixture("squeeze_span/stylegan2_tiny_d")
    network = with_state(discriminator(architecture="orig", mbstd_group=None), "stylegan2_tiny_d", dtype)
    images, error = expected["image"].to(dtype), tolerance(dtype)
    features = network.block_features(images)
    for i, found in enumerate(features):
        close(found, expected[f"feat{i}"], error)
    close(torch.cat(features, 1), expected["concat"], error)
    close(network.features(images), expected["single"], error)
    halves = [torch.cat(network.block_features(half), 1) for half in images.chunk(2)]
    close(torch.cat(halves), expected["concat_two_half_batches"], error)
    assert network.compares_images
    assert torch.equal(network(images), network.classify(network.features(images)))


def test_an_upsampling_layer_is_what_the_paper_says() -> None:
    """Zeros between the pixels, FIR, true convolution, with a weight per image: modulated, then of unit norm."""
    network = generator(conv_clamp=0.5).double().synthesis.b8.conv0
    x = torch.randn(2, 12, 4, 4, dtype=torch.double)
    w = torch.randn(2, 10, dtype=torch.double)
    style = w @ (network.affine.weight / 10**0.5).T + network.affine.bias
    spread = torch.zeros(2, 12, 8, 8, dtype=torch.double)
    spread[:, :, ::2, ::2] = x
    padded = nn.functional.pad(spread, [3, 2, 3, 2])
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.double)
    smooth = nn.functional.conv2d(padded, (torch.outer(taps, taps) / 16).expand(12, 1, 4, 4), groups=12)
    for i in range(2):
        weight = network.weight * style[i][:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        plain = nn.functional.conv2d(smooth[i : i + 1], weight.flip(2, 3))
        expected = (nn.functional.leaky_relu(plain, 0.2) * 2**0.5).clamp(-0.5, 0.5)
        close(network(x, w, "none", None)[i : i + 1], expected, 1e-12)


COUNTS: list[tuple[str, dict[str, Any], int]] = [
    ("stylegan2", {"image_size": 32}, 19_947_539),
    ("stylegan2_discriminator", {"image_size": 32, "architecture": "orig"}, 20_720_641),
]


@pytest.mark.parametrize(("name", "arguments", "parameters"), COUNTS)
def test_parameters_of_the_cifar_configuration(name: str, arguments: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(name, **arguments).parameters()) == parameters


def test_names_of_the_other_architectures() -> None:
    def names(network: nn.Module) -> set[str]:
        return {name for name, _ in network.named_parameters()}

    residual = {f"synthesis.b{size}.skip.weight" for size in (8, 16)}
    below = {f"synthesis.b{size}.torgb.{name}" for size in (4, 8) for name in ("weight", "bias", "affine.weight", "affine.bias")}
    assert names(generator(architecture="resnet")) == names(generator()) - below | residual
    assert names(generator(architecture="orig")) == names(generator()) - below
    plain = names(discriminator(architecture="orig"))
    assert names(discriminator()) == plain | {"b16.skip.weight", "b8.skip.weight"}
    lower = {f"{block}.fromrgb.{name}" for block in ("b8", "b4") for name in ("weight", "bias")}
    assert names(discriminator(architecture="skip")) == plain | lower


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_one_step_of_training(architecture: str) -> None:
    """With what StyleGAN2 trains by: a gradient penalty on D (R1), and one on the synthesis (path length)."""
    g, d = generator(architecture=architecture, image_size=8), discriminator(architecture=architecture, image_size=8)
    z = torch.randn(4, 8, generator=seeded())
    images = g(z).detach().requires_grad_()
    logits = d(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    (nn.functional.softplus(logits).mean() + gradient.square().sum()).backward()
    ws = g.mapping(z)
    fakes = g.synthesis(ws)
    (gradient,) = torch.autograd.grad(fakes.square().sum(), ws, create_graph=True)
    (nn.functional.softplus(-d(fakes)).mean() + gradient.square().sum()).backward()
    for network in (g, d):
        before = {name: value.detach().clone() for name, value in network.named_parameters()}
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())
        torch.optim.Adam(network.parameters(), 1e-3).step()
        moved = {name for name, value in network.named_parameters() if not torch.equal(value, before[name])}
        assert moved == before.keys()


def test_gradients_of_gradients() -> None:
    g = generator(image_size=8, channel_max=2).double().synthesis
    d = discriminator(image_size=8, channel_max=2, architecture="skip").double()
    ws = torch.randn(2, 4, 10, dtype=torch.double, requires_grad=True)
    images = torch.randn(2, 3, 8, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: g(x, noise="const")[:, :, ::4, ::4], (ws,), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda x: d(x), (images,), fast_mode=True)


def test_noise() -> None:
    network = generator()
    for layer in network.modules():
        if hasattr(layer, "noise_strength"):
            nn.init.constant_(layer.noise_strength, 0.5)
    z = torch.randn(3, 8, generator=seeded())
    with torch.no_grad():
        assert not torch.equal(network(z), network(z))  # in training
        network.eval()
        assert torch.equal(network(z), network(z))
        assert torch.equal(network(z), network(z, torch.tensor([0, 1, 2]), noise="const"))
        drawn = network(z, noise="random", rng=seeded(1))
        assert torch.equal(drawn, network(z, noise="random", rng=seeded(1)))
        assert not torch.equal(drawn, network(z, noise="random", rng=seeded(2)))
        assert not torch.equal(drawn, network(z))
        state = torch.get_rng_state()
        sampled = network.sample(3, None, seeded(5))
        assert torch.equal(state, torch.get_rng_state())
        torch.manual_seed(9)
        assert torch.equal(sampled, network.sample(3, torch.zeros(3), seeded(5)))
        assert sampled.shape == (3, 3, 16, 16)
    with pytest.raises(UserError, match="noise 'much' is unknown"):
        network(z, noise="much")


def test_the_mean_of_w_follows_in_training_alone() -> None:
    network = generator()
    z = torch.randn(4, 8, generator=seeded())
    network.eval()(z)
    assert not network.mapping.w_avg.any()
    w = network.train().latent_code(z)
    close(network.mapping.w_avg, 0.005 * w.mean(0), 1e-6)
    assert network.mapping(z).shape == (4, network.num_ws, network.dim_w) == (4, 6, 10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_precision(architecture: str) -> None:
    """bf16 autocast comes near fp32, and images, features and logits stay fp32."""
    g, d = generator(architecture=architecture).eval(), discriminator(architecture=architecture).eval()
    z = torch.randn(4, 8, generator=seeded())
    with torch.no_grad():
        images, maps = g(z), d.block_features(g(z))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarse, coarse_maps, logits = g(z), d.block_features(images), d(images)
    assert coarse.dtype == logits.dtype == coarse_maps[-1].dtype == torch.float32
    assert float((coarse - images).norm() / images.norm()) < 0.02
    assert all(float((a - b).norm() / b.norm()) < 0.02 for a, b in zip(coarse_maps, maps))
    (g(z).sum() + d(images).sum()).backward()


@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_exported_it_makes_the_same_images(architecture: str) -> None:
    network = generator(architecture=architecture, image_size=8).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, network.example(), dynamic_shapes=({0: batch},)).module()
    z = torch.randn(5, 8, generator=seeded())
    for inputs in (network.example(), (z,)):
        close(program(*inputs), network(*inputs), 1e-6)


def test_saved_and_loaded(tmp_path: Any) -> None:
    network = generator(image_size=8, conv_clamp=256.0).eval()
    save(network, tmp_path)
    z = torch.randn(2, 8, generator=seeded())
    assert torch.equal(load(tmp_path)(z), network(z))
    assert network(z).shape == (2, 3, 8, 8)
    grey = generator(image_channels=1, image_size=8)
    assert grey(z).shape == (2, 1, 8, 8)
    assert discriminator(image_channels=1, image_size=8)(grey(z)).shape == (2, 1)


def test_spread_of_a_batch() -> None:
    """Image i is compared with i + k * groups; of a batch that the group does not divide, fewer are."""
    x = torch.randn(6, 4, 2, 2, dtype=torch.double, generator=seeded())
    found = with_maps_of(x, batch_spread(x, 4, 2))
    assert found.shape == (6, 6, 2, 2)
    assert torch.equal(found[:, :4], x)
    for i in range(6):
        for k in range(2):
            members = x[[i % 2, i % 2 + 2, i % 2 + 4], 2 * k : 2 * k + 2]  # 3 is the largest divisor of 6 up to 4
            spread = (members.var(0, correction=0) + 1e-8).sqrt().mean()
            close(found[i, 4 + k], spread.expand(2, 2), 1e-12)
    assert torch.equal(batch_spread(x, None, 1), batch_spread(x, 6, 1))
    close(batch_spread(x[:1], 4, 1), torch.full((1, 1), 1e-4, dtype=torch.double), 1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fixed_spread_makes_an_image_answered_alone(architecture: str) -> None:
    network = discriminator(architecture=architecture, mbstd_group=None, mbstd_channels=2).eval()
    images = torch.randn(6, 3, 16, 16, generator=seeded())
    together, first = network(images), network(images[:1])
    assert float((together[:1] - first).detach().abs()) > 1e-3
    network.b4.fixed = network.spread_of(images)
    assert network.b4.fixed.shape == (2,)
    close(network(images), together, 1e-5)
    close(network(images[:1]), together[:1], 1e-5)


REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("stylegan2", {"image_size": 4}, "image_size 4 has no StyleGAN2"),
    ("stylegan2", {"image_size": 48}, "image_size 48 has no StyleGAN2"),
    ("stylegan2", {"classes": 10}, "takes no labels, and classes is 10"),
    ("stylegan2", {"architecture": "dense"}, "architecture 'dense' is unknown"),
    ("stylegan2", {"channel_base": 8}, "leave no channels at 16 px: set channel_base to 16"),
    ("stylegan2", {"mapping_layers": 0}, "mapping_layers 0 makes no w"),
    ("stylegan2_discriminator", {"image_size": 0}, "image_size 0 has no StyleGAN2"),
    ("stylegan2_discriminator", {"classes": 10}, "takes no labels, and classes is 10"),
    ("stylegan2_discriminator", {"mbstd_channels": 5}, "mbstd_channels 5 does not divide the 12 channels"),
    ("stylegan2_discriminator", {"mbstd_group": 0}, "mbstd_group 0 holds no images"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), REFUSED)
def test_refusals(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, **{"image_size": 16, **TINY, **arguments})
