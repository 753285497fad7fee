"""What it costs to draw the trials of a sweep: CPU seconds for 10^2 ... 10^5 trials of cGAN-KD's default space.

    python benchmarks/draw_trials.py

Also how long it takes Tune to be handed them, up to its first trial. Prints a line for each number of trials and
`ratio: seconds for 10^5 / 2 s`, which may not exceed 1.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from gankd.sweep.plan import prepare, request_of
from gankd.sweep.points import draw_points
from gankd.sweep.searcher import Listed

ALLOWED_S = 2.0


def seconds(storage: str, trials: int) -> tuple[float, float]:
    """CPU seconds to draw so many trials, and to hand them over."""
    from ray.tune.experiment import Experiment
    from ray.tune.search.search_generator import SearchGenerator

    sweep = prepare(request_of({"method": "cgan_kd", "preset": "smoke", "trials": trials}), storage)
    since = time.process_time()
    points = draw_points(sweep)
    drawn = time.process_time() - since
    assert len(points) == trials
    since = time.process_time()
    search = SearchGenerator(Listed(list(points.values())))
    search.add_configurations([Experiment("draw", print, num_samples=trials, storage_path=storage)])
    assert search.next_trial()
    return drawn, time.process_time() - since


def main() -> None:
    with tempfile.TemporaryDirectory() as storage:
        seconds(storage, 1)  # imports
        for trials in (100, 1_000, 10_000, 100_000):
            drawn, handed = seconds(storage, trials)
            print(f"{trials:7} trials: drawn in {drawn:6.3f} s, handed to Tune in {handed:6.3f} s")
    print(f"ratio: {drawn / ALLOWED_S:.2f}")


if __name__ == "__main__":
    main()
