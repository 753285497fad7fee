"""Memory of N processes that train on one data set: mapped from the store, against a copy in each.

    python benchmarks/data_memory.py [processes, 4] [megabytes, 200]

Every process obtains the set and touches all its training images. What counts is the sum over the processes of their
proportional set sizes (Linux: a page that n processes share counts 1/n in each), above that of as many processes that hold
no set; the mapped set's pages are the page cache's, which the system may take back. Prints the seconds that `digits` takes to
obtain from a store and to load, and `ratio: X` of what is held, copied to mapped.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import numpy as np
import psutil

from gankd.data import DataConfig, load, read_config
from gankd.prepared_data import obtain
from gankd.store import Store

SIZE = 64  # pixels


def hold(way: str, storage: str, config: DataConfig, fingerprint: str, barrier: Any, answers: Any) -> None:
    """Have the set in this process, and say the process's proportional set size in MB when all have it."""
    data = None
    if way == "mapped":
        data = obtain(Store(storage), config, fingerprint)
    elif way == "copied":
        data = read_config(config)
    if data is not None:
        int(data.train.images.max())
    barrier.wait()
    answers.put(psutil.Process().memory_full_info().pss / 1e6)
    barrier.wait()


def held_mb(way: str, count: int, *arguments: Any) -> float:
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(count), spawn.Queue()
    workers = [spawn.Process(target=hold, args=(way, *arguments, barrier, answers)) for _ in range(count)]
    for worker in workers:
        worker.start()
    total = sum(answers.get() for _ in workers)
    for worker in workers:
        worker.join()
    return float(total)


def seconds(work: Any) -> float:
    best = float("inf")
    for _ in range(5):
        load.cache_clear()
        since = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - since)
    return best


def main() -> None:
    count, megabytes = (int(sys.argv[i]) if len(sys.argv) > i else default for i, default in ((1, 4), (2, 200)))
    with tempfile.TemporaryDirectory() as folder:
        images = int(megabytes * 1e6) // (3 * SIZE**2)
        rng, file = np.random.default_rng(0), Path(folder, "set.npz")
        np.savez(file, images=rng.integers(0, 256, (images, 3, SIZE, SIZE), np.uint8), labels=np.arange(images) % 10)
        config, storage = DataConfig(name="npz", path=str(file)), str(Path(folder, "store"))
        mark = obtain(Store(storage), config).fingerprint
        bare, mapped, copied = (held_mb(way, count, storage, config, mark) for way in ("bare", "mapped", "copied"))
        digits = obtain(Store(storage), DataConfig()).fingerprint
        stored = seconds(lambda: obtain(Store(storage), DataConfig(), digits))
        print(f"digits: {1000 * stored:.0f} ms from the store, {1000 * seconds(lambda: load(DataConfig())):.0f} ms to load")
        print(f"{count} processes, a set of {megabytes} MB: {mapped - bare:.0f} MB mapped, {copied - bare:.0f} MB copied")
        print(f"ratio: {(copied - bare) / (mapped - bare):.2f}")


if __name__ == "__main__":
    main()
