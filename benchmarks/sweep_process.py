"""`tune.py` as a process in a folder of its own, and what it has made there: for the scripts that disturb sweeps."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
TUNE = str(ROOT / "tune.py")
# First in, first out: which trial ASHA stops depends on when they end.
SMOKE = (
    *("--method", "cgan_kd", "--preset", "smoke", "--trials", "2", "--scheduler", "fifo"),
    *("--checkpoint-seconds", "0", "--name", "mine"),
)


class Sweep:
    """`tune.py` in a folder, in a process group of its own. `before` is what stands before it on the command line."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        before: Sequence[str] = (),
        output: str = "output.txt",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.output = folder, folder / output
        path = os.pathsep.join([str(ROOT / "platform"), str(ROOT)])
        with self.output.open("w") as said:
            self.process = subprocess.Popen(
                [*before, sys.executable, TUNE, *arguments],
                cwd=folder,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
                | dict(env or {}),
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
            )

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        while text not in self.said() and self.process.poll() is None:
            time.sleep(0.02)

    def family(self) -> list[psutil.Process]:
        return [p for p in psutil.process_iter() if _group(p.pid) == self.process.pid and p.status() != psutil.STATUS_ZOMBIE]

    def end(self) -> int:
        """Its exit code; what is left of its group is killed."""
        code = self.process.wait()
        for process in self.family():
            process.kill()
        return code


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def artifacts(folder: Path) -> dict[str, str]:
    """File -> digest of all artifacts."""
    root = folder / "runs" / "artifacts"
    files = [file for file in root.rglob("*") if file.is_file() and file.name != "manifest.json"]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
