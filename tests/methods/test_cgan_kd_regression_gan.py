"""cGAN-KD's GAN for continuous labels: vicinities, losses and networks against the reference's arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd import models
from gankd.errors import UserError
from gankd.models.batch_norm import ConditionalBatchNorm
from gankd.models.biggan_blocks import DiscriminatorBlock, GeneratorBlock
from gankd.models.spectral_norm import SpectralNorm
from gankd.stages.gan_losses import gan_loss
from gankd.stages.task import Continuous
from methods.cgan_kd_regression.label_embedding import FourierFeatures, ImageNetwork, LabelEmbedding
from methods.cgan_kd_regression.sagan import BiasedSelfAttention, Discriminator, Generator
from methods.cgan_kd_regression.vicinity import VicinalLabels, Vicinity, noise_width, rule_of_thumb, vicinity_width

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
PACKAGE = "methods.cgan_kd_regression"
models.allow(
    {
        "label_embedding": f"{PACKAGE}.label_embedding:LabelEmbedding",
        "sagan": f"{PACKAGE}.sagan:Generator",
        "sagan_discriminator": f"{PACKAGE}.sagan:Discriminator",
    }
)


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(array)) for key, array in arrays.items()}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def close(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(
        torch.as_tensor(found).double(), torch.as_tensor(expected).double(), rtol=tolerance, atol=tolerance / 10
    )


# Labels, sigma, kappa: fixtures `labels` and `ccgan_sigma_kappa`, facts 5, 6 and 8.


def test_places_of_labels() -> None:
    arrays = fixture("labels")
    steering, age = Continuous(-88.13, 97.92, "degree"), Continuous(0, 60, "year")
    close(steering.place(arrays["steer_deg"]), arrays["steer_norm"], 1e-6)
    close(steering.answers(arrays["steer_norm"][:, None]), arrays["steer_back"], 1e-5)
    close(steering.place(torch.tensor([0.0, 10.0, 97.92])), torch.tensor([0.4736899, 0.5274389, 1.0]), 1e-6)
    close(age.place(arrays["utk_age"]), arrays["utk_norm64"], 1e-6)
    # The reference truncates to whole years; an age is what it is here.
    predicted = arrays["utk_pred_norm"]
    close(age.answers(predicted[:, None]).int(), arrays["utk_pred_denorm_int"])
    assert age.answers(torch.tensor([[0.499]])).item() == pytest.approx(29.94, abs=1e-4)


@pytest.mark.parametrize("case", ["steer_soft", "steer_hard", "utk_soft"])
def test_sigma_and_kappa_of_the_reference(case: str) -> None:
    arrays = {key.removeprefix(f"{case}_"): value for key, value in fixture("ccgan_sigma_kappa").items() if key.startswith(case)}
    width = vicinity_width(float(arrays["gan_kappa_in"]), arrays["labels"])
    assert noise_width(-1, arrays["labels"]) == pytest.approx(float(arrays["sigma"]), rel=1e-9)
    assert (width if "hard" in case else width**-2) == pytest.approx(float(arrays["kappa"]), rel=1e-9)


def test_widths_as_given_and_as_multiples() -> None:
    ages = torch.arange(1, 61, dtype=torch.float64) / 60
    assert vicinity_width(0.3, ages) == 0.3
    assert [vicinity_width(-m, ages) ** -2 for m in (1, 2, 5)] == pytest.approx([3600, 900, 144])
    assert vicinity_width(-2, ages) == pytest.approx(1 / 30)
    assert (noise_width(0, ages), noise_width(0.1, ages)) == (0, 0.1)
    assert noise_width(-0.5, ages) == pytest.approx(0.5 * rule_of_thumb(ages))


@pytest.mark.parametrize(("std", "n", "sigma"), [(0.2, 10_000, 0.0335997), (0.25, 8000, 0.0439165)])
def test_rule_of_thumb(std: float, n: int, sigma: float) -> None:
    labels = torch.tensor([0.5 - std, 0.5 + std], dtype=torch.float64).repeat(n // 2)
    assert rule_of_thumb(labels) == pytest.approx(sigma, rel=1e-5)


def test_weights_fall_to_the_cut_at_the_radius() -> None:
    soft = Vicinity(1 / 30)
    assert soft.radius == pytest.approx(0.0876087, rel=1e-5)
    assert soft.radius * 60 == pytest.approx(5.25652, rel=1e-5)
    y = torch.tensor([0.5, 0.5], dtype=torch.float64)
    close(soft.weights(torch.tensor([0.52, 0.5 + soft.radius], dtype=torch.float64), y), [0.6976763, 1e-3], 1e-6)
    hard = Vicinity(1 / 30, soft=False)
    assert hard.radius == 1 / 30
    assert hard.weights(y - 0.02, y).tolist() == [1, 1]


# Losses: fixture `ccgan_losses`, fact 7.

CASES = [(kind, loss) for kind in ("soft", "hard") for loss in ("hinge", "vanilla")]


@pytest.mark.parametrize(("kind", "loss"), CASES)
def test_vicinal_losses_of_the_reference(kind: str, loss: str) -> None:
    arrays = fixture("ccgan_losses")
    labels, case = arrays["train_labels"], {key.removeprefix(f"{kind}_{loss}_"): value for key, value in arrays.items()}
    kappa = float(case["kappa"])
    near = Vicinity(kappa**-0.5 if kind == "soft" else kappa, kind == "soft", float(arrays["nonzero_soft_weight_threshold"]))
    centres = case["target_labels"].double()
    vicinal = VicinalLabels(labels, near, 0.0, clip=False)
    mask = torch.zeros(len(centres), len(labels), dtype=torch.bool)
    for row, start, end in zip(mask, *vicinal.bounds(centres)):
        row[vicinal.order[start:end]] = True
    assert torch.equal(mask, case["vicinity_mask"])
    low, high = near.fake_range(centres)
    close(low, case["fake_label_lo"], 1e-6)
    close(high, case["fake_label_hi"], 1e-6)
    weights = near.weights(labels[case["real_index"]], centres), near.weights(case["fake_labels"], centres)
    close(weights[0], case["real_w"])
    close(weights[1], case["fake_w"])
    real, fake = (case[name][:, None].requires_grad_() for name in ("d_real_out", "d_fake_out"))
    losses = gan_loss("hinge" if loss == "hinge" else "softplus")
    total = torch.stack(losses.discriminator(real, fake, *weights)).sum()
    total.backward()
    close(total.detach(), case["d_loss"])
    close(losses.generator(case["d_gen_out"]), case["g_loss"])
    assert real.grad is not None
    assert fake.grad is not None
    close(real.grad[:, 0], case["grad_d_real"])
    close(fake.grad[:, 0], case["grad_d_fake"])


def test_worked_hinge_losses() -> None:
    def loss(real: list[float], fake: list[float], *weights: Tensor) -> float:
        columns = (torch.tensor(values, dtype=torch.float64)[:, None] for values in (real, fake))
        terms = gan_loss("hinge").discriminator(*columns, *(weights or (None, None)))
        return float(terms[0] + terms[1])

    w = torch.tensor([1, 0.6976763], dtype=torch.float64)
    assert loss([0.5, -0.5], [-0.2, 0.3], w, w.flip(0)) == pytest.approx(1.7023278, abs=1e-6)
    assert loss([0.5, 1.5], [-2, 0.25]) == pytest.approx(0.875)


# Draws.


@pytest.mark.parametrize("soft", [True, False])
def test_what_is_drawn_lies_in_the_vicinity(soft: bool) -> None:
    labels = torch.rand(500, generator=seeded(1), dtype=torch.float64)
    near = Vicinity(0.01, soft)
    vicinal = VicinalLabels(labels, near, 0.1)
    drawn = vicinal.draw(4000, seeded(2))
    for there, weights in ((labels[drawn.images], drawn.real_weights), (drawn.fake_labels, drawn.fake_weights)):
        assert float((there - drawn.centres).abs().max()) <= near.radius + 1e-12
        close(weights, near.weights(there, drawn.centres), 1e-9)
    assert 0 <= float(drawn.fake_labels.min()) <= float(drawn.fake_labels.max()) <= 1
    assert 0 <= float(drawn.centres.min()) <= float(drawn.centres.max()) <= 1
    # Uniform over the images of a vicinity: their mean place in it is the middle.
    start, end = vicinal.bounds(drawn.centres)
    rank = torch.empty(500, dtype=torch.long).scatter_(0, vicinal.order, torch.arange(500))[drawn.images]
    assert float(((rank - start + 0.5) / (end - start)).mean()) == pytest.approx(0.5, abs=0.02)


def test_centres_are_uniform_over_distinct_labels_not_over_images() -> None:
    labels = torch.tensor([0.0] * 90 + [0.5] * 9 + [1.0], dtype=torch.float64)
    centres = VicinalLabels(labels, Vicinity(0.1), 0.0).centres(6000, seeded())
    assert [float((centres == label).double().mean()) for label in (0, 0.5, 1)] == pytest.approx([1 / 3] * 3, abs=0.03)


def test_where_no_label_is_near_the_noise_is_drawn_anew() -> None:
    labels = torch.tensor([0.2, 0.8], dtype=torch.float64)
    near = Vicinity(0.01, soft=False)
    drawn = VicinalLabels(labels, near, 0.05).draw(500, seeded())
    assert float((labels[drawn.images] - drawn.centres).abs().max()) <= 0.01
    with pytest.raises(UserError, match="raise kappa, or lower sigma"):
        VicinalLabels(labels, Vicinity(1e-9, soft=False), 0.3).draw(500, seeded())


def test_centres_leave_the_range_in_the_reference_only() -> None:
    labels = torch.linspace(0, 1, 50, dtype=torch.float64)
    near = Vicinity(0.2)
    assert float(VicinalLabels(labels, near, 0.1).centres(1000, seeded()).max()) == 1
    assert float(VicinalLabels(labels, near, 0.1, clip=False).centres(1000, seeded()).max()) > 1.05


# Networks: fixture `gan_blocks`, facts 17.


def filled(module: nn.Module, **weights: Tensor) -> nn.Module:
    """The module with these entries of its state, its spectral norms passing weights on as they are."""
    state = module.state_dict()
    assert weights.keys() <= state.keys()
    module.load_state_dict(state | weights)
    for layer in module.modules():
        if isinstance(layer, SpectralNorm):
            layer.normalised_weight = lambda layer=layer: layer.weight  # type: ignore[method-assign, misc]
    return module.eval()


def label_norm(channels: int, width: int = 3) -> ConditionalBatchNorm:
    return ConditionalBatchNorm(channels, lambda c: nn.Linear(width, c, bias=False))


def of_norm(arrays: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    places = {"stored_mean": "mean", "stored_var": "var", "gain.weight": "Wg", "bias.weight": "Wb"}
    return {place: arrays[f"{name}_{key}"] for place, key in places.items()}


def test_blocks_of_the_reference() -> None:
    arrays = fixture("gan_blocks")
    norm = filled(label_norm(4), **of_norm(arrays, "cbn"))
    close(norm(arrays["cbn_x"], arrays["cbn_y"]).detach(), arrays["cbn_out"])
    convs = {"theta": "theta", "phi": "phi", "g": "g", "o": "attn"}
    entries = {f"{to}.weight": arrays[f"attn_W_{of}"] for to, of in convs.items()}
    entries |= {f"{to}.bias": arrays[f"attn_b_{of}"] for to, of in convs.items()}
    attention = filled(BiasedSelfAttention(16), **entries, gamma=arrays["attn_sigma"][0])
    close(attention(arrays["attn_x"]).detach(), arrays["attn_out"])

    def of_block(name: str) -> dict[str, Tensor]:
        numbered = list(enumerate(("conv_sc", "conv1", "conv2")))
        weights = {f"{conv}.weight": arrays[f"{name}_W{i}"] for i, conv in numbered}
        return weights | {f"{conv}.bias": arrays[f"{name}_b{i}"] for i, conv in numbered}

    norms = {f"bn{i}.{k}": v for i in (1, 2) for k, v in of_norm(arrays, f"genblock_bn{i}").items()}
    generator = filled(GeneratorBlock(4, 3, label_norm), **of_block("genblock"), **norms)
    close(generator(arrays["genblock_x"], arrays["genblock_y"]).detach(), arrays["genblock_out"])
    # The reference's shortcut sees relu(x), by a ReLU that works in place.
    discriminator = filled(DiscriminatorBlock(4, 6, down=True), **of_block("discblock"))
    close(discriminator(arrays["discblock_x"].relu()).detach(), arrays["discblock_out"])
    assert not torch.allclose(discriminator(arrays["discblock_x"]).detach(), arrays["discblock_out"], atol=0.1)


def test_rectified_shortcuts_are_those_of_the_reference() -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"low": 0.0, "high": 1.0, "image_size": 16, "image_channels": 1, "width": 8, "embed_dim": 8}
    plain, rectified = Discriminator(**settings).eval(), Discriminator(**settings, rectified_shortcuts=True).eval()
    rectified.load_state_dict(plain.state_dict())
    images = torch.randn(2, 1, 16, 16)
    x = plain.attention(plain.blocks[0](images))
    for block in list(plain.blocks)[1:]:
        x = block(x.relu())
    close(rectified.features(images).detach(), x.relu().flatten(1).detach())
    assert not torch.allclose(plain.features(images), rectified.features(images))


def test_label_embedding_of_the_reference() -> None:
    arrays = fixture("gan_blocks")
    weights = {key.removeprefix("y2h_main_").replace("_", "."): value for key, value in arrays.items() if "main" in key}
    embedding = filled(LabelEmbedding(-90, 90, 16), **{f"layers.{key}": value for key, value in weights.items()})
    close(embedding(arrays["y2h_y"] * 180 - 90).detach(), arrays["y2h_out"], 1e-3)
    close(cast(LabelEmbedding, embedding).of_places(arrays["y2h_y"]).detach(), arrays["y2h_out"])


def test_fourier_features_know_how_far_apart_labels_are_and_nothing_else() -> None:
    features = FourierFeatures(-90, 90, 12)
    y = torch.linspace(-90, 90, 19)  # every 10 degrees
    kernel = features(y) @ features(y).T
    for distance in range(19):
        along = kernel.diagonal(distance)
        close(along, along[:1].expand_as(along))  # wherever in the range
    close(kernel.diagonal(), torch.full((19,), 6.0), 1e-6)
    assert kernel[0].argmax() == 0  # the range's ends are no neighbours
    assert kernel[0, -1] == pytest.approx(0, abs=1e-4)  # sum of (-1)^k, k = 1 to 6
    close(features(torch.tensor([-90.0, 0]))[:, :2], [[1.0, 1.0], [0.0, -1.0]], 1e-5)  # cos 0, cos 0; cos pi / 2, cos pi
    assert not list(features.parameters())
    exact = features(y)
    assert exact.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(y), exact)


def count(network: nn.Module) -> int:
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("embedding."))


def test_parameter_counts_of_the_paper() -> None:
    assert count(Generator(0, 1)) == 15_070_052
    assert count(Discriminator(0, 1)) == 21_660_466
    assert count(LabelEmbedding(0, 1)) == 67_328
    assert count(ImageNetwork(128, 3, 64, "resnet34", 0)) == 21_610_945


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("attention", [True, False])
def test_networks_of_all_sizes(size: int, attention: bool) -> None:
    common = {
        "low": 1.0,
        "high": 60.0,
        "image_size": size,
        "image_channels": 1,
        "width": 8,
        "embed_dim": 8,
        "attention": attention,
    }
    generator, discriminator = models.build("sagan", dim_z=4, **common), models.build("sagan_discriminator", **common)
    images = generator.sample(3, torch.tensor([1.0, 30, 60]), seeded())
    assert images.shape == (3, 1, size, size)
    assert generator.label_range == (1, 60)
    assert discriminator(images, torch.tensor([1.0, 30, 60])).shape == (3, 1)
    with pytest.raises(UserError, match="16, 32, 64 px, not 128"):
        Generator(0, 1, 128)
