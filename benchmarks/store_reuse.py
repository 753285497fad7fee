"""What the store saves: device-seconds of a 16-trial sweep over late knobs, with reuse and without.

    python benchmarks/store_reuse.py [--trials 16] [--steps 600]

Runs the real `tune.py` twice on the `smoke` preset with a longer GAN. Device-seconds are the CPU seconds that stages spent,
as their manifests say; imports, which a process pays once, are not among them (`launch.py` counts them). With p the share
of a trial that is shared, N trials can gain at most N / (p + N (1 - p)).
Prints both sums, the gain, its ceiling, and `ratio: gain / ceiling`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPACE = "from ray import tune\nSPACE = {'student.lr': tune.loguniform(1e-2, 1e-1)}\n"
LATE = ("student", "control")


def spent(folder: Path, trials: int, steps: int, *flags: str) -> dict[str, list[float]]:
    """CPU seconds of every artifact that a sweep made, by stage."""
    folder.mkdir()
    (folder / "space.py").write_text(SPACE)
    command = [sys.executable, str(ROOT / "tune.py"), "--method", "cgan_kd", "--preset", "smoke", "--space", "space.py"]
    command += ["--trials", str(trials), "--scheduler", "fifo", "--set", f"biggan.steps={steps}", "--set", "student.steps=200"]
    subprocess.run(
        [*command, *flags], cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    found = defaultdict(list)
    for file in (folder / "runs" / "artifacts").glob("*/manifest.json"):
        manifest = json.loads(file.read_text())
        found[manifest["stage"]].append(manifest.get("cpu_seconds", 0.0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--steps", type=int, default=600, help="steps of the GAN")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        on = spent(Path(place) / "on", asked.trials, asked.steps)
        off = spent(Path(place) / "off", asked.trials, asked.steps, "--no-reuse")
    total_on, total_off = (sum(sum(values) for values in side.values()) for side in (on, off))
    late = sum(sum(off[stage]) for stage in LATE)
    p, n = 1 - late / total_off, asked.trials
    ceiling, gain = n / (p + n * (1 - p)), total_off / total_on
    for stage in off:
        made = [f"{len(side[stage]):3} made, {sum(side[stage]):8.1f} s" for side in (on, off)]
        print(f"{stage:14} on: {made[0]}   off: {made[1]}")
    print(f"device-seconds on {total_on:.1f}, off {total_off:.1f}: {gain:.2f} times fewer")
    print(f"shared part p = {p:.3f}, ceiling {ceiling:.2f}")
    print(f"ratio: {gain / ceiling:.3f}")


if __name__ == "__main__":
    main()
