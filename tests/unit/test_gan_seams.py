"""What a method can change of a GAN's training: terms that see the batch, modules that join, and how a batch is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gankd.stages.gan import GANTraining
from gankd.stages.gan_batch import Batch, Seen
from gankd.stages.gan_losses import hinge_discriminator
from tests.unit.gan_fixtures import CLASSES, generator_at, networks, reals, training


def test_a_term_sees_the_batch_and_is_added_to_the_loss() -> None:
    seen: list[Seen] = []

    def brightness(batch: Seen) -> dict[str, Tensor]:
        seen.append(batch)
        return {"loss_bright": 0.5 * batch.fakes.mean()}

    plain, with_term = training(batch=8, accumulations=2), training(batch=8, accumulations=2)
    with_term.generator_terms = with_term.discriminator_terms = brightness
    metrics = with_term.step(3, generator_at(0))
    plain.step(3, generator_at(0))
    *of_discriminator, first, second = seen
    assert len(of_discriminator) == 4  # two updates of two micro-batches
    assert (first.step, first.batch.reals, first.fakes.shape, first.fake_logits.shape) == (3, None, (4, 1, 8, 8), (4, 1))
    assert first.fake_features.shape[0] == of_discriminator[0].real_features.shape[0] == 4  # type: ignore[union-attr]
    torch.testing.assert_close(metrics["loss_bright"], 0.25 * (first.fakes.mean() + second.fakes.mean()).detach())
    weights = [one.generator.state_dict()["output_layer.2.weight"] for one in (plain, with_term)]
    assert not torch.equal(*weights)


def test_a_term_sees_what_the_discriminator_was_shown() -> None:
    seen: list[Seen] = []

    def look(batch: Seen) -> dict[str, Tensor]:
        seen.append(batch)
        return {}

    one = training(diffaugment=("translation", "cutout"), further={"discriminator_terms": look, "generator_terms": look})
    shown: list[Tensor] = []
    whole = one.discriminate
    one.discriminate = lambda images, *of: (shown.append(images), whole(images, *of))[1]  # type: ignore
    one.step(0, generator_at(0))
    for images, batch in zip(shown, seen, strict=True):
        both = [batch.shown_fakes, *([] if batch.shown_reals is None else [batch.shown_reals])]
        assert torch.equal(torch.cat(both), images)
        assert not torch.equal(batch.shown_fakes, batch.fakes)
    assert not torch.equal(seen[0].shown_reals, seen[0].batch.reals)  # type: ignore[arg-type]


def test_a_joined_module_is_trained_with_its_network_and_is_in_the_checkpoint() -> None:
    torch.manual_seed(0)
    head = nn.Linear(32, 1)
    before = head.weight.detach().clone()
    at_generator: list[bool] = []

    def of_discriminator(seen: Seen) -> dict[str, Tensor]:
        return {"loss_head": head(seen.fake_features).mean()}

    def of_generator(seen: Seen) -> dict[str, Tensor]:
        at_generator.append(head.weight.requires_grad)
        return {"loss_through_head": head(seen.fake_features).mean()}

    terms = {"discriminator_terms": of_discriminator, "generator_terms": of_generator}
    one = training(further={**terms, "joined": {"discriminator": {"head": head}}})
    calls: list[nn.Module] = []
    one.ctx.average = calls.append  # type: ignore[method-assign]
    one.step(0, generator_at(0))
    assert not torch.equal(head.weight, before)
    assert set(one.state_dict()["modules"]["head"]) == {"weight", "bias"}
    assert calls == [one.discriminator, head, one.discriminator, head, one.generator]
    assert at_generator == [False]  # frozen as the discriminator is
    assert head.weight.requires_grad


@dataclass(frozen=True)
class Vicinity(Batch):
    """A batch of CcGAN: also the labels before the noise."""

    targets: Tensor | None = None


class Vicinal(GANTraining):
    """Labels with noise, and weights by their distance from the target (CcGAN's soft vicinity, Ding et al. 2021)."""

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        drawn = super().draw(step, rng, reals=reals)
        targets = drawn.fake_labels.float()
        noise = 0.3 * torch.randn(len(targets), generator=rng)
        weights = {} if drawn.real_labels is None else {"real_weights": torch.exp(-((drawn.real_labels - targets) ** 2))}
        labels = (targets + noise).round().long().clamp(0, CLASSES - 1)
        return Vicinity(**(vars(drawn) | {"fake_labels": labels, "targets": targets} | weights))


def test_a_method_may_add_noise_to_labels_and_weigh_what_it_draws() -> None:
    seen: list[Seen] = []

    def look(batch: Seen) -> dict[str, Tensor]:
        seen.append(batch)
        return {}

    one = training(kind=Vicinal, batch=16, d_steps=1, further={"discriminator_terms": look})
    metrics = one.step(0, generator_at(0))
    (batch,) = seen
    assert isinstance(batch.batch, Vicinity)
    assert not torch.equal(batch.batch.targets, batch.batch.fake_labels.float())  # type: ignore[arg-type]
    assert batch.real_logits is not None
    assert batch.batch.real_weights is not None
    expected = (batch.batch.real_weights * torch.relu(1 - batch.real_logits[:, 0])).mean()
    torch.testing.assert_close(metrics["loss_discriminator_real"], expected.detach())


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_weights_of_one_change_nothing(shape: tuple[int, ...]) -> None:
    real, fake = (torch.randn(shape, generator=generator_at(seed)) for seed in (0, 1))
    torch.testing.assert_close(hinge_discriminator(real, fake, torch.ones(4), torch.ones(4)), hinge_discriminator(real, fake))
    heavy = hinge_discriminator(real, fake, torch.tensor([4.0, 0, 0, 0]), None)[0]
    torch.testing.assert_close(heavy, torch.relu(1 - real.flatten()[0]))


def test_a_scheduler_counts_the_steps_of_an_earlier_stage() -> None:
    cfg = training().cfg
    later: Any = GANTraining(training().ctx, cfg, 2e-4, *networks(), reals, start=150)
    assert [later.clock(step) for step in (1, 150)] == [151, 300]
