"""GAN losses, averaged generator, orthogonal regularisation and training iterations against reference values."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.biggan_import import import_discriminator, import_generator
from gankd.models.ema import ExponentialMovingAverage
from gankd.stages.gan import GANTraining
from gankd.stages.gan_batch import Batch
from gankd.stages.gan_losses import (
    add_orthogonal_gradient,
    gan_loss,
    hinge_discriminator,
    hinge_generator,
    orthogonal_gradient,
    softplus_discriminator,
    softplus_generator,
)
from gankd.stages.sections import GanTrainingConfig
from tests.unit.biggan_fixtures import close, fixture
from tests.unit.gan_fixtures import context, generator_at, networks, reals, training


def test_hinge_and_softplus() -> None:
    expected = fixture("biggan_core/losses")
    real, fake = (expected[k].requires_grad_() for k in ("d_real", "d_fake"))
    loss_real, loss_fake = hinge_discriminator(real, fake)
    close(loss_real, expected["hinge_d_real"])
    close(loss_fake, expected["hinge_d_fake"])
    gradients = torch.autograd.grad(loss_real + loss_fake, (real, fake))
    close(gradients[0], expected["grad_d_real"])
    close(gradients[1], expected["grad_d_fake"])
    close(hinge_generator(fake), expected["hinge_g"])
    close(torch.autograd.grad(hinge_generator(fake), fake)[0], expected["grad_g_fake"])
    loss_real, loss_fake = softplus_discriminator(real, fake)
    close(loss_real, expected["dcgan_d_real"])
    close(loss_fake, expected["dcgan_d_fake"])
    close(softplus_generator(fake), expected["dcgan_g"])
    with pytest.raises(UserError, match="hinge, softplus"):
        gan_loss("wgan")


def test_hinge_of_the_second_fixture() -> None:
    expected = fixture("cgan_kd/biggan_bits")
    loss_real, loss_fake = hinge_discriminator(expected["d_real"], expected["d_fake"])
    close(loss_real, expected["loss_real"], 1e-6)
    close(loss_fake, expected["loss_fake"], 1e-6)
    close(hinge_generator(expected["d_fake"]), expected["loss_gen"], 1e-6)


class Followed(nn.Module):
    """A parameter, a running value and a counter."""

    def __init__(self, w: Tensor, run: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(w.clone())
        self.register_buffer("run", run.clone())
        self.register_buffer("count", torch.tensor(0))

    def become(self, w: Tensor, run: Tensor) -> None:
        self.w.data.copy_(w)
        self.run = run.clone()  # out of place, as power iterations and running statistics may be
        self.count += 1


def test_ema() -> None:
    expected = fixture("biggan_core/ema")
    network = Followed(expected["src_w"][0], expected["src_run"][0])
    ema = ExponentialMovingAverage(network, float(expected["decay"]), int(expected["start_itr"]))
    for i in range(len(expected["src_w"])):
        network.become(expected["src_w"][i], expected["src_run"][i])
        ema.update(i)
        close(ema.average.w, expected["ema_w"][i], 1e-14)
        close(ema.average.run, expected["ema_run"][i], 1e-14)
        assert ema.average.count == i + 1


def test_ema_of_the_second_fixture() -> None:
    expected = fixture("cgan_kd/biggan_bits")
    source = expected["ema_source"]
    network = Followed(source[0], source[0])
    ema = ExponentialMovingAverage(network, float(expected["ema_decay"]), int(expected["ema_start"]))
    for i, value in enumerate(source):
        network.become(value, value)
        ema.update(i)
        close(ema.average.w, expected["ema_target_after"][i], 1e-6)
    assert not ema.average.training
    assert not ema.average.w.requires_grad


def test_orthogonal_regularisation() -> None:
    weights = fixture("biggan_core/ortho_reg", "w")
    strength = float(fixture("biggan_core/ortho_reg")["strength"])
    # In the "full" values nothing was excluded.
    for group, exclude, diagonal in (("modified", {"emb.weight"}, False), ("full", set(), True)):
        network = nn.Module()
        for name, value in weights.items():
            parent, _, leaf = name.rpartition(".")
            if parent and not hasattr(network, parent):
                network.add_module(parent, nn.Module())
            owner = network.get_submodule(parent)
            owner.register_parameter(leaf, nn.Parameter(value.clone()))
        network.register_parameter("frozen", nn.Parameter(torch.ones(2, 2), requires_grad=False))
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        add_orthogonal_gradient(network, strength, exclude, diagonal)
        for name, gradient in fixture("biggan_core/ortho_reg", f"{group}/grad").items():
            close(network.get_parameter(name).grad, gradient, 1e-12)


def test_orthogonal_gradient_worked_example() -> None:
    weight = torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    assert orthogonal_gradient(weight).tolist() == [[0, 8], [4, 4]]
    assert orthogonal_gradient(weight, diagonal=True).tolist() == [[2, 10], [4, 16]]
    channels_last = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    close(orthogonal_gradient(channels_last), orthogonal_gradient(channels_last.contiguous()), 1e-6)


class Replay(GANTraining):
    """Training with the latents and labels of a record, in its order."""

    def replay(self, zs: Tensor, ys: Tensor) -> None:
        self.record = iter(zip(zs, ys))

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        return Batch(*next(self.record), *(self.real_batch(self.batch, rng) if reals else ()))


@pytest.mark.parametrize("channels_last", [True, False])
def test_three_training_iterations(channels_last: bool) -> None:
    expected = fixture("biggan_core/train_steps")
    d_steps, d_parts, g_parts, batch, iterations = expected["cfg"].tolist()
    discriminator: Any = import_discriminator(fixture("biggan_core/train_steps", "D")).double()
    images = F.interpolate(expected["x_low"].double().flatten(0, 1), size=discriminator.image_size)
    micro_batches = iter(zip(images.split(batch), expected["y_real"].flatten().split(batch)))
    lr = float(expected["lr"])
    cfg = GanTrainingConfig(
        batch=batch, d_steps=d_steps, d_lr=lr, precision="fp32", diffaugment=(),
        ema_decay=float(expected["ema_decay"]), ema_start=int(expected["ema_start"]),
    )  # fmt: skip
    training = Replay(
        context(), cfg, lr,
        import_generator(fixture("biggan_core/train_steps", "G")).double(),
        discriminator,
        lambda n, rng: next(micro_batches),
        channels_last=channels_last,
    )  # fmt: skip
    training.discriminator_parts, training.generator_parts = d_parts, g_parts
    training.replay(expected["zs"], expected["ys"])
    for i in range(iterations):
        metrics = training.step(i, torch.Generator())
        names = ("loss_discriminator_real", "loss_discriminator_fake", "loss_generator")
        close(torch.stack([metrics[k] for k in names]), expected["losses"][i])
        assert not any(m.requires_grad for m in metrics.values())
    for group, name in (("G", "generator"), ("D", "discriminator"), ("Gema", "generator_ema")):
        state = training.modules[name].state_dict()
        for key, value in fixture("biggan_core/train_steps", f"{group}_after").items():
            # Biases in front of a BN have no true gradient; Adam moves them by up to lr a step on rounding noise,
            # and the running means with them.
            close(state[key], value, 3 * iterations * lr if key.endswith("stored_mean") else 1e-7)


EVERYTHING = {
    "diffaugment": ("color", "translation", "cutout"), "orthogonal": 1e-4, "batch": 8, "accumulations": 2,
}  # fmt: skip


def test_resumed_training_equals_undisturbed_training(tmp_path) -> None:  # type: ignore[no-untyped-def]
    undisturbed, first, second = training(**EVERYTHING), training(**EVERYTHING), training(seed=1, **EVERYTHING)
    for i in range(4):
        undisturbed.step(i, generator_at(i))
    for i in range(2):
        first.step(i, generator_at(i))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for i in range(2, 4):
        second.step(i, generator_at(i))
    for name, module in undisturbed.modules.items():
        resumed = second.modules[name].state_dict()
        for key, value in module.state_dict().items():
            assert torch.equal(value, resumed[key]), (name, key)


def test_bf16_follows_fp32() -> None:
    exact, rough = training(precision="fp32"), training(precision="bf16")
    for i in range(2):
        expected, metrics = exact.step(i, generator_at(i)), rough.step(i, generator_at(i))
        for name, value in expected.items():
            assert metrics[name].dtype == torch.float32
            close(metrics[name], value, 0.05)
    assert all(p.dtype == torch.float32 for p in rough.generator.parameters())


def test_workers_share_one_global_batch() -> None:
    whole = training()
    parts = [GANTraining(context(rank, 2), whole.cfg, 2e-4, whole.generator, whole.discriminator, reals) for rank in range(2)]
    drawn = whole.draw(0, generator_at(0), reals=False)
    halves = [part.draw(0, generator_at(0), reals=False) for part in parts]
    assert torch.equal(torch.cat([half.z for half in halves]), drawn.z)
    assert torch.equal(torch.cat([half.fake_labels for half in halves]), drawn.fake_labels)
    with pytest.raises(UserError, match="multiple of 3"):
        GANTraining(context(0, 3), whole.cfg, 2e-4, whole.generator, whole.discriminator, reals)


def test_gradients_are_reduced_once_an_update_and_the_discriminator_is_left_trainable() -> None:
    calls: list[nn.Module] = []
    one = training(d_steps=2, batch=12, accumulations=3)
    one.ctx.average = calls.append  # type: ignore[method-assign]
    one.step(0, generator_at(0))
    assert calls == [one.discriminator, one.discriminator, one.generator]
    assert all(p.requires_grad for p in one.discriminator.parameters())


def test_accumulation_equals_one_larger_batch_for_the_discriminator() -> None:
    # The generator's batch norm sees smaller batches, so its images are replaced by given ones.
    small, large = training(batch=8, accumulations=2), training(batch=8)
    images, labels = reals(16, generator_at(9))
    for one, size in ((small, 4), (large, 8)):
        batches = [iter(zip(images[i : i + 8].split(size), labels[i : i + 8].split(size))) for i in (0, 8)]
        fake_labels = iter(labels[8:].split(size))
        one.discriminator.double()
        one.dtype = torch.double
        real = ((x.double(), y) for x, y in batches[0])
        drawn = (Batch(torch.empty(0), y, *pair) for y, pair in zip(fake_labels, real))
        one.generate = lambda batch, it=batches[1]: next(it)[0].double()  # type: ignore[method-assign]
        one.draw = lambda step, rng, it=drawn, **_: next(it)  # type: ignore[method-assign]
        one.optimizers["discriminator"].zero_grad()
        # The power iteration moves with every forward; a converged u does not.
        with torch.no_grad():
            for _ in range(200):
                one.discriminator(images[:1].double(), labels[:1])
        one.optimizers["discriminator"].step = lambda: None  # type: ignore[method-assign]
        one.update_discriminator(0, generator_at(0))
    for ours, theirs in zip(small.discriminator.parameters(), large.discriminator.parameters()):
        close(ours.grad, theirs.grad, 1e-6)


def test_unknown_augmentation_is_an_error_before_training() -> None:
    with pytest.raises(UserError, match="'colour'"):
        GANTraining(context(), GanTrainingConfig.model_construct(diffaugment=("colour",)), 2e-4, *networks(), reals)
