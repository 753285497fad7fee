"""Data-free quantization from the command line: a sweep by the real `tune.py`, what it registers, and what it refuses."""

from __future__ import annotations

import json
import re

import mlflow
import pytest
import torch

from gankd import models
from gankd.models import CLASSIFIERS
from methods.rgal_quantization.int8 import kernels_here
from tests.conftest import Workplace
from tests.end_to_end.conftest import Refused

SPACE = """
from ray import tune
SPACE = {"synthesis.triplet": tune.grid_search([0.1, 1.0]), "student.striplet": tune.choice([0.1])}
"""


@pytest.mark.long
def test_a_sweep_registers_a_quantized_network(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace.folder / "space.py").write_text(SPACE)
    workplace.make("rgal_quantization", ("teacher", "ptq_noise", "ptq_real", "gdfq"), {})
    flags = ("--preset", "smoke", "--trials", "2", "--scheduler", "fifo", "--space", "space.py", "--name", "first")
    done = workplace.tune("--method", "rgal_quantization", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert "registered digits-student version 1 (champion; student/val_accuracy" in said
    assert re.search(r"the quantized student takes [\d.]+ kB, the teacher [\d.]+ kB", said)
    assert not kernels_here() or "ms on int8 kernels and" in said
    for stage in ("teacher", "ptq_noise", "ptq_real", "gdfq", "student"):
        assert f"│ {stage}" in done.stdout
    made = [
        json.loads(file.read_text()) | {"folder": file.parent} for file in workplace.storage.glob("artifacts/*/manifest.json")
    ]
    count = {stage: sum(manifest["stage"] == stage for manifest in made) for stage in ("ptq_noise", "gdfq", "student", "int8")}
    assert count == {"ptq_noise": 1, "gdfq": 1, "student": 2, "int8": 2}
    for manifest in made:
        if manifest["stage"] == "int8":
            assert 2 < manifest["metrics"]["teacher_bytes"] / manifest["metrics"]["bytes"] < 8

    evaluated = workplace.gankd("evaluate", "digits-student@champion")
    assert evaluated.returncode == 0, evaluated.stderr
    assert "test_accuracy" in evaluated.stdout
    monkeypatch.chdir(workplace.folder)  # MLflow's own loader, which knows nothing of our code
    mlflow.set_tracking_uri(workplace.tracking)
    exported = mlflow.pytorch.load_model("models:/digits-student@champion")
    students = [models.load(manifest["folder"]) for manifest in made if manifest["stage"] == "student"]
    images = torch.rand(5, 1, 8, 8) * 2 - 1
    answers = exported(images)
    assert any(torch.allclose(answers, student(images), atol=1e-4) for student in students)


SMOKE = ("tune", "--method", "rgal_quantization", "--preset", "smoke")


@pytest.mark.parametrize(
    ("assignments", "names"),
    [
        (("quantizer.bits=1",), ("'quantizer.bits'", "1", "greater than or equal to 2")),
        (("quantizer.bits=9",), ("'quantizer.bits'", "9", "less than or equal to 8")),
        (("quantizer.activation_bits=16",), ("'quantizer.activation_bits'", "16", "less than or equal to 8")),
        (("teacher.norm=group",), ("no batch norm", "'group'", "teacher.norm=batch")),
        (("student.ce=0", "student.kd=0"), ("student.ce", "student.kd", "0")),
        (("synthesis.bn=0", "synthesis.oh=0"), ("control", "synthesis.bn", "synthesis.oh")),
        (("synthesis.start_layer=3",), ("synthesis.start_layer", "3", "blocks 0 to 2")),
        (("data.image_size=10",), ("8, 12, 16", "10 px")),
        (("student.pool=5",), ("'student.batch' cannot be 10", "student.pool = 5")),
        (("data.name=digits_angle",), ("needs class labels", "digits_angle")),
    ],
)
def test_bad_knobs(refused: Refused, assignments: tuple[str, ...], names: tuple[str, ...]) -> None:
    refused(*SMOKE, *(part for assignment in assignments for part in ("--set", assignment)), names=names)


class Transposed(torch.nn.Module):
    """A classifier with a layer that has no quantized form."""

    def __init__(self, classes: int, image_channels: int, image_size: int) -> None:
        super().__init__()
        self.grow = torch.nn.ConvTranspose2d(image_channels, classes, image_size)


def test_a_layer_that_cannot_be_quantized(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    for known in (CLASSIFIERS, models.MODELS):
        monkeypatch.setitem(known, "transposed", f"{__name__}:Transposed")
    knobs = ("--set", "teacher.network=transposed", "--set", "teacher.width=0")
    refused(*SMOKE, *knobs, names=("layer 'grow'", "ConvTranspose2d", "teacher.network"))
