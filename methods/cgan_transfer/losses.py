"""The regularisers of cGANTransfer: l1 on the combinations, l2 on the residuals (the paper's section 4.3)."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def combination_l1(tensors: Iterable[Tensor]) -> Tensor:
    """Sum over the tensors of mean |p|; scalar >= 0.

    A mean per tensor: the strength depends on neither width nor number of classes, and a score bias of N numbers weighs as
    much as a matrix of N x M.
    """
    return torch.stack([tensor.abs().mean() for tensor in tensors]).sum()


def residual_l2(tensors: Iterable[Tensor]) -> Tensor:
    """Sum over the tensors of mean p^2; scalar >= 0."""
    return torch.stack([tensor.square().mean() for tensor in tensors]).sum()
