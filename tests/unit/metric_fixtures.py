"""Worked examples of metrics, computed by the public reference implementations."""

import re
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metrics"


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def cases(keys: Iterable[str], pattern: str) -> list[float]:
    """The numbers that stand in the keys where the group of `pattern` does, each once, in order."""
    found = {match[1] for key in keys if (match := re.fullmatch(pattern, key))}
    return sorted(float(number) if "." in number else int(number) for number in found)


class Worker:
    """What `measure` wants of a context, for workers that are threads."""

    stage = "quality"

    def __init__(self, rank: int, meeting: Any) -> None:
        self.rank, self.meeting, self.world_size = rank, meeting, meeting.barrier.parties

    def gather(self, value: Any) -> list[Any]:
        self.meeting.said[self.rank] = value
        self.meeting.barrier.wait()
        values = list(self.meeting.said)
        self.meeting.barrier.wait()
        return values

    def sum(self, values: Tensor) -> Tensor:
        return values.copy_(torch.stack(self.gather(values.clone())).sum(0))


def on_threads(world: int, work: Callable[[Any], Any]) -> list[Any]:
    """What `work` gives to each of so many workers."""
    meeting = SimpleNamespace(barrier=threading.Barrier(world, timeout=30), said=[None] * world)
    results: list[Any] = [None] * world

    def run(rank: int) -> None:
        results[rank] = work(Worker(rank, meeting))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results
