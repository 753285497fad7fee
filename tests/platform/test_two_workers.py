"""Ray Train inside Ray Tune: a sweep whose shared stages and whose trial run on two workers each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gankd.registry import find_method
from tests.conftest import Workplace

pytestmark = pytest.mark.timeout(600)


def test_a_sweep_on_two_workers(tmp_path: Path, plugin: Path) -> None:
    place = Workplace(tmp_path, plugin)
    flags = ("--trials", "1", "--scheduler", "fifo", "--workers", "2", "--name", "two")
    done = place.tune("--method", "tiny", *flags, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in place.trials("two")] == ["finished"]
    manifests = [json.loads(file.read_text()) for file in place.storage.glob("artifacts/*/manifest.json")]
    workers = {manifest["stage"]: manifest.get("workers") for manifest in manifests}
    always = {stage.name for stage in find_method("tiny").made_always()}
    assert {stage: workers[stage] for stage in always} == dict.fromkeys(always, 2)
