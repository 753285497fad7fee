"""Knowledge in the answers themselves."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)), the mean over the batch. Logits (N, classes).

    Hinton et al. 2015 (BLKD). TAKD (Mirzadeh et al. 2020) is this with weights of 0.5 and T = 10, in two hops.
    """
    log_s, log_t = (F.log_softmax(logits / temperature, 1) for logits in (student, teacher))
    return temperature**2 * F.kl_div(log_s, log_t, reduction="batchmean", log_target=True)
