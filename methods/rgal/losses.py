"""The losses of synthesis and distillation but for the relation terms, as functions of tensors, in fp32.

t, s: logits of teacher and student, (N, C); sigma: softmax. What arrives in bf16 is widened here: at temperature 20 a KL of
1e-3 is multiplied by 400, and squared differences of statistics cancel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(sigma(t) || sigma(s)) of each row, (N,)."""
    log_t, log_s = F.log_softmax(teacher.float(), 1), F.log_softmax(student.float(), 1)
    return (log_t.exp() * (log_t - log_s)).sum(1)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 mean_i KL(sigma(t_i / T) || sigma(s_i / T)) (Hinton et al. 2015)."""
    return temperature**2 * divergence(teacher.float() / temperature, student.float() / temperature).mean()


def adversarial_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """-1/N sum_i [argmax s_i = argmax t_i] KL(sigma(t_i) || sigma(s_i)): images on which they only just agree.

    Divided by N, not by the number of agreements. The gradient flows through both networks.
    """
    agree = student.argmax(1) == teacher.argmax(1)
    return -(agree * divergence(teacher, student)).mean()


def one_hot_loss(teacher: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the teacher's answer to the drawn labels."""
    return F.cross_entropy(teacher.float(), labels)


def class_balance_loss(teacher: Tensor) -> Tensor:
    """sum_c p_c log p_c with p the mean of sigma(t_i) over the batch: lowest when all classes are equally frequent."""
    mean = F.softmax(teacher.float(), 1).mean(0)
    return torch.xlogy(mean, mean).sum()


def activation_loss(features: Tensor) -> Tensor:
    """-mean |features|."""
    return -features.float().abs().mean()


class _ChannelMoments(torch.autograd.Function):
    """Mean and biased variance of maps (N, c, h, w) over all but the channels, (c,) each, fp32.

    The forward is that of a batch norm layer, whose normalised output is thrown away, and the backward one pass: on a CPU a
    quarter of what `torch.var_mean` takes, which in synthesis is as much as the convolutions.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.ones(maps.shape[1], device=maps.device)  # in fp32, and with it the statistics
        _, mean, inverse_std = torch.native_batch_norm(maps, scale, torch.zeros_like(scale), None, None, True, 0.0, 0.0)
        ctx.save_for_backward(maps, mean)
        return mean, torch.where(inverse_std > 0, inverse_std.pow(-2), 0.0)  # a constant channel is given as 0

    @staticmethod
    def backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
        maps, mean = ctx.saved_tensors
        count = maps.numel() // maps.shape[1]
        # d mean / dx = 1 / n and d var / dx = 2 (x - mean) / n
        slope = 2 * grad_var / count
        offset = grad_mean / count - slope * mean
        return torch.addcmul(offset.view(1, -1, 1, 1), maps, slope.view(1, -1, 1, 1)).to(maps.dtype)


def channel_moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of maps (N, c, h, w), (c,) each, fp32."""
    with torch.autocast(maps.device.type, enabled=False):
        moments: tuple[Tensor, Tensor] = _ChannelMoments.apply(maps)
    return moments


def statistics_loss(maps: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """||var - v||_2 + ||mean - mu||_2 over the channels, with mu and v (biased) of the maps (N, c, h, w) a layer is given.

    mean, var: the layer's running statistics, (c,); var is an unbiased estimate, and v is not, as in the reference.
    """
    batch_mean, batch_var = channel_moments(maps)
    return torch.linalg.vector_norm(var - batch_var) + torch.linalg.vector_norm(mean - batch_mean)


def pooled_difference(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """L_cd: sum over blocks of the mean squared difference of pooled maps; (N, c) each, the student's behind adapters."""
    losses = [F.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True)]
    return torch.stack(losses).sum()


def gram_mask(maps: Tensor) -> Tensor:
    """1 - (A - min A) / (max A - min A) + 0.001 with A = row sums of P P^T, P the maps (N, c, h, w) as (N, c, hw); (N, c)."""
    flat = maps.float().flatten(2)
    # The row sums of P P^T without the (c, c) matrix: every channel with the sum of all.
    a = (flat * flat.sum(1, keepdim=True)).sum(2)
    low, high = a.min(), a.max()
    return 1 - (a - low) / (high - low).clamp(min=1e-12) + 0.001


def gram_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Sum over blocks of mean(mask (s - t)^2) with the teacher's `gram_mask`; maps of equal shapes."""
    losses = [
        (gram_mask(t)[:, :, None, None] * (s.float() - t.float()).square()).mean() for s, t in zip(student, teacher, strict=True)
    ]
    return torch.stack(losses).sum()


def contrastive_loss(local: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row of local other^T / T with the diagonal as target, (N,); no gradient through `other`.

    local, other: unit embeddings (N, d) of two views of the same images (CMI).
    """
    logits = local.float() @ other.detach().float().t() / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
