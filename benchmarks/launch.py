"""What launching a one-worker trial costs beyond its own work, in seconds.

    python benchmarks/launch.py [--trials 16]

A sweep over the student's learning rate, smoke preset, its shared stages made beforehand. From the first trial's start to the
last one's end, on two slots, less the time inside stages, over the number of trials. Prints `seconds per trial` and
`ratio: that / 1.5 s`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPACE = "from ray import tune\nSPACE = {'student.lr': tune.loguniform(1e-2, 1e-1)}\n"
ALLOWED_S = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "space.py").write_text(SPACE)
        command = [sys.executable, str(ROOT / "tune.py"), "--method", "cgan_kd", "--preset", "smoke", "--scheduler", "fifo"]
        command += ["--space", "space.py"]
        for name, trials in (("warm", 1), ("measured", asked.trials)):
            flags = ["--name", name, "--trials", str(trials)]
            env = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run([*command, *flags], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=env)
        events = folder / "runs" / "sweeps" / "measured" / "events"
        lines = [json.loads(line) for chunk in events.rglob("*.jsonl") for line in chunk.read_text().splitlines()]
    kinds = {kind: [e for e in lines if e["kind"] == kind] for kind in ("trial_start", "trial_end", "stage_start", "stage_end")}
    ends = {e["trial"]: e["time"] for e in kinds["trial_end"]}
    starts = {e["trial"]: e["time"] for e in kinds["trial_start"]}
    stage_ends = {(e["trial"], e["stage"]): e["time"] for e in kinds["stage_end"]}
    inside = dict.fromkeys(starts, 0.0)
    for e in kinds["stage_start"]:
        inside[e["trial"]] += (stage_ends[e["trial"], e["stage"]] - e["time"]) / 1000
    slots = min(2, os.cpu_count() or 1)
    wall = (max(ends.values()) - min(starts.values())) / 1000
    each = (wall * slots - sum(inside.values())) / len(starts)
    print(f"{len(starts)} trials, {wall:.1f} s on {slots} slots, {sum(inside.values()):.1f} s inside stages")
    print(f"seconds per trial: {each:.2f}")
    print(f"ratio: {each / ALLOWED_S:.2f}")


if __name__ == "__main__":
    main()
