"""Class-incremental RGAL from the command line: a sweep by the real `tune.py`, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gankd import models
from tests.conftest import Workplace
from tests.end_to_end.conftest import Refused

SPACE = """
from ray import tune
SPACE = {"student.striplet": tune.grid_search([0.1, 1.0])}
"""


@pytest.mark.long
def test_a_sweep(workplace: Workplace) -> None:
    (workplace.folder / "space.py").write_text(SPACE)
    workplace.make("rgal_incremental", ("first", "finetuning", "joint", "host"), {})
    flags = ("--preset", "smoke", "--trials", "2", "--scheduler", "fifo", "--space", "space.py", "--name", "first")
    done = workplace.tune("--method", "rgal_incremental", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "registered digits-student version 1 (champion; student/val_accuracy" in done.stdout
    for stage in ("joint", "finetuning", "host", "student"):
        assert f"│ {stage}" in done.stdout
    manifests = [json.loads(file.read_text()) for file in workplace.storage.glob("artifacts/*/manifest.json")]
    stages = [manifest["stage"] for manifest in manifests]
    assert {stage: stages.count(stage) for stage in ("first", "finetuning", "joint", "host", "student")} == {
        "first": 1,
        "finetuning": 1,
        "joint": 1,
        "host": 1,  # which knows nothing of the relation terms
        "student": 2,
    }
    (tested,) = (manifest for manifest in manifests if manifest["stage"] == "test_student")
    assert tested["metrics"].keys() == {"test_accuracy", "test_average_accuracy", "test_forgetting"}
    # Progress is told in training steps, up to the horizon of four tasks of 8, and a picture at the end of each task.
    values = [event for event in workplace.events("first", "metrics") if "student/val_accuracy" in event["values"]]
    assert max(event["step"] for event in values if "key" in event) == 32
    pictures = [event["step"] for event in workplace.events("first", "image") if event["name"] == "student/accuracy_matrix"]
    assert sorted(pictures) == [8, 8, 16, 16, 24, 24, 32, 32]
    (folder,) = {file.parent for file in workplace.storage.glob("artifacts/host-*/recipe.json")}
    assert models.load(folder)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert models.load(folder / "after_task_4")(torch.zeros(2, 1, 8, 8)).shape == (2, 8)


@pytest.mark.parametrize(
    ("assignments", "names"),
    [
        (("student.tasks=3",), ("student.tasks", "cannot be 3", "10 classes", "2, 5")),
        (("student.tasks=1",), ("student.tasks", "cannot be 1", "from 2 to 1000")),
        (("student.tasks=[[0, 1, 2, 3, 4], [4, 5, 6, 7, 8, 9]]",), ("class '4' is listed twice",)),
        (("student.tasks=[[0, 1, 2, 3, 4], [6, 7, 8, 9]]",), ("class '5'", "in none of student.tasks")),
        (("first.norm=none",), ("no batch norm", "'none'", "first.norm=batch")),
        (("student.batch=50",), ("'student.batch' cannot be 50", "digits, task 2 (classes 2, 3) has 40 training")),
        (("first.batch=50",), ("'first.batch' cannot be 50", "digits, task 1 (classes 0, 1) has 40 training")),
        (("student.head_steps=8",), ("student.head_steps", "8", "student.task_steps = 8")),
        (("synthesis.start_layer=3",), ("synthesis.start_layer", "3", "blocks 0 to 2")),
        (("data.image_size=10",), ("8, 12, 16", "10 px")),
        (("data.name=digits_angle", "data.image_size=32"), ("needs class labels",)),
    ],
)
def test_bad_knobs(refused: Refused, assignments: tuple[str, ...], names: tuple[str, ...]) -> None:
    settings = [part for assignment in assignments for part in ("--set", assignment)]
    refused("tune", "--method", "rgal_incremental", "--preset", "smoke", *settings, names=names)


def test_a_first_network_of_other_classes(refused: Refused, tmp_path: Path) -> None:
    other = models.build("small_cnn", classes=7, image_channels=1, image_size=8, width=4)
    torch.save(other.state_dict(), tmp_path / "first.pth")
    setting = f"first.checkpoint={tmp_path / 'first.pth'}"
    refused("tune", "--method", "rgal_incremental", "--preset", "smoke", "--set", setting, names=("7 classes, the network of 2",))
