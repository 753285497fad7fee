"""How long `tune.py --help` takes against `python -c "import torch"`: medians of whole processes, in turn. Prints `ratio`."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 7


def timed(*command: str) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    pairs = [(timed(str(ROOT / "tune.py"), "--help"), timed("-c", "import torch")) for _ in range(ROUNDS + 1)][1:]
    help_s, torch_s = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"tune.py --help {help_s:.3f} s, import torch {torch_s:.3f} s")
    print(f"ratio: {help_s / torch_s:.3f}")


if __name__ == "__main__":
    main()
