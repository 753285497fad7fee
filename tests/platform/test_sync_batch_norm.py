"""Synchronised batch norm on two workers is batch norm on the whole batch: outputs, gradients, running statistics."""

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from gankd.models.batch_norm import BatchNorm

WORKER = """
import sys, torch, torch.distributed as dist
sys.path.insert(0, sys.argv[1])
from safetensors.torch import save_file
from test_sync_batch_norm import layers, observe
from gankd.models.sync_batch_norm import synchronise
rank, folder = int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
for name, (layer, x) in layers().items():
    mine = slice(rank * len(x) // 2, (rank + 1) * len(x) // 2)
    save_file(observe(synchronise(layer), x[mine], x[mine] ** 2), f"{folder}/{name}-{rank}.safetensors")
"""


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


def test_two_workers_normalise_as_one(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent)]
    workers = [subprocess.Popen([*command, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    for name, (layer, x) in layers().items():
        whole = observe(layer, x, x**2)
        parts = [load_file(tmp_path / f"{name}-{rank}.safetensors") for rank in range(2)]
        for key, value in whole.items():
            if key in ("out", "grad_x"):
                found = torch.cat([part[key] for part in parts])
            else:
                found = parts[0][key] + parts[1][key] if key.startswith("grad_") else parts[0][key]
            assert torch.allclose(found, value, rtol=1e-4, atol=1e-4 * float(value.abs().max())), (name, key)
