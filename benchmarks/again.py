"""The same command again: `tune.py --method cgan_kd` twice in one folder. Prints both times and `ratio: first / second`.

    python benchmarks/again.py [flags of tune.py, e.g. --preset smoke]

The second run must train nothing: the script fails when it sees a stage start. Then, how long the commands take that only look
something up. Each is run three times; seconds are of the quickest, CPU seconds (user and system) of the cheapest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GANKD = [sys.executable, "-c", "from gankd.cli import main; main()"]
REPEATS = 3


def timed(folder: str, command: list[str]) -> tuple[float, float]:
    """Seconds of a command, and CPU seconds of its own process."""
    path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    started = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.monotonic() - started, usage.ru_utime + usage.ru_stime


def tune(name: str) -> list[str]:
    return [sys.executable, str(ROOT / "tune.py"), "--method", "cgan_kd", "--name", name, *sys.argv[1:]]


def least(times: list[tuple[float, float]]) -> tuple[float, float]:
    return min(wall for wall, _ in times), min(cpu for _, cpu in times)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        first, _ = timed(folder, tune("first"))
        again = {"the same sweep": least([timed(folder, tune(f"again-{i}")) for i in range(REPEATS)])}
        sweeps = Path(folder) / "runs" / "sweeps"
        trained = sum(chunk.read_text().count('"kind": "stage_start"') for chunk in sweeps.glob("again-*/events/**/*.jsonl"))
        for words in (["compare", "--dataset", "digits"], ["evaluate", "digits-student@champion"]):
            again[words[0]] = least([timed(folder, [*GANKD, *words]) for _ in range(REPEATS)])
    for what, (wall, cpu) in again.items():
        print(f"{what}: {wall:.2f} s, {cpu:.2f} CPU s")
    second = again["the same sweep"][0]
    print(f"first {first:.1f} s, second {second:.1f} s, stages trained by the repetitions: {trained}")
    print(f"ratio: {first / second:.1f}")
    sys.exit(1 if trained else 0)


if __name__ == "__main__":
    main()
