"""Several processes of one process group, as workers of a stage are."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE_S = 120
# Forked from a process that has imported these, a worker starts at once; by itself it would import for five seconds.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["torch._dynamo", "sklearn.datasets", "pytest", "gankd.pipeline", "gankd.models"])


def in_workers(function: Callable[..., Any], size: int, folder: Path, *arguments: Any) -> list[Any]:
    """What `function(rank, size, *arguments)` returns in each of `size` processes, plain data; they meet in `folder`.

    The function is one of a test module, by its name. Raises what it raises.
    """
    with ProcessPoolExecutor(size, mp_context=SERVER) as pool:
        workers = [pool.submit(_worker, function, rank, size, folder, arguments) for rank in range(size)]
        return [worker.result(timeout=PATIENCE_S) for worker in workers]


def _worker(function: Callable[..., Any], rank: int, size: int, folder: Path, arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    if size == 1:
        return function(rank, size, *arguments)
    meeting, limit = f"file://{folder / 'meeting'}", timedelta(seconds=PATIENCE_S)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=limit)
    try:
        return function(rank, size, *arguments)
    finally:
        dist.destroy_process_group()


def tensors(state: object, name: str = "") -> dict[str, torch.Tensor]:
    """All tensors of a nested state by their path."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in tensors(value, f"{name}/{key}").items()}
    if isinstance(state, list):
        return {k: v for i, value in enumerate(state) for k, v in tensors(value, f"{name}/{i}").items()}
    return {}
