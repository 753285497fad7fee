"""What keeps a GAN from collapsing or overfitting, as knobs: mode seeking, LeCam, adaptive augmentation, fading conditions."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.config import build_config
from gankd.errors import UserError
from gankd.models import build
from gankd.models.biggan_blocks import SelfAttention, set_conditioning
from gankd.stages.gan import GANTraining
from gankd.stages.gan_batch import Seen
from gankd.stages.gan_regularisers import AdaptiveAugmentation, LeCam, gradient_penalty, mode_seeking, twice_differentiable
from gankd.stages.sections import GanTrainingConfig
from tests.unit.gan_fixtures import CLASSES, context, generator_at, networks, reals, training

ADA = {"ada_target": 0.6, "diffaugment": ("translation", "cutout")}
ALL = {"mode_seeking": 0.1, "lecam": 0.3, "lecam_start": 0, "transition": (0.1, 0.7), "steps": 4} | ADA


def test_mode_seeking_is_the_inverse_of_how_far_pairs_are_apart() -> None:
    z = torch.tensor([[0.0, 0], [1, 1], [0, 0], [2, 2]])
    images = torch.tensor([0.0, 0.5, 0, 3]).view(4, 1, 1, 1)
    # Half a grey level for one step of z, and one and a half.
    torch.testing.assert_close(mode_seeking(images, z), torch.tensor(1 / (1.0 + 1e-5)))
    scale = torch.tensor(1.0, requires_grad=True)
    mode_seeking(scale * images, z).backward()
    torch.testing.assert_close(scale.grad, torch.tensor(-1.0 / (1 + 1e-5) ** 2))  # of 1 / (scale + EPS)


def test_mode_seeking_of_two_workers_is_that_of_all_pairs() -> None:
    images, z = torch.randn(8, 1, 2, 2), torch.randn(8, 3)
    means = [float(1 / mode_seeking(images[half], z[half]) - 1e-5) for half in (slice(0, 4), slice(4, 8))]
    gradients = []
    for halves in ((slice(0, 8),), (slice(0, 4), slice(4, 8))):
        leaf = images.clone().requires_grad_()
        values = [mode_seeking(leaf[half], z[half], lambda mean: torch.tensor(sum(means) / 2)) for half in halves]
        torch.stack(values).mean().backward()
        gradients.append(leaf.grad)
        torch.testing.assert_close(values[0], mode_seeking(images, z), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_mode_seeking_draws_each_label_twice_for_the_generator_alone() -> None:
    labels: list[tuple[bool, Tensor]] = []

    def look(seen: Seen) -> dict[str, Tensor]:
        labels.append((seen.batch.reals is None, seen.batch.fake_labels))
        return {}

    one = training(batch=16, mode_seeking=0.1, further={"discriminator_terms": look, "generator_terms": look})
    metrics = one.step(0, generator_at(0))
    assert metrics["loss_mode_seeking"] > 0
    assert len(labels) == 3
    for of_generator, drawn in labels:
        assert bool((drawn[::2] == drawn[1::2]).all()) == of_generator


def spread(one: GANTraining) -> float:
    """How far two images of a class are apart."""
    z, labels = torch.randn(64, 8, generator=generator_at(1)), torch.arange(64) % CLASSES
    with torch.no_grad():
        images = one.generator.eval()(z, labels)
    return float((images[:32] - images[32:]).abs().mean())


def test_mode_seeking_spreads_the_images_of_a_class() -> None:
    plain, seeking = training(batch=16), training(batch=16, mode_seeking=10.0)
    for step in range(20):
        plain.step(step, generator_at(step))
        seeking.step(step, generator_at(step))
    assert spread(seeking) > 1.15 * spread(plain)


def test_lecam_starts_from_the_present_means_and_then_acts() -> None:
    lecam = LeCam(decay=0.9, start=2)
    real, fake = torch.tensor([2.0, 0]), torch.tensor([-1.0, 1])
    for step, (expected, active) in enumerate([(1.0, False), (1.0, False), (1.0, False), (1.0, True)]):
        lecam.update(step, real.mean(), fake.mean())
        assert float(lecam.real) == expected
        assert bool(lecam(step, real, fake) > 0) == active
    lecam.update(3, torch.tensor(0.0), torch.tensor(0.0))
    torch.testing.assert_close(lecam.real, torch.tensor(0.9))
    lecam.real.fill_(0.5)
    lecam.fake.fill_(-0.5)
    torch.testing.assert_close(lecam(3, real, fake), torch.tensor(4.375))  # the specification's example


@pytest.mark.parametrize(("sign", "grows"), [(1.0, True), (0.2, False)])
def test_augmentation_grows_while_the_discriminator_is_surer_than_asked_for(sign: float, grows: bool) -> None:
    ada = AdaptiveAugmentation(0.6, 500_000)
    ada.probability.fill_(0.5)
    ada.update(torch.tensor(sign), 5000)
    torch.testing.assert_close(ada.probability, torch.tensor(0.51 if grows else 0.49))
    for _ in range(60):
        ada.update(torch.tensor(sign), 5000)
    assert float(ada.probability) == (1.0 if grows else 0.0)


def test_an_image_is_augmented_with_the_present_probability() -> None:
    ada, images, u = AdaptiveAugmentation(0.6, 500_000), torch.zeros(4, 1, 2, 2), torch.tensor([0.0, 0.2, 0.4, 0.9])
    ada.probability.fill_(0.3)
    assert ada.choose(images, images + 1, u).amax((1, 2, 3)).tolist() == [1, 1, 0, 0]
    gradient = images.clone().requires_grad_()
    ada.choose(gradient, 2 * gradient, u).sum().backward()
    assert gradient.grad is not None
    assert gradient.grad.amax((1, 2, 3)).tolist() == [2, 2, 1, 1]


def test_augmentation_begins_with_untouched_images() -> None:
    seen: list[Seen] = []
    one = training(**ADA, further={"discriminator_terms": lambda batch: (seen.append(batch), {})[1]})
    one.step(0, generator_at(0))
    assert torch.equal(seen[0].shown_fakes, seen[0].fakes)
    assert one.ada is not None
    one.ada.probability.fill_(1.0)
    one.step(1, generator_at(1))
    assert not torch.equal(seen[-1].shown_fakes, seen[-1].fakes)


@pytest.mark.parametrize("network", [{}, {"shared_dim": 4}, {"shared_dim": 4, "hierarchical": True}])
def test_without_a_condition_all_classes_are_one(network: dict[str, Any]) -> None:
    torch.manual_seed(0)
    generator = build("biggan", image_size=8, classes=3, image_channels=1, width=4, dim_z=8, init="ortho", **network).eval()
    discriminator = build("biggan_discriminator", image_size=8, classes=3, image_channels=1, width=4, init="ortho").eval()
    z, labels = torch.randn(1, generator.dim_z).repeat(3, 1), torch.arange(3)
    image = torch.rand(1, 1, 8, 8).repeat(3, 1, 1, 1)
    own = generator(z, labels), discriminator(image, labels)
    for values in own:
        assert not torch.allclose(values[0], values[1])
    set_conditioning(generator, 0.0)
    set_conditioning(discriminator, 0.0)
    for values in (generator(z, labels), discriminator(image, labels)):
        torch.testing.assert_close(values[0], values[1])
        torch.testing.assert_close(values[0], values[2])
    set_conditioning(generator, 1.0)
    set_conditioning(discriminator, 1.0)
    assert torch.equal(generator(z, labels), own[0])
    assert torch.equal(discriminator(image, labels), own[1])


def test_the_condition_fades_in_over_its_share_of_the_training() -> None:
    one = training(steps=100, transition=(0.2, 0.6))
    for step, expected in ((0, 0.0), (20, 0.0), (40, 0.5), (60, 1.0), (99, 1.0)):
        one.fade_in_condition(step)
        for network in (one.generator, one.discriminator, one.ema.average):
            found = {module.conditioning for module in network.modules() if hasattr(module, "conditioning")}
            assert found == {expected}


def test_all_of_them_outlive_an_interruption(tmp_path: Path) -> None:
    undisturbed, first, second = (training(**ALL) for _ in range(3))
    for each in (undisturbed, first):
        assert each.ada is not None
        each.ada.probability.fill_(0.5)
    expected = [undisturbed.step(i, generator_at(i)) for i in range(4)]
    for i in range(2):
        first.step(i, generator_at(i))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for i in (2, 3):
        found = second.step(i, generator_at(i))
        assert found.keys() == expected[i].keys() >= {"loss_lecam", "loss_mode_seeking"}
        assert all(torch.equal(found[name], expected[i][name]) for name in found)
    assert second.modules["lecam"].state_dict()["real"] != 0
    assert second.modules["ada"].state_dict()["probability"] > 0.4


def test_switched_off_they_change_nothing() -> None:
    one, other = training(), training(lecam_start=7, lecam_decay=0.5)
    assert set(one.modules) == {"generator", "discriminator", "generator_ema"}
    metrics = [each.step(0, generator_at(0)) for each in (one, other)]
    assert metrics[0].keys() == {"loss_generator", "loss_discriminator_real", "loss_discriminator_fake"}
    assert all(torch.equal(metrics[0][name], metrics[1][name]) for name in metrics[0])
    assert "lecam_decay" in one.cfg.inert()
    assert "lecam_decay" not in training(lecam=0.1).cfg.inert()


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"mode_seeking": 0.1, "batch": 5}, "micro-batch of 5 is odd"),
        ({"mode_seeking": 0.1, "batch": 6, "accumulations": 2}, "micro-batch of 3 is odd"),
        ({"mode_seeking": -0.1}, "greater than or equal to 0"),
        ({"transition": [0.5, 0.2]}, "must begin before it ends"),
        ({"transition": [0.5, 1.0]}, "leaves no step with the whole condition"),
        ({"ada_target": 0.6, "diffaugment": []}, "diffaugment is empty"),
        ({"lecam": -1}, "greater than or equal to 0"),
        ({"lecam": 0.1, "lecam_start": 99, "steps": 100}, "lecam_start = 99 steps, and there are 100"),
    ],
)
def test_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        build_config(GanTrainingConfig, knobs)


def test_a_workers_part_of_a_pair_is_refused() -> None:
    cfg = GanTrainingConfig(batch=6, mode_seeking=0.1, diffaugment=())
    with pytest.raises(UserError, match="a worker's part of the GAN's batch is 3"):
        GANTraining(context(0, 2), cfg, 2e-4, *networks(), reals)


def test_r1_is_half_the_squared_gradient_at_each_image() -> None:
    images = torch.randn(5, 1, 2, 2, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([[3.0, 0], [0, 4]], dtype=torch.float64, requires_grad=True)
    penalty = gradient_penalty((images * weight).sum((1, 2, 3))[:, None], images)  # dD/dx is the weight, whatever the image
    assert float(penalty.detach()) == 12.5
    (gradient,) = torch.autograd.grad(penalty, weight)  # through the gradient
    torch.testing.assert_close(gradient.double(), weight.detach())


def test_r1_goes_through_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "classes": CLASSES, "image_channels": 1, "width": 8, "init": "ortho", "attention": (4,)}
    discriminator = build("biggan_discriminator", **sizes).eval()
    (attention,) = (module for module in discriminator.modules() if isinstance(module, SelfAttention))
    with torch.no_grad():
        attention.gamma.fill_(1.0)  # 0 at first: it would be no part of the output
    images, labels = torch.randn(4, 1, 8, 8, requires_grad=True), torch.arange(4) % CLASSES

    def gradient() -> Tensor:
        attention.theta.weight.grad = None
        with twice_differentiable():
            logits = discriminator(images, labels)
        gradient_penalty(logits, images).backward()
        assert attention.theta.weight.grad is not None
        return attention.theta.weight.grad.clone()

    found = gradient()
    plain = lambda q, k, v, scale: (q @ k.transpose(-2, -1)).softmax(-1) @ v  # noqa: E731
    monkeypatch.setattr(F, "scaled_dot_product_attention", plain)
    torch.testing.assert_close(found, gradient(), rtol=1e-3, atol=1e-7)
    assert bool((found != 0).any())
    monkeypatch.undo()
    one = GANTraining(context(), GanTrainingConfig(batch=4, diffaugment=(), r1=10.0), 2e-4, networks()[0], discriminator, reals)
    one.update_discriminator(0, generator_at(0), penalised=True)  # no fused kernel has second derivatives
    assert all(bool(torch.isfinite(parameter).all()) for parameter in discriminator.parameters())


def test_r1_comes_every_so_many_updates_and_leaves_the_others_alone() -> None:
    plain, penalised = training(d_steps=2), training(d_steps=2, r1=0.5, r1_every=3)
    seen = ["loss_r1" in penalised.step(step, generator_at(step)) for step in range(4)]
    assert seen == [True, True, False, True]  # of updates 0 to 7, these: 0, 3, 6
    assert "loss_r1" not in plain.step(0, generator_at(0))
    one, other = training(), training(r1=0.5, r1_every=1000)
    one.step(1, generator_at(1))
    other.step(1, generator_at(1))
    for mine, theirs in zip(one.discriminator.parameters(), other.discriminator.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_discriminator_that_compares_images_sees_fakes_and_reals_apart() -> None:
    sizes: list[int] = []
    for compares in (False, True):
        one = training(batch=16)
        one.discriminator.compares_images = compares
        whole = one.discriminator.features
        one.discriminator.features = lambda images, whole=whole: (sizes.append(len(images)), whole(images))[1]  # type: ignore
        one.update_discriminator(0, generator_at(0))
    assert sizes == [32, 16, 16]
