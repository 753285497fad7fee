"""Ray Train inside Ray Tune: a sweep whose trial runs on two workers, and what is made before and after it as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gankd.pipeline import Job, run
from tests.conftest import Workplace

pytestmark = pytest.mark.timeout(600)
CONFIG = {"data": {"name": "digits", "train_images": 200, "val_fraction": 0.25}}


@pytest.mark.parametrize("made", [("teacher",), pytest.param((), marks=pytest.mark.long)], ids=["trial", "shared stages, too"])
def test_a_sweep_on_two_workers(tmp_path: Path, plugin: Path, empty_store: Path, made: tuple[str, ...]) -> None:
    place = Workplace(tmp_path, plugin, database=empty_store)
    if made:
        run(Job("tiny", CONFIG, str(place.storage), stages=made, threads=1))
    flags = ("--trials", "1", "--scheduler", "fifo", "--workers", "2", "--name", "two")
    done = place.tune("--method", "tiny", *flags, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in place.trials("two")] == ["finished"]
    manifests = [json.loads(file.read_text()) for file in place.storage.glob("artifacts/*/manifest.json")]
    workers = {manifest["stage"]: manifest.get("workers") for manifest in manifests}
    assert {stage: workers[stage] for stage in ("teacher", "student", "test_student")} == {
        stage: 1 if stage in made else 2 for stage in ("teacher", "student", "test_student")
    }
