"""Ray Train inside Ray Tune: a sweep whose trial runs on two workers."""

from __future__ import annotations

import json

import pytest

from gankd.registry import find_method
from tests.conftest import Workplace
from tune_spaces.cgan_kd import SPACE

pytestmark = pytest.mark.timeout(600)


def test_a_sweep_on_two_workers(workplace: Workplace) -> None:
    shared = [stage.name for stage in find_method("cgan_kd").prefix(SPACE)]
    workplace.make("cgan_kd", shared, {})
    flags = ("--preset", "smoke", "--trials", "1", "--scheduler", "fifo", "--workers", "2", "--name", "two")
    done = workplace.tune("--method", "cgan_kd", *flags, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in workplace.trials("two")] == ["finished"]
    manifests = [json.loads(file.read_text()) for file in workplace.storage.glob("artifacts/*/manifest.json")]
    workers = {manifest["stage"]: manifest["workers"] for manifest in manifests if manifest["stage"] != "test"}
    assert workers == {stage.name: 1 if stage.name in shared else 2 for stage in find_method("cgan_kd").stages}
