"""A researcher edits a method and runs again: what the edit concerns is trained again, and the run says so."""

from __future__ import annotations

import shutil
from pathlib import Path

from gankd.pipeline import Job, run
from tests.conftest import Done, Workplace

CONFIG = {"data": {"name": "digits", "train_images": 200, "val_fraction": 0.25}}


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def sweep(place: Workplace, name: str, *flags: str) -> Done:
    done = place.tune("--method", "tiny", "--trials", "1", "--scheduler", "fifo", "--name", name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def trained(place: Workplace, name: str) -> set[str]:
    return {event["stage"] for event in place.events(name, "stage_end")}


def test_edited_code_is_said_and_trained_again_or_kept_on_the_users_word(tmp_path: Path, plugin: Path) -> None:
    edited_plugin = tmp_path / "plugin"
    shutil.copytree(plugin, edited_plugin, ignore=shutil.ignore_patterns("__pycache__"))
    place, stages = Workplace(tmp_path, edited_plugin), edited_plugin / "gankd_tiny" / "stages.py"
    run(Job("tiny", CONFIG, str(place.storage), stages=("teacher", "student", "test_student"), threads=1))
    unedited = sweep(place, "unedited")  # all is there, so Ray does not start
    assert "code changed" not in unedited.stdout
    assert trained(place, "unedited") == set()
    assert [trial["status"] for trial in place.trials("unedited")] == ["finished"]

    edit(stages, "def train_student(", "# A comment retrains nothing.\ndef train_student(")
    again = sweep(place, "commented")
    assert "code changed" not in again.stdout
    assert trained(place, "commented") == set()

    edit(stages, "models.load(teacher.path).to", "models.load(teacher.path).eval().to")
    kept = sweep(place, "kept", "--reuse-stale")
    assert "code changed: student; --reuse-stale takes what the old code made" in " ".join(kept.stdout.split())
    assert trained(place, "kept") == set()

    edited = sweep(place, "edited")
    assert "code changed: student is trained again (--reuse-stale" in " ".join(edited.stdout.split())
    assert trained(place, "edited") == {"student", "test_student"}
