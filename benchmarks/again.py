"""The same command again: `tune.py --method cgan_kd` twice in one folder. Prints both times and `ratio: first / second`.

    python benchmarks/again.py [flags of tune.py, e.g. --preset smoke]

The second run must train nothing: the script fails when it sees a stage start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def timed(folder: str, name: str) -> float:
    started = time.monotonic()
    command = [sys.executable, str(ROOT / "tune.py"), "--method", "cgan_kd", "--name", name, *sys.argv[1:]]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.monotonic() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, second = timed(folder, "first"), timed(folder, "second")
        chunks = (Path(folder) / "runs" / "sweeps" / "second" / "events").rglob("*.jsonl")
        trained = sum(chunk.read_text().count('"kind": "stage_start"') for chunk in chunks)
    print(f"first {first:.1f} s, second {second:.1f} s, stages trained by the second: {trained}")
    print(f"ratio: {first / second:.1f}")
    sys.exit(1 if trained else 0)


if __name__ == "__main__":
    main()
