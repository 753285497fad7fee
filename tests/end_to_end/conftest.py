"""One small sweep by the real `tune.py`, which several files look at, and commands that are refused before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import gankd.sweep.experiment
import gankd.sweep.launch
from gankd import cli
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
    place = Workplace(tmp_path_factory.mktemp("smoke"), cores=2)
    done = place.tune(*SWEEP, "--name", "first", timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    return SmokeSweep(place, done)


def never(*_: Any) -> None:
    raise AssertionError("it went on")


Here = Callable[..., Done]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Runs `gankd ...` in a place, but in this process, for speed: `main` is what the command calls. Not for what starts Ray."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def command(place: Workplace, *arguments: str) -> Done:
        monkeypatch.chdir(place.folder)
        monkeypatch.setattr(sys, "argv", ["gankd", *arguments])
        monkeypatch.setattr(gankd.sweep.launch, "start_ray", never)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return Done(["gankd", *arguments], int(end.value.code or 0), said.out, said.err)

    return command


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs `gankd ...` in an empty folder; its sentence, once it is sure that there is just one and that nothing ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(gankd.sweep.experiment, "run_experiment", never)

    def command(*arguments: str, names: tuple[str, ...] = ()) -> str:
        monkeypatch.setattr(sys, "argv", ["gankd", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr().err
        assert end.value.code == 2, said
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert [name for name in names if name not in said] == [], said
        assert not (tmp_path / "runs" / "artifacts").exists()
        return said

    return command
