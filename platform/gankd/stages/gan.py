"""Training of a class-conditional GAN: the iteration of BigGAN (Brock et al. 2018), with DiffAugment if asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from gankd.engine import Algorithm, autocast
from gankd.errors import UserError
from gankd.models import diffaugment
from gankd.models.ema import ExponentialMovingAverage
from gankd.stages.gan_losses import add_orthogonal_gradient, gan_loss

# (n, rng) -> this worker's rows of a global batch of n: images (rows, C, H, W) in [-1, 1], integer labels (rows,).
RealBatch = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
# Weighted scalars, by name, that a generator's loss adds to the adversarial one.
Penalty = Callable[[], dict[str, Tensor]]


def single_worker(network: nn.Module) -> None:
    """What there is to average over the workers when there is one: nothing."""


@dataclass(frozen=True)
class GANHyperparameters:
    """Defaults: BigGAN's CIFAR recipe.

    Attributes:
        batch: images per micro-batch over all workers (reals and fakes each).
        discriminator_steps: discriminator updates per generator update.
        discriminator_accumulations, generator_accumulations: micro-batches per update.
        learning rates, betas, adam_eps: Adam, without decay or schedule.
        loss: "hinge" or "softplus".
        ema_decay, ema_start: the averaged generator; before iteration `ema_start` it equals the live one.
        generator_orthogonal, discriminator_orthogonal: strength of orthogonal regularisation, 0 for none.
        diffaugment: operations on what the discriminator sees, any of "color", "translation", "cutout".
        precision: "fp32", "bf16" (autocast), or "auto" (bf16 on a GPU).
        channels_last: keep maps and weights channels-last, which convolutions prefer.
    """

    batch: int = 50
    discriminator_steps: int = 4
    discriminator_accumulations: int = 1
    generator_accumulations: int = 1
    generator_learning_rate: float = 2e-4
    discriminator_learning_rate: float = 2e-4
    betas: tuple[float, float] = (0.0, 0.999)
    adam_eps: float = 1e-8
    loss: str = "hinge"
    ema_decay: float = 0.9999
    ema_start: int = 1000
    generator_orthogonal: float = 0.0
    discriminator_orthogonal: float = 0.0
    diffaugment: tuple[str, ...] = ()
    precision: str = "auto"
    channels_last: bool = True


class GANTraining(Algorithm):
    """One `step` is an iteration: discriminator updates, then a generator update, then the average of the generator.

    The networks lie on the device where they are to train; they are changed in place. Only parameters that require a
    gradient at the start are trained. Latents, labels and augmentations
    are drawn for the global batch from the step's generator, of which every worker takes its rows.

    Args:
        reduce: called with a network behind the last backward of its update; averages its gradients over the workers.
        penalty: terms of the generator's loss that do not depend on the batch; each is logged under its name.

    Raises UserError for a batch that the workers cannot share evenly, an unknown loss or an unknown DiffAugment
    operation.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        real_batch: RealBatch,
        hyperparameters: GANHyperparameters,
        *,
        rank: int = 0,
        world_size: int = 1,
        reduce: Callable[[nn.Module], None] = single_worker,
        penalty: Penalty | None = None,
    ) -> None:
        hp = self.hyperparameters = hyperparameters
        if hp.batch % world_size:
            raise UserError(f"batch {hp.batch} cannot be shared by {world_size} workers: choose a multiple of {world_size}.")
        self.loss = gan_loss(hp.loss)
        diffaugment.draw(0, 8, 8, hp.diffaugment, torch.Generator())  # an unknown operation is an error before training
        share = hp.batch // world_size
        self.rows = slice(rank * share, (rank + 1) * share)
        self.real_batch, self.reduce, self.penalty = real_batch, reduce, penalty
        self.device = next(generator.parameters()).device
        self.dtype = next(generator.parameters()).dtype
        self.dim_z, self.classes = cast(int, generator.dim_z), cast(int, generator.classes)
        self.memory_format = torch.channels_last if hp.channels_last else torch.contiguous_format
        self.generator = generator.to(memory_format=self.memory_format)
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        self.trained = [p for p in discriminator.parameters() if p.requires_grad]
        self.ema = ExponentialMovingAverage(generator, hp.ema_decay, hp.ema_start)
        self.modules = {"generator": generator, "discriminator": discriminator, "generator_ema": self.ema.average}
        self.optimizers = {
            "generator": self.adam(generator, hp.generator_learning_rate),
            "discriminator": self.adam(discriminator, hp.discriminator_learning_rate),
        }

    def adam(self, network: nn.Module, learning_rate: float) -> torch.optim.Adam:
        hp = self.hyperparameters
        parameters = [p for p in network.parameters() if p.requires_grad]
        fused = self.device.type in ("cpu", "cuda")
        return torch.optim.Adam(parameters, lr=learning_rate, betas=hp.betas, eps=hp.adam_eps, fused=fused)

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Iteration `step` (from 0). Returns the losses of the last update of either network, scalars on the device."""
        self.generator.train()
        self.discriminator.train()
        metrics = {}
        for _ in range(self.hyperparameters.discriminator_steps):
            metrics = self.update_discriminator(rng)
        metrics |= self.update_generator(rng)
        self.ema.update(step + 1)
        return metrics

    def update_discriminator(self, rng: torch.Generator) -> dict[str, Tensor]:
        hp, parts = self.hyperparameters, self.hyperparameters.discriminator_accumulations
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        loss_real, loss_fake = torch.zeros((2,), device=self.device)
        for _ in range(parts):
            z, labels = self.draw_latent(rng)
            with torch.no_grad():
                fake = self.generate(z, labels)
            real, real_labels = self.real_batch(hp.batch, rng)
            images = torch.cat([fake, real.to(self.device, self.dtype, non_blocking=True)])
            images = self.augment(images, batches=2, rng=rng)
            logits = self.discriminate(images, torch.cat([labels, real_labels.to(self.device, non_blocking=True)]))
            fake_logits, real_logits = logits.split([len(fake), len(real)])
            real_term, fake_term = self.loss.discriminator(real_logits, fake_logits)
            ((real_term + fake_term) / parts).backward()
            loss_real = loss_real + real_term.detach() / parts
            loss_fake = loss_fake + fake_term.detach() / parts
        self.apply_gradients("discriminator", hp.discriminator_orthogonal)
        return {"loss_discriminator_real": loss_real, "loss_discriminator_fake": loss_fake}

    def update_generator(self, rng: torch.Generator) -> dict[str, Tensor]:
        hp, parts = self.hyperparameters, self.hyperparameters.generator_accumulations
        self.optimizers["generator"].zero_grad(set_to_none=True)
        self.freeze_discriminator(True)
        total = torch.zeros((), device=self.device)
        for _ in range(parts):
            z, labels = self.draw_latent(rng)
            images = self.augment(self.generate(z, labels), batches=1, rng=rng)
            loss = self.loss.generator(self.discriminate(images, labels)) / parts
            loss.backward()
            total = total + loss.detach()
        terms = self.penalty() if self.penalty else {}
        if terms:
            # Once behind the micro-batches: what does not depend on them has the same gradient in each.
            torch.stack(list(terms.values())).sum().backward()
        self.freeze_discriminator(False)
        self.apply_gradients("generator", hp.generator_orthogonal)
        return {"loss_generator": total, **{name: term.detach() for name, term in terms.items()}}

    def apply_gradients(self, name: str, orthogonal: float) -> None:
        network = self.modules[name]
        self.reduce(network)
        if orthogonal:
            add_orthogonal_gradient(network, orthogonal, exclude={"shared.weight"})
        self.optimizers[name].step()

    def freeze_discriminator(self, frozen: bool) -> None:
        """Through a frozen discriminator gradients reach the images only, which saves a third of its computation."""
        for parameter in self.trained:
            parameter.requires_grad_(not frozen)

    def draw_latent(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """This worker's rows of z ~ N(0, 1), (batch, dim_z), and of labels uniform over the classes, (batch,)."""
        n = self.hyperparameters.batch
        z = torch.randn(n, self.dim_z, generator=rng, device=rng.device)
        labels = torch.randint(self.classes, (n,), generator=rng, device=rng.device)
        z, labels = z[self.rows], labels[self.rows]
        return z.to(self.device, self.dtype, non_blocking=True), labels.to(self.device, non_blocking=True)

    def augment(self, images: Tensor, batches: int, rng: torch.Generator) -> Tensor:
        """DiffAugment on the concatenation of this worker's rows of `batches` global batches."""
        hp = self.hyperparameters
        if not hp.diffaugment:
            return images
        height, width = images.shape[2:]
        draws = [diffaugment.draw(hp.batch, height, width, hp.diffaugment, rng) for _ in range(batches)]
        return diffaugment.apply(images, diffaugment.concatenate(*(diffaugment.rows(d, self.rows) for d in draws)))

    def generate(self, z: Tensor, labels: Tensor) -> Tensor:
        with autocast(self.device, self.hyperparameters.precision):
            return self.generator(z, labels)

    def discriminate(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.contiguous(memory_format=self.memory_format)
        with autocast(self.device, self.hyperparameters.precision):
            return self.discriminator(images, labels)
