"""Synchronised batch norm on two workers is batch norm on the whole batch: outputs, gradients, running statistics."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from gankd.models.batch_norm import BatchNorm
from gankd.models.sync_batch_norm import synchronise
from tests.workers import in_workers


def layers() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    """Layers with their inputs; means far from 0, so that E[x^2] - E[x]^2 would cancel."""
    torch.manual_seed(0)
    maps, rows = torch.randn(8, 3, 5, 5) + 100 * torch.arange(3).view(1, 3, 1, 1), torch.randn(8, 3)
    return {"maps": (nn.BatchNorm2d(3), maps), "rows": (nn.BatchNorm1d(3), rows), "biggan": (BatchNorm(3), maps)}


def observe(layer: nn.Module, x: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Output, input gradient and state after one training step on sum((out - target / 1e4)^3): a sum, so workers add up."""
    x = x.clone().requires_grad_()
    out = layer(x)
    (out - target / 1e4).pow(3).sum().backward()
    state = {name: value.float() for name, value in layer.state_dict().items()}
    gradients = {f"grad_{name}": p.grad for name, p in layer.named_parameters()}
    return {"out": out.detach(), "grad_x": x.grad} | state | gradients


def part(rank: int, size: int) -> dict[str, dict[str, np.ndarray]]:
    """What a worker observes in the layers with its part of the batch."""
    found = {}
    for name, (layer, x) in layers().items():
        mine = slice(rank * len(x) // size, (rank + 1) * len(x) // size)
        found[name] = {k: v.numpy() for k, v in observe(synchronise(layer), x[mine], x[mine] ** 2).items()}
    return found


def test_two_workers_normalise_as_one(tmp_path: Path) -> None:
    both = in_workers(part, 2, tmp_path)
    for name, (layer, x) in layers().items():
        whole = observe(layer, x, x**2)
        parts = [{key: torch.from_numpy(value) for key, value in seen[name].items()} for seen in both]
        for key, value in whole.items():
            if key in ("out", "grad_x"):
                found = torch.cat([each[key] for each in parts])
            else:
                found = parts[0][key] + parts[1][key] if key.startswith("grad_") else parts[0][key]
            assert torch.allclose(found, value, rtol=1e-4, atol=1e-4 * float(value.abs().max())), (name, key)
