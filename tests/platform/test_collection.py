"""Every process collects the same tests: pytest-xdist refuses to run where two of them differ."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

ELSEWHERE = {"PYTHONHASHSEED": "12345", "TZ": "Asia/Tokyo", "HOME": "/nonexistent", "OMP_NUM_THREADS": "1"}


def test_collected_again_they_are_the_same(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """What this session has collected is collected later, in another folder, time zone and order of hashes."""
    ours = [item.nodeid for item in request.session.items]
    files = dict.fromkeys(str(item.path) for item in request.session.items)
    quick = ("--assert=plain", "-p", "no:xdist", "-p", "no:cacheprovider", "-o", "addopts=")
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *quick, "--rootdir", str(ROOT)]
    config = ("-c", str(ROOT / "pyproject.toml"))
    done = subprocess.run(
        [*command, *config, *files], cwd=tmp_path, env=os.environ | ELSEWHERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = [line for line in done.stdout.splitlines() if "::" in line]
    chosen = set(ours)  # a session may have left some out by -k or -m
    changed = sorted(chosen - set(theirs))
    assert not changed, "these ids depend on the clock, the order of a set or the environment: give them `ids`"
    assert [name for name in theirs if name in chosen] == ours
