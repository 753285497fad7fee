"""Training of a class-conditional GAN: the iteration of BigGAN (Brock et al. 2018), with DiffAugment if asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.engine import Algorithm, autocast
from gankd.errors import UserError
from gankd.models import diffaugment
from gankd.models.biggan_blocks import set_conditioning
from gankd.models.ema import ExponentialMovingAverage
from gankd.stages.gan_batch import Batch, Seen, Terms, no_terms
from gankd.stages.gan_losses import add_orthogonal_gradient, gan_loss
from gankd.stages.gan_regularisers import (
    AdaptiveAugmentation,
    LeCam,
    gradient_penalty,
    mode_seeking,
    twice_differentiable,
)
from gankd.stages.sections import GanTrainingConfig

# (n, rng) -> this worker's rows of a global batch of n: images (rows, C, H, W) in [-1, 1], integer labels (rows,).
RealBatch = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]


class GANTraining(Algorithm):
    """One `step` is an iteration: discriminator updates, then a generator update, then the average of the generator.

    The networks lie on the device where they are to train; they are changed in place. Only parameters that require a
    gradient at the start are trained. Latents, labels and augmentations are drawn for the global batch from the step's
    generator, of which every worker takes its rows. A method that draws otherwise (each label twice, labels with noise,
    images weighted by their labels' distance) writes its own `draw`.

    Args:
        cfg, g_lr: how it is trained, and the generator's learning rate.
        generator_terms, discriminator_terms: further terms of either loss.
        joined: further modules by the network ("generator", "discriminator") whose optimiser they join: they are trained,
            frozen and averaged over the workers with it, and are part of the checkpoint, with their buffers.
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
        if cfg.mode_seeking and share % 2:
            raise UserError(f"mode_seeking compares pairs of images, and a worker's part of the GAN's batch is {share}")
        self.rows = slice(ctx.rank * share, (ctx.rank + 1) * share)
        self.device, self.dtype = (getattr(next(generator.parameters()), name) for name in ("device", "dtype"))
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator = generator.to(memory_format=self.memory_format)
        self.discriminator = discriminator.to(memory_format=self.memory_format)
        self.ema = ExponentialMovingAverage(generator, cfg.ema_decay, cfg.ema_start)
        self.conditioning = 1.0  # how far the classes differ, see `fade_in_condition`
        self.lecam = LeCam(cfg.lecam_decay, cfg.lecam_start) if cfg.lecam else None
        self.ada = None if cfg.ada_target is None else AdaptiveAugmentation(cfg.ada_target, cfg.ada_images)
        further = {side: dict((joined or {}).get(side, {})) for side in ("generator", "discriminator")}
        further["discriminator"] |= {name: m for name, m in (("lecam", self.lecam), ("ada", self.ada)) if m is not None}
        self.sides = {
            "generator": [generator, *further["generator"].values()],
            "discriminator": [discriminator, *further["discriminator"].values()],
        }
        self.modules = {"generator": generator, "discriminator": discriminator, "generator_ema": self.ema.average}
        self.modules |= further["generator"] | further["discriminator"]
        self.optimizers = {"generator": self.adam("generator", g_lr), "discriminator": self.adam("discriminator", cfg.d_lr)}
        self.trained = [p for group in self.optimizers["discriminator"].param_groups for p in group["params"]]

    def adam(self, side: str, learning_rate: float) -> torch.optim.Adam:
        cfg = self.cfg
        parameters = [p for network in self.sides[side] for p in network.to(self.device).parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=learning_rate, betas=(cfg.beta1, cfg.beta2), eps=cfg.adam_eps, fused=True)

    def clock(self, step: int) -> int:
        return self.start + step

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Iteration `step` (from 0). Returns the losses of the last update of either network, scalars on the device."""
        for network in (network for side in self.sides.values() for network in side):
            network.train()
        self.fade_in_condition(step)
        metrics: dict[str, Tensor] = {}
        for update in range(self.cfg.d_steps):
            penalised = bool(self.cfg.r1) and (step * self.cfg.d_steps + update) % self.cfg.r1_every == 0
            metrics |= self.update_discriminator(step, rng, penalised)
        metrics |= self.update_generator(step, rng)
        self.ema.update(step + 1)
        return metrics

    def update_discriminator(self, step: int, rng: torch.Generator, penalised: bool = False) -> dict[str, Tensor]:
        """One update; `penalised`: with R1."""
        parts, metrics = self.discriminator_parts, dict[str, Tensor]()
        self.optimizers["discriminator"].zero_grad(set_to_none=True)
        for _ in range(parts):
            batch = self.draw(step, rng, reals=True)
            assert batch.reals is not None
            assert batch.real_labels is not None
            with torch.no_grad():
                fakes = self.generate(batch)
            batch.reals.requires_grad_(penalised)
            images = self.augment(torch.cat([fakes, batch.reals]), batches=2, rng=rng)
            sizes = [len(fakes), len(batch.reals)]
            with twice_differentiable() if penalised else nullcontext():
                features, logits = self.discriminate(images, torch.cat([batch.fake_labels, batch.real_labels]), sizes)
            of_fakes, of_reals = zip(*(values.split(sizes) for values in (images, features, logits)), strict=True)
            seen = Seen(step, batch, fakes, *of_fakes, *of_reals)
            real_term, fake_term = self.loss.discriminator(of_reals[-1], of_fakes[-1], batch.real_weights, batch.fake_weights)
            losses = {"loss_discriminator_real": real_term, "loss_discriminator_fake": fake_term}
            losses |= self.discriminator_regularisers(seen)
            if penalised:
                strength = self.cfg.r1 * self.cfg.r1_every
                losses["loss_r1"] = strength * gradient_penalty(of_reals[-1], batch.reals)
            self.backward(losses | dict(self.discriminator_terms(seen)), parts, metrics)
        self.apply_gradients("discriminator")
        return metrics

    def update_generator(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        parts, metrics = self.generator_parts, dict[str, Tensor]()
        self.optimizers["generator"].zero_grad(set_to_none=True)
        self.freeze_discriminator(True)
        for _ in range(parts):
            batch = self.draw(step, rng, reals=False)
            fakes = self.generate(batch)
            images = self.augment(fakes, batches=1, rng=rng)
            seen = Seen(step, batch, fakes, images, *self.discriminate(images, batch.fake_labels))
            losses = {"loss_generator": self.loss.generator(seen.fake_logits)}
            if self.cfg.mode_seeking:
                losses["loss_mode_seeking"] = self.cfg.mode_seeking * mode_seeking(fakes, batch.z, self.over_workers)
            self.backward(losses | dict(self.generator_terms(seen)), parts, metrics)
        self.freeze_discriminator(False)
        self.apply_gradients("generator")
        return metrics

    def discriminator_regularisers(self, seen: Seen) -> dict[str, Tensor]:
        """LeCam's term where it is asked for; moves its anchors, and the probability of augmentation."""
        real, fake = seen.real_logits, seen.fake_logits
        assert real is not None
        if self.lecam is None and self.ada is None:
            return {}
        means = torch.stack([real.mean(), fake.mean(), real.sign().mean()]).detach()
        real_mean, fake_mean, real_sign = self.over_workers(means).unbind()
        if self.ada is not None:
            self.ada.update(real_sign, self.batch)
        if self.lecam is None:
            return {}
        self.lecam.update(seen.step, real_mean, fake_mean)
        return {"loss_lecam": self.cfg.lecam * self.lecam(seen.step, real, fake)}

    def over_workers(self, means: Tensor) -> Tensor:
        """The workers' mean of means over equally many images."""
        return self.ctx.sum(means) / self.ctx.world_size

    def fade_in_condition(self, step: int) -> None:
        """Transitional conditioning (Shahbazi et al. 2022): how far the classes differ at iteration `step`."""
        if self.cfg.transition:
            start, end = (share * self.cfg.steps for share in self.cfg.transition)
            self.conditioning = min(1.0, max(0.0, (step - start) / (end - start)))
            for network in (self.generator, self.discriminator, self.ema.average):
                set_conditioning(network, self.conditioning)

    def backward(self, losses: Mapping[str, Tensor], parts: int, metrics: dict[str, Tensor]) -> None:
        """Gradients of the mean over `parts` micro-batches of the losses' sum; adds what it has of each to `metrics`."""
        (torch.stack([loss.reshape(()) for loss in losses.values()]).sum() / parts).backward()
        for name, loss in losses.items():
            metrics[name] = metrics.get(name, 0.0) + loss.detach() / parts

    def apply_gradients(self, side: str) -> None:
        """Average over the workers, regularise, step."""
        for network in self.sides[side]:
            self.ctx.average(network)
        if self.cfg.orthogonal:
            add_orthogonal_gradient(self.modules[side], self.cfg.orthogonal, exclude={"shared.weight"})
        self.optimizers[side].step()

    def freeze_discriminator(self, frozen: bool) -> None:
        """Through a frozen discriminator, and what joined it, gradients reach the images only: a third less to compute."""
        for parameter in self.trained:
            parameter.requires_grad_(not frozen)

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        """A micro-batch: z ~ N(0, 1) with labels uniform over the classes and, for the discriminator's update, `reals`.

        For the generator's update with mode seeking each label stands twice, in neighbouring rows.
        """
        z = self.generator.latents(self.batch, rng)
        copies = 2 if self.cfg.mode_seeking and not reals else 1
        labels = self.labels(self.batch // copies, rng).repeat_interleave(copies)
        drawn = [z[self.rows], labels[self.rows], *(self.real_batch(self.batch, rng) if reals else ())]
        return Batch(*(self.here(values) for values in drawn))

    def labels(self, n: int, rng: torch.Generator) -> Tensor:
        """Classes to generate, (n,); zeros for a generator that takes none."""
        if self.generator.classes is None:
            return torch.zeros(n, dtype=torch.long, device=rng.device)
        return torch.randint(self.generator.classes, (n,), generator=rng, device=rng.device)

    def here(self, values: Tensor) -> Tensor:
        """On the networks' device, and numbers in their precision."""
        return values.to(self.device, self.dtype if values.is_floating_point() else values.dtype, non_blocking=True)

    def augment(self, images: Tensor, batches: int, rng: torch.Generator) -> Tensor:
        """DiffAugment on the concatenation of this worker's rows of `batches` global batches."""
        if not self.cfg.diffaugment:
            return images
        height, width = images.shape[2:]
        draws = [diffaugment.draw(self.batch, height, width, self.cfg.diffaugment, rng) for _ in range(batches)]
        augmented = diffaugment.apply(images, diffaugment.concatenate(*(diffaugment.rows(d, self.rows) for d in draws)))
        if self.ada is None:
            return augmented
        u = torch.rand(batches, self.batch, generator=rng, device=rng.device)[:, self.rows].flatten()
        return self.ada.choose(images, augmented, u)

    def generate(self, batch: Batch) -> Tensor:
        with autocast(self.device, self.cfg.precision):
            images: Tensor = self.generator(batch.z, batch.fake_labels)
            return images

    def discriminate(self, images: Tensor, labels: Tensor, sizes: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Features (n, C) and logits (n, 1). A discriminator that compares the images of a batch sees parts of `sizes` apart."""
        images = images.contiguous(memory_format=self.memory_format)
        apart = sizes and getattr(self.discriminator, "compares_images", False)
        with autocast(self.device, self.cfg.precision):
            parts = [self.discriminator.features(part) for part in (images.split(sizes) if apart else [images])]
            features = torch.cat(parts) if apart else parts[0]
            return features, self.discriminator.classify(features, labels)
