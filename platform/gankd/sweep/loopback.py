"""Workers of one machine find each other through a file: torch's own store would listen on all addresses, even for one worker."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Mapping
from datetime import timedelta
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
        place = f"file://{tempfile.gettempdir()}/gankd-{uuid.uuid4().hex}"  # anew for each group: a dead one left its own
        options = {
            "backend": backend,
            "init_method": place,
            "world_size": size,
            "timeout": timedelta(seconds=backend_config.timeout_s),
        }
        ray.get([worker_group.execute_single_async(rank, join, rank, options) for rank in range(size)])


def join(rank: int, options: Mapping[str, Any]) -> None:
    """Enter the process group; returns when all have."""
    dist.init_process_group(rank=rank, **options)
