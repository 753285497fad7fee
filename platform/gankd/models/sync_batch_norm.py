"""Batch normalisation over the global batch of several workers, on gloo and nccl alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class WorkerSum(torch.autograd.Function):
    """The sum over all workers; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def global_batch_norm(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    gain: Tensor | None,
    bias: Tensor | None,
    *,
    momentum: float,
    eps: float,
) -> Tensor:
    """Training-mode batch norm of x (N, C, ...) with statistics over all workers; running `mean`, `var` (C,) are updated.

    Every worker must hold equally many images. Differentiable: gradients flow through the shared statistics. In fp32,
    and in two passes (mean first), because E[x^2] - E[x]^2 cancels for large means.
    """
    dims = [0, *range(2, x.dim())]
    shape = [1, -1, *[1] * (x.dim() - 2)]
    count = x.numel() // x.shape[1] * dist.get_world_size()
    values = x.float()
    batch_mean = WorkerSum.apply(values.sum(dims)) / count
    centred = values - batch_mean.view(shape)
    batch_var = WorkerSum.apply(centred.square().sum(dims)) / count
    with torch.no_grad():
        mean.lerp_(batch_mean, momentum)
        var.lerp_(batch_var * count / max(1, count - 1), momentum)
    out = centred * (batch_var + eps).rsqrt().view(shape)
    if gain is not None:
        out = out * gain.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(x.dtype)


class SynchronisedBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm1d or nn.BatchNorm2d over all workers; the same parameters and buffers under the same names."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from 2."""

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(x)
        if self.running_mean is None or self.running_var is None or self.momentum is None:
            raise ValueError("only batch norm with running statistics and a momentum can be synchronised")
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        return global_batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, momentum=self.momentum, eps=self.eps
        )


def synchronise(network: nn.Module) -> nn.Module:
    """Make all batch normalisation of `network` use the global batch from now on; returns the network."""
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.__class__ = SynchronisedBatchNorm
        elif hasattr(module, "stored_mean"):  # BigGAN's own layers
            setattr(module, "synchronised", True)  # noqa: B010
    return network
