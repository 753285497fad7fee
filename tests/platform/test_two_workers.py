"""Ray Train inside Ray Tune: a sweep whose trial runs on two workers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gankd.registry import find_method
from tests.conftest import Workplace

pytestmark = pytest.mark.timeout(600)


def workers(place: Workplace, method: str) -> dict[str, int]:
    """Stage -> the workers that made its artifact, after a sweep with two."""
    flags = ("--trials", "1", "--scheduler", "fifo", "--workers", "2", "--name", "two")
    done = place.tune("--method", method, *flags, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in place.trials("two")] == ["finished"]
    manifests = [json.loads(file.read_text()) for file in place.storage.glob("artifacts/*/manifest.json")]
    return {manifest["stage"]: manifest["workers"] for manifest in manifests if "workers" in manifest}


@pytest.mark.long  # what two workers compute, and end with, is tested in processes of their own
def test_a_trial_on_two_workers(tmp_path: Path, plugin: Path, empty_store: Path) -> None:
    place = Workplace(tmp_path, plugin, database=empty_store, cores=2)
    shared = [stage.name for stage in find_method("tiny_gan").shared(["student.lr"])]
    place.make("tiny_gan", shared, {}, preset="digits")
    assert workers(place, "tiny_gan") == {**dict.fromkeys(shared, 1), "student": 2}


@pytest.mark.long  # the driver puts these on Ray Train as it does with one worker
def test_the_shared_stages_and_the_test_on_two_workers_too(tmp_path: Path, plugin: Path, empty_store: Path) -> None:
    place = Workplace(tmp_path, plugin, database=empty_store, cores=2)
    assert workers(place, "tiny") == {"teacher": 2, "student": 2, "test_student": 2}
