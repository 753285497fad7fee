"""A method of an outside package: found by its entry point, listed and run like one of ours (swept: `test_sweep`)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gankd.errors import UserError
from gankd.pipeline import Job, run
from gankd.registry import find_method, method_names
from tests.conftest import Workplace

PLUGIN = Path(__file__).parent / "plugin"
CONFIG = {"data": {"name": "digits", "train_images": 200, "val_fraction": 0.25}}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package can be imported, and its entry point found."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "gankd_tiny"]:
        del sys.modules[name]


@pytest.mark.usefixtures("installed")
def test_it_is_found_beside_ours() -> None:
    assert {"tiny", "cgan_kd"} <= set(method_names())
    assert find_method("tiny").title == "Tiny"


def test_without_its_package_it_is_unknown() -> None:
    with pytest.raises(UserError, match="unknown method 'tiny'"):
        find_method("tiny")


@pytest.mark.usefixtures("installed")
def test_its_stages_run(tmp_path: Path) -> None:
    metrics = run(Job("tiny", CONFIG, str(tmp_path), threads=1))
    assert set(metrics) == {"teacher/val_accuracy", "student/val_accuracy"}
    assert metrics["teacher/val_accuracy"] > 20  # chance is 10 percent
    made = {folder.name.partition("-")[0] for folder in (tmp_path / "artifacts").iterdir()}
    assert made == {"data", "teacher", "student"}


def test_the_command_line_lists_it(tmp_path: Path) -> None:
    listed = Workplace(tmp_path, PLUGIN).gankd("methods")
    assert "Tiny: a small student of a small teacher" in listed.stdout
    assert "stages: teacher -> student" in listed.stdout
