"""The conditional Softplus loss with which cGAN-KD fits its density-ratio network (cDR-RS)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus_ratio_loss(real: Tensor, fake: Tensor, penalty: float = 0.01) -> Tensor:
    """L = mean(s(b) b) - mean(sp(b)) - mean(s(a)) + penalty (mean(b) - 1)^2, with a = `real`, b = `fake`.

    `real`, `fake`: ratios psi >= 0, (N,), of real features and of fakes drawn with the same labels; s is the sigmoid,
    sp the softplus. Without penalty the population loss is smallest at psi = p_real / p_fake, whose mean over fakes is
    1: the penalty pulls there. It sees the mean over the whole batch, so each class's scale stays free; the rejection
    sampler divides it out. Returns a scalar.
    """
    bregman = (torch.sigmoid(fake) * fake).mean() - F.softplus(fake).mean() - torch.sigmoid(real).mean()
    return bregman + penalty * (fake.mean() - 1).square()
