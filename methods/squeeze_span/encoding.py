"""Latent encoding: a generator turned around, as a baseline: the encoder tells an image's latent, by which it is rebuilt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.engine import autocast
from methods.squeeze_span.config import form
from methods.squeeze_span.pretraining import Pretraining, Terms

Synthesis = Callable[[Tensor], Tensor]  # w+ (N, copies, W) -> images (N, C, H, W)


def perceptual(one: Tensor, other: Tensor) -> Tensor:
    """Half the mean squared difference of two sets of images: in the place of LPIPS, whose AlexNet is not to be had offline."""
    return 0.5 * F.mse_loss(one, other)


def rebuilding(images: Tensor, truth: Tensor) -> Tensor:
    """How far rebuilt images are from the true ones: mean |difference|, and perceptually."""
    return F.l1_loss(images, truth) + perceptual(images, truth)


def latent_encoding(
    encoder: nn.Module, synthesis: Synthesis, latents: Tensor, generated: Tensor, real: Tensor | None, alpha: float,
    latent_weight: float,
) -> tuple[Terms, Tensor]:  # fmt: skip
    """alpha (weight · MSE(w, E(x)) + rebuilding x) + (1 - alpha) rebuilding real images; and what E told.

    latents: w+ (n, copies, W) of the generated images (n, C, H, W). real: (m, C, H, W), or None.
    The gradient passes through the frozen generator.
    """
    told = encoder(generated)
    terms = {
        "loss_latent": alpha * latent_weight * F.mse_loss(told.float(), latents.flatten(1)),
        "loss_generated": alpha * rebuilding(synthesis(told.view(latents.shape)).float(), generated),
    }
    if real is not None:
        images = synthesis(encoder(real).view(len(real), *latents.shape[1:]))
        terms["loss_real"] = (1 - alpha) * rebuilding(images.float(), real)
    return terms, told


class Encoding(Pretraining):
    """The training of an encoder into the latents of `generator`, a StyleGAN2, without augmentation."""

    generator: Any

    def losses(self, step: int, rng: torch.Generator) -> tuple[Terms, Tensor]:
        assert self.generated is not None
        made, noise = self.generated(self.synthetic, step), self.ctx.rng(step, f"noise of worker {self.ctx.rank}")
        wplus = made.latent[:, None].expand(-1, self.generator.num_ws, -1)
        with autocast(self.ctx.device, self.cfg.precision):
            return latent_encoding(
                self.student, lambda w: self.generator.synthesis(w, noise="random", rng=noise), wplus, made.images,
                self.real_images(step), form(self.cfg, "alpha"), self.cfg.latent_weight,
            )  # fmt: skip
