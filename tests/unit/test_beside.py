"""Controls that are made while the shared stages train: which, where there is room, and until when."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankd.errors import StageFailed
from gankd.pipeline import Job, Pipeline
from gankd.store import Store
from gankd.sweep import beside
from gankd.sweep.plan import Sweep, prepare, request_of


def sweep_of(folder: Path, **flags: object) -> Sweep:
    file = folder / "space.py"
    file.write_text(
        "from ray import tune\nSPACE = {'student.lr': tune.uniform(0.1, 0.2), 'samples.batch': tune.choice([10, 20])}\n"
    )
    asked = {"method": "cgan_kd", "preset": "smoke", "space": str(file), "trials": 3, **flags}
    return prepare(request_of(asked), str(folder / "runs"))


def test_each_trials_control_is_made_while_the_gan_trains(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    first, *jobs = beside.controls_to_make(sweep)
    assert (first.stages, first.trial) == (("baseline",), "")
    assert [job.stages for job in jobs] == [("control",)] * 3
    keys = {Pipeline(job).keys["control"] for job in jobs}
    assert len(keys) == 3
    assert keys == {Pipeline(sweep.job(job_knobs(job), job.trial)).trial_keys["control"] for job in jobs}


def job_knobs(job: Job) -> dict[str, object]:
    return {"student.lr": job.config["student"]["lr"], "samples.batch": job.config["samples"]["batch"]}


@pytest.mark.parametrize("flags", [{"search": "optuna"}, {"workers": 2}, {"reuse": False}])
def test_nothing_is_made_beside_what_is_not_known_or_not_shared(tmp_path: Path, flags: dict[str, object]) -> None:
    assert beside.controls_to_make(sweep_of(tmp_path, **flags)) == []


def test_nothing_is_made_when_only_what_the_controls_wait_for_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = sweep_of(tmp_path)
    monkeypatch.setattr(Store, "has", lambda self, key: not key.startswith("baseline"))
    assert beside.controls_to_make(sweep) == []
    monkeypatch.setattr(Store, "has", lambda self, key: not key.startswith("biggan"))
    assert len(beside.controls_to_make(sweep)) == 3


def test_it_ends_with_the_shared_stages_and_leaves_failures_to_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs, ran = beside.controls_to_make(sweep_of(tmp_path)), []

    def run(job: Job) -> dict[str, float]:
        ran.append(job.trial)
        raise StageFailed("the loss is NaN")

    monkeypatch.setattr(beside, "run", run)
    assert beside.make_until(jobs, lambda: len(ran) == 2) == 2
    assert ran == [job.trial for job in jobs[:2]]
