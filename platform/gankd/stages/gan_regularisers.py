"""What keeps a GAN from collapsing or overfitting, as terms of its losses: mode seeking, LeCam, adaptive augmentation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

EPS = 1e-5


def mode_seeking(fakes: Tensor, z: Tensor, over_workers: Callable[[Tensor], Tensor] = lambda mean: mean) -> Tensor:
    """1 / mean_i (|G(z_2i) - G(z_2i+1)| / |z_2i - z_2i+1|), a scalar > 0 that grows as the images of a pair become one.

    Mao et al. 2019 (arXiv 1903.05628, equation 2, inverted and minimised as in section 3.2); |.| is the mean of the absolute
    differences. fakes: (n, C, H, W), z: (n, dim_z), n even; rows 2i and 2i + 1 have the same label.
    over_workers: this worker's mean to that of all, so that value and averaged gradient are those of all pairs at once.
    """
    apart = ((fakes[0::2] - fakes[1::2]).abs().flatten(1).mean(1) / (z[0::2] - z[1::2]).abs().mean(1)).mean()
    of_all = over_workers(apart.detach()) + EPS
    return 1 / of_all - (apart - apart.detach()) / of_all.square()


class LeCam(nn.Module):
    """LeCam's regulariser with its anchors: running means of the logits of real and of generated images (Tseng et al. 2021).

    mean relu(D(x) - a_fake)^2 + mean relu(a_real - D(G(z)))^2, with relu as in the authors' code (the paper's formula has none).
    The anchors are buffers, so that checkpoints hold them: anchors that start anew in mid-training blow the loss up.

    Args:
        decay: of the anchors. start: the iteration up to which they are the present means and the regulariser is 0.
    """

    real: Tensor
    fake: Tensor

    def __init__(self, decay: float, start: int) -> None:
        super().__init__()
        self.decay, self.start = decay, start
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    @torch.no_grad()
    def update(self, step: int, real_mean: Tensor, fake_mean: Tensor) -> None:
        """Move the anchors towards the mean logits of an update at iteration `step` (from 0), over all workers."""
        decay = self.decay if step >= max(self.start, 1) else 0.0
        self.real.lerp_(real_mean.to(self.real.dtype), 1 - decay)
        self.fake.lerp_(fake_mean.to(self.fake.dtype), 1 - decay)

    def forward(self, step: int, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """The regulariser, a scalar >= 0, of logits of any shape."""
        if step <= self.start:
            return real_logits.new_zeros(())
        return F.relu(real_logits - self.fake).square().mean() + F.relu(self.real - fake_logits).square().mean()


class AdaptiveAugmentation(nn.Module):
    """The probability with which each image is augmented, steered by how sure the discriminator is (ADA, Karras et al. 2020).

    r = E[sign D(x)] over real images; the probability grows while r > target and shrinks while it is below. It starts at 0.
    It is a buffer, so that checkpoints hold it. speed: real images over which it can move from 0 to 1.
    """

    probability: Tensor

    def __init__(self, target: float, speed: int) -> None:
        super().__init__()
        self.target, self.speed = target, speed
        self.register_buffer("probability", torch.zeros(()))

    @torch.no_grad()
    def update(self, sign: Tensor, images: int) -> None:
        """`sign`: mean sign of the logits of `images` real images, over all workers."""
        self.probability.add_((sign - self.target).sign() * (images / self.speed)).clamp_(0, 1)

    def choose(self, images: Tensor, augmented: Tensor, u: Tensor) -> Tensor:
        """Per image the augmented one with the present probability; u ~ U[0, 1), (N,)."""
        chosen = u.to(self.probability.device) < self.probability
        return torch.where(chosen[:, None, None, None], augmented, images)


def twice_differentiable() -> AbstractContextManager[None]:
    """Within it, attention is made of operations that have second derivatives, which its fast kernels lack."""
    return sdpa_kernel(SDPBackend.MATH)


def gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018): half the mean over images of ||dD/dx||², a scalar. `images` (n, C, H, W) require a gradient.

    The logits are to be made within `twice_differentiable`.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean() / 2
