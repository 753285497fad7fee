"""One small sweep by the real `tune.py`, which several files look at. It takes half a minute, so it runs once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.conftest import Done, Workplace

SWEEP = ("--method", "cgan_kd", "--preset", "smoke", "--trials", "2", "--scheduler", "fifo")


@dataclass(frozen=True)
class SmokeSweep:
    """The folder of a finished sweep, and what the command said."""

    place: Workplace
    done: Done
    name: str = "first"


@pytest.fixture(scope="session")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> SmokeSweep:
    place = Workplace(tmp_path_factory.mktemp("smoke"))
    done = place.tune(*SWEEP, "--name", "first", timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    return SmokeSweep(place, done)
