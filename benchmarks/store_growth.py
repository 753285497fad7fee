"""How the store's cost grows with what it holds, in a local folder: `ls`, `gc --dry-run`, look-ups by key and by recipe.

    python benchmarks/store_growth.py [--up-to 100000] [--folder PLACE]

Publishes artifacts of three files through the store itself, without waiting for the disk. Nine of ten are referred to, by
trials of nine keys in sweeps of a hundred trials; each has a recipe of its own. Each figure is the fastest of three, but for
`first ls`, which has no memory of sizes, as in a store from before there was one, and `gc`, which deletes nothing (the tenth
is referred to before). Prints a line per size, and `ls_s:`, `gc_s:`, `lookup_us:`, `gc_full_s:` at the end.
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


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def lookup(call: Callable[[str], object], keys: list[str]) -> float:
    """Microseconds of one call with a random key, the fastest of three rounds."""
    chosen = random.Random(0).choices(keys, k=LOOKUPS)
    return 1e6 * min(seconds(lambda: [call(key) for key in chosen]) for _ in range(3)) / LOOKUPS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--up-to", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the store is made  [default: a temporary folder]")
    asked = parser.parse_args()
    print(f"{'artifacts':>9} {'first ls, s':>12} {'ls, s':>9} {'gc -n, s':>9} {'by key, us':>11} {'by recipe, us':>14}")
    with tempfile.TemporaryDirectory(dir=asked.folder) as place, mock.patch("os.fsync"):
        store, keys, size = Store(place), [], 100
        while size <= asked.up_to:
            keys += fill(store, range(len(keys), size))
            Path(place, INDEX).unlink()
            first, ls = seconds(store.ls), min(seconds(store.ls) for _ in range(3))
            gc = min(seconds(lambda: store.gc(dry_run=True)) for _ in range(3))
            by_key, by_recipe = lookup(store.has, keys), lookup(store.of_recipe, keys)
            print(f"{size:9} {first:12.4f} {ls:9.4f} {gc:9.4f} {by_key:11.2f} {by_recipe:14.2f}", flush=True)
            size *= 10
        store.refer("all", "rest", {f"stage{n}": key for n, key in enumerate(keys)})
        gc_full = seconds(store.gc)
    print(f"ls_s: {ls:.3f}\ngc_s: {gc:.3f}\nlookup_us: {by_key:.2f}\ngc_full_s: {gc_full:.3f}")


if __name__ == "__main__":
    main()
