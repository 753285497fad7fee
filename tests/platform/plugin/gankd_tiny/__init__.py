"""The smallest complete method of an outside package: a small teacher, and a small student of its answers."""

from pathlib import Path

from gankd.method import Method, Stage
from gankd_tiny.config import TinyConfig

METHOD = Method(
    name="tiny",
    title="Tiny",
    summary="a small student of a small teacher",
    config=TinyConfig,
    stages=(
        Stage("teacher", "gankd_tiny.stages:train_teacher"),
        Stage("student", "gankd_tiny.stages:train_student", inputs=("teacher",)),
        Stage("test_student", "gankd.stages.classifier:test_network", inputs=("student",), test=True),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    watched="student",
    length="student.steps",
    roles={"teacher": "teacher", "student": "student"},
    registered={"student": "student/val_accuracy"},
    space="gankd_tiny.space",
)
