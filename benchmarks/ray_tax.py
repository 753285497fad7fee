"""The Ray tax: seconds per GAN step under Tune + Train against the bare engine, the same training in turn.

    python benchmarks/ray_tax.py [--seconds 60] [--rounds 2]

Both sides run the stage `biggan` of the `digits` preset in a process of one thread; a stage's own clock counts (launching
and importing do not). Prints each side's seconds per step and `ratio: Ray / bare`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from gankd.config import build_config, read_preset, with_knobs
from gankd.pipeline import Job
from gankd.registry import find_method
from gankd.sweep.request import Resources

BARE = """
import json, sys
from gankd.pipeline import Job, run
job = json.loads(sys.argv[1])
job["stages"] = tuple(job["stages"])
run(Job(**job))
"""


def job(storage: Path, steps: int) -> Job:
    method = find_method("cgan_kd")
    tree = with_knobs(read_preset(method.presets, "digits"), {"biggan.steps": steps})
    config = build_config(method.config, tree).model_dump(mode="json")
    return Job("cgan_kd", config, str(storage), stages=("feature_classifier", "biggan"), sweep="bench", threads=1)


def seconds(storage: Path) -> float:
    manifest = next((storage / "artifacts").glob("biggan-*/manifest.json"))
    return float(json.loads(manifest.read_text())["seconds"])


def bare(steps: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        arguments = json.dumps(job(Path(folder), steps).as_dict())
        subprocess.run([sys.executable, "-c", BARE, arguments], check=True)
        return seconds(Path(folder)) / steps


def driver(_: dict[str, Any], what: Job) -> None:
    from gankd.sweep.launch import train_on_ray

    train_on_ray(what, Resources(workers=1), report=("toy/loss", "toy/loss"))


def under_ray(steps: int) -> float:
    from ray import tune

    no_cpu = tune.PlacementGroupFactory([{"node:__internal_head__": 0.001}])
    with tempfile.TemporaryDirectory() as folder:
        trainable = tune.with_resources(tune.with_parameters(driver, what=job(Path(folder), steps)), no_cpu)
        run_config = tune.RunConfig(storage_path=folder, name="bench", verbose=0)
        tune.Tuner(trainable, run_config=run_config).fit()
        return seconds(Path(folder)) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    steps = max(50, int(asked.seconds / bare(300)))

    from gankd.sweep.launch import start_ray

    start_ray(None)
    import ray

    sides: dict[str, list[float]] = {"bare": [], "ray": []}
    for _ in range(asked.rounds):
        sides["bare"].append(bare(steps))
        sides["ray"].append(under_ray(steps))
    ray.shutdown()
    for name, found in sides.items():
        print(f"{name:5} {1000 * statistics.mean(found):8.2f} ms a step over {steps} steps, rounds: "
              + ", ".join(f"{1000 * each:.2f}" for each in found))  # fmt: skip
    ratios = [a / b for a, b in zip(sides["ray"], sides["bare"], strict=True)]
    print(f"ratio: {statistics.mean(ratios):.3f}")


if __name__ == "__main__":
    main()
