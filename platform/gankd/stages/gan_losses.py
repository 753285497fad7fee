"""Losses of adversarial training, as functions of discriminator logits, and orthogonal regularisation of weights."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError

Weights = Tensor | None


def weighted_mean(losses: Tensor, weights: Weights) -> Tensor:
    """mean w_i l_i over losses (n, ...), with weights (n,); None = 1. The weights are not normalised."""
    return losses.mean() if weights is None else (losses.reshape(len(weights), -1) * weights[:, None]).mean()


def hinge_discriminator(
    real: Tensor, fake: Tensor, real_weights: Weights = None, fake_weights: Weights = None
) -> tuple[Tensor, Tensor]:
    """mean relu(1 - D(x)), mean relu(1 + D(G(z))): two scalars >= 0, to be added.

    Logits of any shape; the two batches may differ in size. Weights, where there are any, as in `weighted_mean`.
    """
    return weighted_mean(F.relu(1 - real), real_weights), weighted_mean(F.relu(1 + fake), fake_weights)


def hinge_generator(fake: Tensor) -> Tensor:
    """-mean D(G(z))."""
    return -fake.mean()


def softplus_discriminator(
    real: Tensor, fake: Tensor, real_weights: Weights = None, fake_weights: Weights = None
) -> tuple[Tensor, Tensor]:
    """mean softplus(-D(x)), mean softplus(D(G(z))): the original GAN's loss on logits (Goodfellow et al. 2014)."""
    return weighted_mean(F.softplus(-real), real_weights), weighted_mean(F.softplus(fake), fake_weights)


def softplus_generator(fake: Tensor) -> Tensor:
    """mean softplus(-D(G(z))), the non-saturating form."""
    return F.softplus(-fake).mean()


class GANLoss(NamedTuple):
    discriminator: Callable[[Tensor, Tensor, Weights, Weights], tuple[Tensor, Tensor]]
    generator: Callable[[Tensor], Tensor]


GAN_LOSSES = {
    "hinge": GANLoss(hinge_discriminator, hinge_generator),
    "softplus": GANLoss(softplus_discriminator, softplus_generator),
}


def gan_loss(name: str) -> GANLoss:
    """The pair of losses `name`. Raises UserError for an unknown one."""
    if name not in GAN_LOSSES:
        raise UserError(f"GAN loss {name!r} is unknown: choose one of {', '.join(GAN_LOSSES)}.")
    return GAN_LOSSES[name]


def orthogonal_gradient(weight: Tensor, diagonal: bool = False) -> Tensor:
    """2 ((W W^T) * (1 - I)) W with W = weight as (out, rest): the gradient of half of ||W W^T * (1 - I)||_F^2.

    The modified regulariser of Brock et al. 2018, section 3.1, which leaves the rows' norms free.
    `diagonal`: 2 (W W^T - I) W, which does not.
    """
    w = weight.detach().flatten(1)
    gram = w @ w.t()
    if diagonal:
        gram.diagonal().sub_(1)
    else:
        gram.fill_diagonal_(0)
    return (2 * gram @ w).view(weight.shape)


@torch.no_grad()
def add_orthogonal_gradient(network: nn.Module, strength: float, exclude: Collection[str] = (), diagonal: bool = False) -> None:
    """Add strength * `orthogonal_gradient` to `.grad` of every raw weight with two or more dimensions.

    Parameters without a gradient are left out. Called once per update, behind the last backward. exclude: parameter
    names (a generator's "shared.weight").
    """
    for name, weight in network.named_parameters():
        if weight.ndim >= 2 and weight.grad is not None and name not in exclude:
            weight.grad.add_(orthogonal_gradient(weight, diagonal), alpha=strength)
