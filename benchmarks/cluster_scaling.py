"""How a sweep scales with nodes, and what the platform itself takes: trials that sleep for a second and train nothing.

    python benchmarks/cluster_scaling.py [--nodes 1 2 4] [--each 20] [--trials 10 100 1000]

First `--each` trials for each of 1, 2 and 4 nodes with one CPU, where all sweeps take as long by themselves; then 10, 100 and
1,000 trials on the largest number of nodes. A row for each sweep: ideal (trials / nodes, in seconds), from the first trial's
start to the last one's end, and the whole command, its start and conclusion included. Prints `ratio: ideal / measured` for the
trials of the last sweep. For comparison, Ray's own figure for Tune is 715 s where 625 s are ideal (10,000 trials of a second on
16 CPUs: 14 % more).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.simulated_cluster import TUNE, nodes, set_environment


def sweep(folder: Path, address: str, trials: int) -> tuple[float, float]:
    """Seconds from the first trial's start to the last one's end, and of the whole command."""
    from gankd.store.events import EventReader
    from gankd.sweep.records import SweepRecords

    command = [sys.executable, TUNE, "--method", "stub", "--scheduler", "fifo", "--trials", str(trials)]
    command += ["--address", address, "--name", "stubs"]
    folder.mkdir()
    started = time.monotonic()
    with (folder / "output.txt").open("wb") as output:
        done = subprocess.run(command, cwd=folder, check=False, stdout=output, stderr=subprocess.STDOUT, env=os.environ)
    whole = time.monotonic() - started
    if done.returncode:
        raise SystemExit((folder / "output.txt").read_text())
    events = list(EventReader(SweepRecords(str(folder / "runs"), "stubs").events).all())
    times = {kind: [event["time"] for event in events if event["kind"] == kind] for kind in ("trial_start", "trial_end")}
    assert len(times["trial_end"]) == trials, f"{len(times['trial_end'])} of {trials} trials ended"
    return (max(times["trial_end"]) - min(times["trial_start"])) / 1000, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--each", type=int, default=20, help="trials for each node")
    parser.add_argument("--trials", type=int, nargs="*", default=[10, 100, 1000], help="on the largest number of nodes")
    asked = parser.parse_args()
    sizes = [(count, count * asked.each) for count in asked.nodes] + [(max(asked.nodes), trials) for trials in asked.trials]
    print(f"{'nodes':>5} {'trials':>6} {'ideal s':>8} {'trials s':>9} {'ideal / measured':>17} {'command s':>10}")
    with tempfile.TemporaryDirectory(prefix="gk") as place:
        set_environment(Path(place))
        for number, (count, trials) in enumerate(sizes):
            folder = Path(place) / str(number)
            folder.mkdir()
            with nodes(count) as cluster:
                measured, whole = sweep(folder / "driver", cluster.address, trials)
            ideal = trials / count
            print(f"{count:5} {trials:6} {ideal:8.1f} {measured:9.1f} {ideal / measured:17.3f} {whole:10.1f}", flush=True)
    print(f"ratio: {ideal / measured:.3f}")


if __name__ == "__main__":
    main()
