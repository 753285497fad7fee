"""Batch normalisation of BigGAN: gain and bias learned per channel, or given per sample by a condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.sync_batch_norm import global_batch_norm

MOMENTUM = 0.1

Condition = Callable[[int], nn.Module]  # number of channels -> module that maps a condition to (N, channels)


class BatchStatistics(nn.Module):
    """Running mean and variance (momentum 0.1, variance unbiased); training normalises by the biased variance.

    `synchronised` takes the statistics of a training batch over all workers (see sync_batch_norm.py).
    """

    stored_mean: Tensor
    stored_var: Tensor
    synchronised = False

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def normalise(self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        if self.synchronised and self.training and dist.is_initialized():
            return global_batch_norm(x, self.stored_mean, self.stored_var, gain, bias, momentum=MOMENTUM, eps=self.eps)
        return F.batch_norm(x, self.stored_mean, self.stored_var, gain, bias, self.training, momentum=MOMENTUM, eps=self.eps)


class BatchNorm(BatchStatistics):
    """(N, C, H, W) to the same, with learned `gain` (C,) from 1 and `bias` (C,) from 0."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.gain = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.normalise(x, self.gain, self.bias)


class ConditionalBatchNorm(BatchStatistics):
    """BN(x) * (1 + gain(c)) + bias(c), where c (labels or embeddings) gives gain and bias vectors (N, C).

    `conditioning`: see `faded`; for tables by label only, embeddings come faded already.
    """

    conditioning = 1.0

    def __init__(self, channels: int, condition: Condition, eps: float = 1e-5) -> None:
        super().__init__(channels, eps)
        self.gain = condition(channels)
        self.bias = condition(channels)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.normalise(x)
        # To x's type before the broadcast: a table's fp32 vector would lift a bf16 map to fp32.
        gain = (1 + self.vectors(self.gain, c)).to(x.dtype)[:, :, None, None]
        bias = self.vectors(self.bias, c).to(x.dtype)[:, :, None, None]
        return torch.addcmul(bias, x, gain)

    def vectors(self, layer: nn.Module, c: Tensor) -> Tensor:
        values: Tensor = layer(c)
        return faded(values, layer, self.conditioning)


def faded(vectors: Tensor, table: nn.Module | None, conditioning: float) -> Tensor:
    """Rows (N, C) looked up in a table of classes, drawn towards the mean of its rows: mean + conditioning * (own - mean).

    Transitional conditioning (Shahbazi et al. 2022): 0 is one condition for all classes, 1 leaves each its own.
    """
    if conditioning == 1 or not isinstance(table, nn.Embedding):
        return vectors
    return torch.lerp(table.weight.mean(0).to(vectors.dtype), vectors, conditioning)


@torch.no_grad()
def standing_statistics(generator: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace stored means and variances by the averages over `batches` of (z, labels) of each batch's own.

    The variances are the biased ones.
    The forwards run in training mode (each is a power step of the spectral norms); the mode is put back. Brock et al.
    2018, section 3.1: sample with statistics that fit the latents in use (e.g. truncated ones). Variance between batch
    means is left out.
    """
    layers = [m for m in generator.modules() if isinstance(m, BatchStatistics)]
    sums: dict[nn.Module, list[Tensor]] = {m: [torch.zeros_like(m.stored_mean), torch.zeros_like(m.stored_var)] for m in layers}

    def collect(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        variance, mean = torch.var_mean(inputs[0].to(sums[layer][0].dtype), (0, 2, 3), correction=0)
        sums[layer][0] += mean
        sums[layer][1] += variance

    hooks = [m.register_forward_pre_hook(collect) for m in layers]
    was_training, count = generator.training, 0
    try:
        generator.train()
        for count, (z, labels) in enumerate(batches, start=1):  # noqa: B007
            generator(z, labels)
    finally:
        generator.train(was_training)
        for hook in hooks:
            hook.remove()
    if not count:
        raise UserError("standing statistics were asked for over no batches: give one or more.")
    for layer in layers:
        mean, variance = sums[layer]
        layer.stored_mean.copy_(mean / count)
        layer.stored_var.copy_(variance / count)
