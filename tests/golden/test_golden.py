"""What the stages of every method make, against what they made when it was recorded: a changed result does not go unnoticed.

A stage's key holds its code, or its `version`; this is what makes the versions honest.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from gankd.registry import find_method, method_names
from tests.golden.sketch import CALM, FOLDER, differences, golden, make_sketch

ADVICE = """
If that is meant: raise the `version` of the first of these stages, unless its key changes by itself, and run
    .venv/bin/python tests/golden/renew.py {method}
so that the new numbers stand in the change for review."""


@pytest.mark.parametrize("method", CALM)
def test_every_stage_makes_what_was_recorded(method: str, tmp_path: Path) -> None:
    found = differences(golden(method), make_sketch(method, tmp_path))
    lines = [f"{method}, stage {stage}: {how}" for stage, how in found.items()]
    assert not found, "\n".join(["results have changed.", *lines, ADVICE.format(method=method)])


def test_every_method_has_a_record() -> None:
    assert set(CALM) == set(method_names()) == {file.stem for file in FOLDER.glob("*.json")}


GAN = ("feature_classifier", "biggan")
TRANSFER = ("feature_classifier", "pretrain", "bn")


@pytest.mark.parametrize(
    ("method", "knob", "value", "stages", "noticed"),
    [
        ("cgan_kd", "biggan.g_lr", 2.2e-4, GAN, {"biggan"}),
        ("cgan_kd", "biggan.diffaugment", ("color", "translation"), GAN, {"biggan"}),
        ("cgan_kd", "student.lr", 0.055, ("teacher", "baseline", "control"), {"control"}),
        ("rgal", "synthesis.bn", 1.1, ("teacher", "student"), {"student"}),
        ("cgan_transfer", "bn.g_lr", 2.2e-4, TRANSFER, {"bn"}),
    ],
    ids=["a GAN's rate", "its augmentation", "a student's rate", "weight of a loss", "rate of a few tensors"],
)
def test_a_tenth_more_of_a_knob_is_noticed(
    method: str, knob: str, value: object, stages: tuple[str, ...], noticed: set[str], tmp_path: Path
) -> None:
    before = {stage: made for stage, made in golden(method).items() if stage in stages}
    assert set(differences(before, make_sketch(method, tmp_path, {knob: value}, stages))) == noticed


@pytest.mark.parametrize("method", CALM)
def test_stages_declare_the_metrics_that_they_report(method: str) -> None:
    spec, made = find_method(method), golden(method)
    config = spec.config()
    task = "mae" if spec.objective.endswith("mae") else "accuracy"
    for stage in spec.stages:
        assert sorted(stage.reported(config, task)) == sorted(made[stage.name]["metrics"]), stage.name
