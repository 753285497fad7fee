"""Training of a class-conditional GAN: the iteration of BigGAN (Brock et al. 2018), with DiffAugment if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.engine import Algorithm, autocast
from gankd.models import diffaugment
from gankd.models.ema import ExponentialMovingAverage
from gankd.stages.gan_losses import add_orthogonal_gradient, gan_loss
from gankd.stages.sections import GanTrainingConfig

# (n, rng) -> this worker's rows of a global batch of n: images (rows, C, H, W) in [-1, 1], integer labels (rows,).
RealBatch = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Seen:
    """This worker's rows of a micro-batch, as a loss term sees them.

    Attributes:
        step: number of the iteration, from 0.
        z, fakes, fake_labels: latents (n, dim_z), their images in [-1, 1] before augmentation, the labels asked for.
        fake_features, fake_logits: what the discriminator makes of them, augmented: (n, C) and (n, 1).
        reals, real_labels, real_features, real_logits: the same of real images; None in the generator's update.
    """

    step: int
    z: Tensor
    fakes: Tensor
    fake_labels: Tensor
    fake_features: Tensor
    fake_logits: Tensor
    reals: Tensor | None = None
    real_labels: Tensor | None = None
    real_features: Tensor | None = None
    real_logits: Tensor | None = None


# Weighted scalars by the name under which they are logged, added to the adversarial loss of each micro-batch.
Terms = Callable[[Seen], Mapping[str, Tensor]]


def no_terms(seen: Seen) -> Mapping[str, Tensor]:
    """Of a plain GAN."""
    return {}


class GANTraining(Algorithm):
    """One `step` is an iteration: discriminator updates, then a generator update, then the average of the generator.

    The networks lie on the device where they are to train; they are changed in place. Only parameters that require a
    gradient at the start are trained. Latents, labels and augmentations are drawn for the global batch from the step's
    generator, of which every worker takes its rows.

    Args:
        cfg, g_lr: how it is trained, and the generator's learning rate.
        generator_terms, discriminator_terms: further terms of either loss.
        joined: further modules by the network ("generator", "discriminator") whose optimiser they join; they are part of
            the checkpoint, with their buffers.
        start: iterations of an earlier stage that this one goes on from, as the scheduler counts.

    Raises UserError for a batch that the workers cannot share evenly, or an unknown DiffAugment operation.
    """

    def __init__(
        self, ctx: Context, cfg: GanTrainingConfig, g_lr: float, generator: Any, discriminator: Any, real_batch: RealBatch, *,
        generator_terms: Terms = no_terms, discriminator_terms: Terms = no_terms,
        joined: Mapping[str, Mapping[str, nn.Module]] | None = None, start: int = 0, channels_last: bool = True,
    ) -> None:  # fmt: skip
        self.ctx, self.cfg, self.real_batch, self.start = ctx, cfg, real_batch, start
        self.generator_terms, self.discriminator_terms = generator_terms, discriminator_terms
        self.loss = gan_loss(cfg.loss)
        diffaugment.draw(0, 8, 8, cfg.diffaugment, torch.Generator())  # an unknown operation is an error before training
        self.discriminator_parts = self.generator_parts = cfg.accumulations
        self.batch = cfg.batch // cfg.accumulations  # images of a micro-batch over all workers
        share = ctx.share(self.batch)
        self.rows = slice(ctx.rank * share, (ctx.rank + 1) * share)
        self.device, self.dtype = (getattr(next(generator.parameters()), name) for name in ("device", "dtype"))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator = generator.to(memory_format=self.memory_format)
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        self.trained = [p for p in discriminator.parameters() if p.requires_grad]
        self.ema = ExponentialMovingAverage(generator, cfg.ema_decay, cfg.ema_start)
        self.joined = {name: dict((joined or {}).get(name, {})) for name in ("generator", "discriminator")}
        further = {name: module for modules in self.joined.values() for name, module in modules.items()}
        self.modules = {"generator": generator, "discriminator": discriminator, "generator_ema": self.ema.average, **further}
        self.optimizers = {"generator": self.adam("generator", g_lr), "discriminator": self.adam("discriminator", cfg.d_lr)}

    def adam(self, name: str, learning_rate: float) -> torch.optim.Adam:
        cfg, networks = self.cfg, [self.modules[name], *self.joined[name].values()]
        parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=learning_rate, betas=(cfg.beta1, cfg.beta2), eps=cfg.adam_eps, fused=True)

    def clock(self, step: int) -> int:
        return self.start + step

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Iteration `step` (from 0). Returns the losses of the last update of either network, scalars on the device."""
        self.generator.train()
        self.discriminator.train()
        metrics: dict[str, Tensor] = {}
        for _ in range(self.cfg.d_steps):
            metrics = self.update_discriminator(step, rng)
        metrics |= self.update_generator(step, rng)
        self.ema.update(step + 1)
        return metrics

    def update_discriminator(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        parts, metrics = self.discriminator_parts, dict[str, Tensor]()
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        for _ in range(parts):
            z, labels, reals, real_labels = self.draw(rng)
            with torch.no_grad():
                fakes = self.generate(z, labels)
            images = self.augment(torch.cat([fakes, reals]), batches=2, rng=rng)
            features, logits = self.discriminate(images, torch.cat([labels, real_labels]))
            sizes = [len(fakes), len(reals)]
            (fake_features, real_features), (fake_logits, real_logits) = features.split(sizes), logits.split(sizes)
            seen = Seen(step, z, fakes, labels, fake_features, fake_logits, reals, real_labels, real_features, real_logits)
            real_term, fake_term = self.loss.discriminator(real_logits, fake_logits)
            losses = {"loss_discriminator_real": real_term, "loss_discriminator_fake": fake_term}
            self.backward(losses | dict(self.discriminator_terms(seen)), parts, metrics)
        self.apply_gradients("discriminator")
        return metrics

    def update_generator(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        parts, metrics = self.generator_parts, dict[str, Tensor]()
        self.optimizers["generator"].zero_grad(set_to_none=True)
        self.freeze_discriminator(True)
        for _ in range(parts):
            z, labels = self.draw_latent(rng)
            fakes = self.generate(z, labels)
            features, logits = self.discriminate(self.augment(fakes, batches=1, rng=rng), labels)
            losses = {"loss_generator": self.loss.generator(logits)}
            terms = self.generator_terms(Seen(step, z, fakes, labels, features, logits))
            self.backward(losses | dict(terms), parts, metrics)
        self.freeze_discriminator(False)
        self.apply_gradients("generator")
        return metrics

    def backward(self, losses: Mapping[str, Tensor], parts: int, metrics: dict[str, Tensor]) -> None:
        """Gradients of the mean over `parts` micro-batches of the losses' sum; adds what it has of each to `metrics`."""
        (torch.stack([loss.reshape(()) for loss in losses.values()]).sum() / parts).backward()
        for name, loss in losses.items():
            metrics[name] = metrics.get(name, 0.0) + loss.detach() / parts

    def apply_gradients(self, name: str) -> None:
        """Average over the workers, regularise, step."""
        for network in (self.modules[name], *self.joined[name].values()):
            self.ctx.average(network)
        if self.cfg.orthogonal:
            add_orthogonal_gradient(self.modules[name], self.cfg.orthogonal, exclude={"shared.weight"})
        self.optimizers[name].step()

    def freeze_discriminator(self, frozen: bool) -> None:
        """Through a frozen discriminator gradients reach the images only, which saves a third of its computation."""
        for parameter in self.trained:
            parameter.requires_grad_(not frozen)

    def draw(self, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A micro-batch for the discriminator: latents and labels of fakes, real images and their labels."""
        z, labels = self.draw_latent(rng)
        reals, real_labels = self.real_batch(self.batch, rng)
        return (
            z, labels, reals.to(self.device, self.dtype, non_blocking=True), real_labels.to(self.device, non_blocking=True)
        )  # fmt: skip

    def draw_latent(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """This worker's rows of z ~ N(0, 1), (batch, dim_z), and of labels uniform over the classes, (batch,)."""
        z = self.generator.latents(self.batch, rng)
        labels = torch.randint(self.generator.classes, (self.batch,), generator=rng, device=rng.device)
        z, labels = z[self.rows], labels[self.rows]
        return z.to(self.device, self.dtype, non_blocking=True), labels.to(self.device, non_blocking=True)

    def augment(self, images: Tensor, batches: int, rng: torch.Generator) -> Tensor:
        """DiffAugment on the concatenation of this worker's rows of `batches` global batches."""
        if not self.cfg.diffaugment:
            return images
        height, width = images.shape[2:]
        draws = [diffaugment.draw(self.batch, height, width, self.cfg.diffaugment, rng) for _ in range(batches)]
        return diffaugment.apply(images, diffaugment.concatenate(*(diffaugment.rows(d, self.rows) for d in draws)))

    def generate(self, z: Tensor, labels: Tensor) -> Tensor:
        with autocast(self.device, self.cfg.precision):
            images: Tensor = self.generator(z, labels)
            return images

    def discriminate(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, C) and logits (n, 1)."""
        images = images.contiguous(memory_format=self.memory_format)
        with autocast(self.device, self.cfg.precision):
            features = self.discriminator.features(images)
            return features, self.discriminator.classify(features, labels)
