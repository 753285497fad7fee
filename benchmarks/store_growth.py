"""How the store's cost grows with what it holds, in a local folder: `ls`, `gc --dry-run`, look-ups by key and by recipe.

    python benchmarks/store_growth.py [--up-to 100000] [--folder PLACE]

Publishes artifacts of three files through the store itself, without waiting for the disk. Nine of ten are referred to, by
trials of nine keys in sweeps of a hundred trials; each has a recipe of its own. Each figure is the fastest of three, but for
`first ls`, which has no memory of sizes, as in a store from before there was one. Behind the seconds of `ls` and `gc` stand
those of the CPU, which tell them from a busy machine's. Prints a line per size, and `ls_s:`, `gc_s:`, `lookup_us:`.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from gankd.store import Store
from gankd.store.inventory import INDEX

ARTIFACTS_PER_TRIAL, TRIALS_PER_SWEEP, LOOKUPS = 10, 100, 5000
RECORDED = {
    "config": {"steps": 2000, "batch": 64, "lr": 2e-4, "width": 32, "augment": {"flip": True, "pad": 2}},
    "metrics": {"val_accuracy": 97.5, "fid_classifier": 4.25},
}


def fill(store: Store, keys: range) -> list[str]:
    """Publishes and refers to artifacts number `keys`; their keys."""
    names = [f"student-{hashlib.sha256(str(n).encode()).hexdigest()[:16]}" for n in keys]
    for key in names:
        out = store.scratch(key)
        for file in ("model.pt", "images.npy"):
            (out / file).write_bytes(key.encode())
        store.publish(key, out, {"stage": "student", **RECORDED}, recipe=key)
    for first in range(0, len(names), ARTIFACTS_PER_TRIAL):
        trial = (keys.start + first) // ARTIFACTS_PER_TRIAL
        used = names[first : first + ARTIFACTS_PER_TRIAL - 1]
        store.refer(f"sweep-{trial // TRIALS_PER_SWEEP}", f"trial_{trial}", {f"stage{n}": key for n, key in enumerate(used)})
    return names


def seconds(call: Callable[[], object], rounds: int = 3) -> tuple[float, float]:
    """The fastest of some rounds: seconds, and seconds of the CPU."""
    times = []
    for _ in range(rounds):
        started, cpu_started = time.perf_counter(), time.process_time()
        call()
        times.append((time.perf_counter() - started, time.process_time() - cpu_started))
    return min(times)


def lookup(call: Callable[[str], object], keys: list[str]) -> float:
    """Microseconds of one call with a random key."""
    chosen = random.Random(0).choices(keys, k=LOOKUPS)
    return 1e6 * seconds(lambda: [call(key) for key in chosen])[0] / LOOKUPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--up-to", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the store is made  [default: a temporary folder]")
    asked = parser.parse_args()
    print(f"{'artifacts':>9} {'first ls, s':>12} {'ls, s':>16} {'gc -n, s':>16} {'by key, us':>11} {'by recipe, us':>14}")
    with tempfile.TemporaryDirectory(dir=asked.folder) as place, mock.patch("os.fsync"):
        store, size = Store(place), 100
        keys: list[str] = []
        while size <= asked.up_to:
            keys += fill(store, range(len(keys), size))
            Path(place, INDEX).unlink()
            first, _ = seconds(store.ls, rounds=1)
            (ls, ls_cpu), (gc, gc_cpu) = seconds(store.ls), seconds(lambda: store.gc(dry_run=True))
            by_key, by_recipe = lookup(store.has, keys), lookup(store.of_recipe, keys)
            times = f"{first:12.4f} {ls:8.4f} {ls_cpu:7.4f} {gc:8.4f} {gc_cpu:7.4f}"
            print(f"{size:9} {times} {by_key:11.2f} {by_recipe:14.2f}", flush=True)
            size *= 10
    print(f"ls_s: {ls:.3f}\ngc_s: {gc:.3f}\nlookup_us: {by_key:.2f}")


if __name__ == "__main__":
    main()
