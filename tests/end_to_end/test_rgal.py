"""RGAL from the command line: a sweep by the real `tune.py`, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gankd import models
from tests.conftest import Workplace
from tests.end_to_end.conftest import Refused

SPACE = """
from ray import tune
SPACE = {"synthesis.triplet": tune.grid_search([0.1, 1.0]), "student.striplet": tune.choice([0.1])}
"""


def manifests(place: Workplace) -> dict[str, list[dict[str, Any]]]:
    """Stage -> manifests of its artifacts."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in place.storage.glob("artifacts/*/manifest.json"):
        manifest = json.loads(file.read_text()) | {"folder": file.parent}
        found.setdefault(manifest["stage"], []).append(manifest)
    return found


def test_a_sweep(workplace: Workplace) -> None:
    (workplace.folder / "space.py").write_text(SPACE)
    workplace.make("rgal", ("teacher", "baseline", "noise", "feature_classifier", "real_statistics"), {})
    flags = ("--preset", "smoke", "--trials", "2", "--scheduler", "fifo", "--space", "space.py", "--name", "first")
    done = workplace.tune("--method", "rgal", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registered digits-student version 1 (champion; student/val_accuracy" in done.stdout
    for stage in ("teacher", "baseline", "noise", "student"):
        assert f"│ {stage}" in done.stdout
    found = manifests(workplace)
    # The knobs of synthesis and of the triplets leave the teacher and both comparisons alone.
    assert {stage: len(made) for stage, made in found.items() if stage != "data" and not stage.startswith("test_")} == {
        "teacher": 1,
        "baseline": 1,
        "noise": 1,
        "feature_classifier": 1,
        "real_statistics": 1,
        "student": 2,
        "pool": 2,
    }
    assert all(manifest["metrics"]["fid_classifier"] > 0 for manifest in found["pool"])
    for manifest in found["student"]:
        images, labels = (np.load(manifest["folder"] / f"{name}.npy") for name in ("images", "labels"))
        assert images.dtype == np.uint8
        assert images.shape == (80, 1, 8, 8)
        assert labels.shape == (80,)
        assert manifest["sections"]["synthesis"]["g_steps"] == 4
    # Progress is told in student steps, up to the horizon of 16.
    values = [event for event in workplace.events("first", "metrics") if "student/val_accuracy" in event["values"]]
    assert {event["step"] for event in values if "key" in event} == {4, 8, 12, 16}
    student = models.load(found["student"][0]["folder"])
    assert student(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def refusal(refused: Refused, assignments: tuple[str, ...], names: tuple[str, ...]) -> None:
    settings = [part for assignment in assignments for part in ("--set", assignment)]
    refused("tune", "--method", "rgal", "--preset", "smoke", *settings, names=names)


NO_WEIGHTS = tuple(f"synthesis.{name}=0" for name in ("bn", "oh", "adv", "triplet"))


@pytest.mark.parametrize(
    ("assignments", "names"),
    [
        (("teacher.norm=none",), ("no batch norm", "'none'", "teacher.norm=batch")),
        (NO_WEIGHTS, ("all weights", "'synthesis'", "bn, oh, adv, triplet")),
        ((*NO_WEIGHTS[:3], "synthesis.relation_mode=off"), ("all weights",)),
        (("student.pool=2000000000",), ("student.pool", "2000000000", "GiB of memory are free")),
        (("student.width=5",), ("student", "width 5", "baseline", "width 4")),
        (("synthesis.low=1.2",), ("synthesis.low", "1.2", "synthesis.high = 1.0")),
        (("synthesis.start_layer=3",), ("synthesis.start_layer", "3", "blocks 0 to 2")),
        (("synthesis.start_layer=4",), ("synthesis.start_layer", "4", "synthesis.end_layer = 4")),
        (("data.image_size=10",), ("8, 12, 16", "10 px")),
        (("student.network=small_cn", "baseline.network=small_cn"), ("'small_cn'", "did you mean 'small_cnn'")),
        (("synthesis.relation_mode=up",), ("'adversarial', 'cooperative' or 'off'", "'up'")),
        (("student.striplet_feature=[all]",), ("student.striplet_feature", "'all'")),
    ],
)
def test_bad_knobs(refused: Refused, assignments: tuple[str, ...], names: tuple[str, ...]) -> None:
    refusal(refused, assignments, names)


def test_a_teacher_of_other_classes(refused: Refused, tmp_path: Path) -> None:
    other = models.build("small_cnn", classes=7, image_channels=1, image_size=8, width=8)
    torch.save(other.state_dict(), tmp_path / "teacher.pth")
    refusal(refused, (f"teacher.checkpoint={tmp_path / 'teacher.pth'}",), ("of 7 classes, the network of 10",))


def test_a_batch_that_workers_cannot_share(refused: Refused) -> None:
    workers = ("--workers", "3", "--shared-workers", "1")
    refused("tune", "--method", "rgal", "--preset", "smoke", *workers, names=("'student.batch' cannot be 10",))
