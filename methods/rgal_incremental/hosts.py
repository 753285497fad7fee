"""What the hosts of RGAL's relations train a growing network by: ABD, and R-DFCIL. Functions of tensors, in fp32.

x: real images of the new classes with labels y; x~: synthetic ones of the old classes, labelled by M_old. z, h: logits and
features of M_new, z', h': of M_old; n: old classes, m: new ones; z[:n], z[n:]: answers among the old ones, the new ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import Outputs
from methods.cgan_kd.kd.relations import angle_difference
from methods.rgal_incremental.config import StudentConfig

Terms = dict[str, tuple[float, Tensor]]  # name -> weight, value


class Step(NamedTuple):
    """What a training step sees: both networks' outputs for the real images, then the synthetic ones.

    labels: of the real images, as numbers of outputs; then M_old's answers to the synthetic ones. real: how many are real.
    """

    new: Outputs
    old: Outputs
    labels: Tensor
    real: int

    @property
    def old_classes(self) -> int:
        return int(self.old[0].shape[1])


def abd(cfg: StudentConfig, step: Step, head: nn.Linear, old_head: nn.Linear) -> Terms:
    """ABD: CE(z[n:](x), y) + CE(head(stopgrad h), y) + abd_kd MSE(W'(h), W'(h')), on x and x~; W': M_old's last layer.

    Smith et al.: Always Be Dreaming (ICCV 2021).
    """
    features = step.new[1].float()
    return {
        "ce": (1.0, new_classes_loss(step)),
        "head": (1.0, head_loss(step, head)),
        "kd": (cfg.abd_kd, F.mse_loss(old_head(features), step.old[0].float())),
    }


def rdfcil(cfg: StudentConfig, step: Step) -> Terms:
    """R-DFCIL: c (1 + 1/a) / b CE(z[n:](x), y) + k a b |z[:n](x~) - z'(x~)|_1 + r a b (difference of angles of h(x), h'(x)).

    a = log2(m/2 + 1), b = sqrt(n/m); c, k, r: rdfcil_ce, rdfcil_hkd, rdfcil_rkd. Gao et al.: R-DFCIL (ECCV 2022).
    """
    ce, kd = rdfcil_scales(step.new[0].shape[1] - step.old_classes, step.old_classes)
    real, synthetic = slice(step.real), slice(step.real, None)
    distilled = F.l1_loss(step.new[0][synthetic, : step.old_classes].float(), step.old[0][synthetic].float())
    return {
        "ce": (cfg.rdfcil_ce * ce, new_classes_loss(step)),
        "kd": (cfg.rdfcil_hkd * kd, distilled),
        "rkd": (cfg.rdfcil_rkd * kd, angle_difference(step.new[1][real].float(), step.old[1][real].float())),
    }


def rdfcil_scales(new: int, old: int) -> tuple[float, float]:
    """Factors of what learns the new classes and of what keeps the old ones."""
    alpha, beta = math.log2(new / 2 + 1), math.sqrt(old / new)
    return (1 + 1 / alpha) / beta, alpha * beta


def new_classes_loss(step: Step) -> Tensor:
    """CE among the new classes alone, of the real images: nothing pushes the old classes' outputs down."""
    real = slice(step.real)
    return F.cross_entropy(step.new[0][real, step.old_classes :].float(), step.labels[real] - step.old_classes)


def head_loss(step: Step, head: nn.Linear) -> Tensor:
    """CE over all classes that trains the last layer alone; real and synthetic images weigh as their numbers of classes."""
    losses = F.cross_entropy(head(step.new[1].detach().float()), step.labels, reduction="none")
    share = step.old_classes / step.new[0].shape[1]
    return (1 - share) * losses[: step.real].mean() + share * losses[step.real :].mean()


def weighted_sum(terms: Terms) -> Tensor:
    return torch.stack([weight * value for weight, value in terms.values()]).sum()
