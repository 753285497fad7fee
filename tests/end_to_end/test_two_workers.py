"""Ray Train inside Ray Tune: a sweep whose shared stages and trials run on two workers each."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Workplace

pytestmark = pytest.mark.timeout(600)


def test_a_sweep_on_two_workers(workplace: Workplace) -> None:
    flags = ("--preset", "smoke", "--trials", "1", "--scheduler", "fifo", "--workers", "2", "--name", "two")
    done = workplace.tune("--method", "cgan_kd", *flags, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [trial["status"] for trial in workplace.trials("two")] == ["finished"]
    manifests = [json.loads(file.read_text()) for file in workplace.storage.glob("artifacts/*/manifest.json")]
    assert {manifest["workers"] for manifest in manifests if manifest["stage"] != "test"} == {2}
