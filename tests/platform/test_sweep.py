"""One sweep of an outside package in surroundings as they come: odd names, code that was edited since, a trial that diverges."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gankd.pipeline import Job, run
from tests.conftest import Done, Workplace

CONFIG = {"data": {"name": "digits", "train_images": 200, "val_fraction": 0.25}}
PRESET, TAME, WILD = 0.1, 0.2, 1e6
SPACE = f"from ray import tune\nSPACE = {{'student.lr': tune.choice([{WILD}, {TAME}])}}"
ODD, LONG = "odd ?%#' ä", "long" * 30


def edit(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def sweep(place: Workplace, name: str, *flags: str) -> Done:
    done = place.tune("--method", "tiny", "--scheduler", "fifo", "--name", name, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def stages(place: Workplace) -> Path:
    """The code of the method's stages."""
    return place.folder.parent / "plugin" / "gankd_tiny" / "stages.py"


def trained(place: Workplace, name: str) -> set[str]:
    return {event["stage"] for event in place.events(name, "stage_end")}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plugin: Path, empty_store: Path) -> Workplace:
    """An odd folder, another Ray's address, a temporary folder too long for sockets, and what the code made before an edit."""
    root = tmp_path_factory.mktemp("sweep")
    for name in (ODD, LONG):
        (root / name).mkdir()
    shutil.copytree(plugin, root / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    place = Workplace(root / ODD, root / "plugin", database=empty_store)
    place.environment |= {"RAY_ADDRESS": "127.0.0.1:1", "TMPDIR": str(root / LONG)}
    (place.folder / "space.py").write_text(SPACE)
    run(Job("tiny", CONFIG, str(place.storage), stages=("teacher", "student", "test_student"), threads=1))
    return place


@pytest.fixture(scope="module")
def commented(place: Workplace) -> Done:
    edit(stages(place), "def train_student(", "# A comment.\ndef train_student(")
    return sweep(place, "commented", "--trials", "1")  # all is there, so Ray does not start


@pytest.fixture(scope="module")
def kept(place: Workplace, commented: Done) -> Done:
    edit(stages(place), "models.load(teacher.path).to", "models.load(teacher.path).eval().to")
    return sweep(place, "kept", "--trials", "1", "--reuse-stale")


@pytest.fixture(scope="module")
def edited(place: Workplace, kept: Done) -> Done:
    """The preset's trial, and two that Optuna draws: a tame one and a wild one."""
    return sweep(place, "edited", "--trials", "3", "--search", "optuna", "--space", "space.py")


def test_a_comment_retrains_nothing(place: Workplace, commented: Done) -> None:
    assert "code changed" not in commented.stdout
    assert trained(place, "commented") == set()
    assert [trial["status"] for trial in place.trials("commented")] == ["finished"]


def test_on_the_users_word_what_the_old_code_made_is_kept(place: Workplace, kept: Done) -> None:
    assert "code changed: student; --reuse-stale takes what the old code made" in " ".join(kept.stdout.split())
    assert trained(place, "kept") == set()


def test_what_an_edit_concerns_is_said_and_trained_again(place: Workplace, edited: Done) -> None:
    assert "code changed: student is trained again (--reuse-stale" in " ".join(edited.stdout.split())
    assert trained(place, "edited") == {"student", "test_student"}


def test_a_trial_that_diverges_leaves_the_sweep_going(place: Workplace, edited: Done) -> None:
    trials = {trial["knobs"]["student.lr"]: trial for trial in place.trials("edited")}
    assert {lr: trial["status"] for lr, trial in trials.items()} == {PRESET: "finished", TAME: "finished", WILD: "failed"}
    assert "student: loss became nan" in trials[WILD]["reason"]
    assert "student: loss became nan" in edited.stdout
    assert "Traceback" not in edited.stdout + edited.stderr


def test_it_is_tested_and_registered_as_one_of_ours(place: Workplace, edited: Done) -> None:
    made = [event["stage"] for event in place.events("edited", "stage_end") if event["status"] == "finished"]
    assert sorted(made) == ["student", "student", "test_student"]
    assert "registered digits-student version 2 (" in edited.stdout  # 1 is what the old code made


def test_surroundings_are_told_and_left_as_they_are(place: Workplace, edited: Done) -> None:
    assert "RAY_ADDRESS=127.0.0.1:1 is not used" in edited.stdout
    assert sorted(entry.name for entry in place.folder.parent.iterdir()) == sorted([ODD, LONG, "plugin"])
