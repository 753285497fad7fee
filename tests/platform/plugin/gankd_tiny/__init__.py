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
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    watched="student",
    length="student.steps",
    scored={"student": "gankd.stages.classifier:score"},
    registered={"student": "student"},
    space="gankd_tiny.space",
)
