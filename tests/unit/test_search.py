"""How trials come to Tune: the list of points, and Optuna with a preset that lies outside its space."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train import WorkerGroupError

from gankd.sweep.launch import Lost, lost
from gankd.sweep.plan import Sweep, prepare, request_of, trial_name
from gankd.sweep.records import TrialRecord
from gankd.sweep.searcher import searcher
from gankd.sweep.trials import _in_the_store


def sweep_of(folder: Path, lr: float) -> Sweep:
    file = folder / "space.py"
    file.write_text("from ray import tune\nSPACE = {'student.lr': tune.uniform(0.1, 0.2)}\n")
    flags = {"method": "cgan_kd", "preset": "smoke", "space": str(file), "trials": 4, "search": "optuna"}
    return prepare(request_of({**flags, "overrides": {"student.lr": str(lr)}}), str(folder / "runs"))


def finish(search: Any, trial: str, value: float) -> None:
    search.on_trial_complete(trial, {"student/val_accuracy": value})


def test_a_preset_outside_the_space_is_tried_first_and_not_told_to_optuna(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 0.05)
    search = searcher(sweep, [], {})
    assert search.suggest("first") == {"student.lr": 0.05}
    drawn = [search.suggest(trial)["student.lr"] for trial in ("second", "third")]
    assert all(0.1 <= lr <= 0.2 for lr in drawn)
    for trial, value in (("first", 99), ("second", 1), ("third", 2)):
        finish(search, trial, value)
    study = search.then._ot_study
    assert sorted(trial.value for trial in study.trials) == [1, 2]


def test_a_preset_within_the_space_is_optunas_first_point(tmp_path: Path) -> None:
    search = searcher(sweep_of(tmp_path, 0.15), [], {})
    assert search.suggest("first") == {"student.lr": 0.15}
    finish(search, "first", 99)
    assert [trial.value for trial in search.then._ot_study.trials] == [99]


def test_a_resumed_search_is_told_what_its_space_holds(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 0.05)
    ended = {}
    for lr, value in ((0.05, 99.0), (0.12, 3.0)):
        knobs = {"student.lr": lr}
        ended[trial_name(knobs)] = TrialRecord(trial_name(knobs), knobs, "finished", {"student/val_accuracy": value})
    search = searcher(sweep, [], ended)
    assert [trial.value for trial in search.then._ot_study.trials] == [3.0]
    assert 0.1 <= search.suggest("next")["student.lr"] <= 0.2


def test_a_lost_process_is_a_sentence_and_a_bug_is_not() -> None:
    died, bug = RayActorError(), RayTaskError("run", "Traceback ...", ValueError("bug"))
    assert "a process that trained was lost" in lost(died)
    assert "a process that trained was lost" in lost(WorkerGroupError("it failed", {0: died}))
    assert lost(bug) == lost(ValueError("bug")) == lost(WorkerGroupError("it failed", {0: died, 1: bug})) == ""


@pytest.mark.parametrize(("error", "one_line"), [(RayActorError(), True), (ValueError("bug"), False)])
def test_tune_says_a_lost_process_in_one_line(error: Exception, one_line: bool) -> None:
    record = logging.LogRecord("ray", logging.ERROR, "", 0, "Trial task failed for %s", ("t",), (type(error), error, None))
    assert Lost().filter(record)
    assert (record.exc_info is None) == one_line
    assert ("goes on from the last checkpoint" in record.getMessage()) == one_line


def test_knobs_that_do_not_go_together_fail_their_trial_and_not_the_sweep(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 0.15)
    assert _in_the_store(sweep, {"odd": {"student.lr": 0.1, "student.steps": -1}}) == {}


def test_what_the_store_does_not_bear_out_is_tried_again(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, 0.15)
    sweep.records.save_trial(TrialRecord("stale", {"student.lr": 0.13}, "finished", {"student/val_accuracy": 5.0}))
    search = searcher(sweep, [], {})
    assert search.suggest("first") == {"student.lr": 0.13}
    assert search.suggest("second") == {"student.lr": 0.15}
