"""The comparison of five kinds of teachers from the command line: its table, each row really trained."""

from __future__ import annotations

import json

import pytest

from gankd.registry import find_method
from gankd.sweep.table import load_table
from tests.conftest import Workplace


@pytest.mark.long
def test_the_table(workplace: Workplace) -> None:
    done = workplace.tune("--method", "five_teachers", "--preset", "smoke", "--table", "teachers", "--name", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    spec = load_table(find_method("five_teachers"), "teachers")
    manifests = [json.loads(file.read_text()) for file in workplace.storage.glob("artifacts/*/manifest.json")]
    stages = [manifest["stage"] for manifest in manifests]
    # What rows have in common is made once: three samplers, five students, two controls, of one baseline and one teacher.
    threefold, fivefold = ("sampler", "quality", "density_ratio", "samples"), ("student", "test_student")
    counted = {stage: stages.count(stage) for stage in set(stages) if stages.count(stage) > 1}
    assert counted == dict.fromkeys(threefold, 3) | dict.fromkeys(fivefold, 5) | {"control": 2, "test_control": 2}
    trained = [manifest for manifest in manifests if manifest["stage"] in ("student", "control", "inversion")]
    assert {manifest["basis"][""]["network"]["width"] for manifest in trained} == {4}
    for row in spec.rows:
        assert row.labels[0].split()[0] in done.stdout
    (page,) = workplace.folder.rglob("tables/teachers.md")
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if line.startswith("| ")]
    by_label = {row[1]: row for row in rows}
    assert "the reference" in by_label["real images: the control"]
    assert by_label["real images: the control"][3] == ""  # no FID of what makes no images
    assert float(by_label["images: RGAL"][3]) > 0
