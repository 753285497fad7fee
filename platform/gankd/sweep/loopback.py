"""Workers of one machine find each other through a file: torch's own store would listen on all addresses, even for one worker."""

from __future__ import annotations

import tempfile
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


class LoopbackConfig(TorchConfig):
    """Ray Train's process group, for workers on this machine alone."""

    @property
    def backend_cls(self) -> type[LoopbackBackend]:
        return LoopbackBackend


class LoopbackBackend(_TorchBackend):  # type: ignore[misc]
    """A process group by a file; none for a single worker, which has nobody to talk to."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        size = len(worker_group)
        if size == 1:
            return
        backend = backend_config.backend or ("nccl" if worker_group.get_resources_per_worker().get("GPU", 0) else "gloo")
        # A file anew for each group: a dead one left its own, which the next start of the machine clears away.
        place, limit = str(Path(tempfile.gettempdir(), f"gankd-{uuid.uuid4().hex}")), backend_config.timeout_s
        ray.get([worker_group.execute_single_async(rank, join, backend, place, rank, size, limit) for rank in range(size)])


def join(backend: str, place: str, rank: int, size: int, limit_s: float) -> None:
    """Enter the process group of the file `place`; returns when all have."""
    store = dist.FileStore(place, size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timedelta(seconds=limit_s))
