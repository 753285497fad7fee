"""What tests share: contexts without Ray, and the real command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).parents[1]

Command = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """The environment of a command under test: single-threaded, and its own tracking."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
    return env | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


@pytest.fixture
def tune(tmp_path: Path) -> Command:
    """Runs `python tune.py ...` in an empty folder."""

    def run(*arguments: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tune.py"), *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
