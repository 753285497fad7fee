"""ASHA compares trials on the way, never at their last step, where each still has its control to train."""

from __future__ import annotations

from pathlib import Path

import pytest

from gankd.sweep.plan import prepare, request_of


@pytest.mark.parametrize("steps", [2, 3, 4, 20, 3000])
def test_no_rung_lies_at_the_end(tmp_path: Path, steps: int) -> None:
    from gankd.sweep.trials import _scheduler

    flags = {"method": "cgan_kd", "preset": "smoke", "overrides": {"student.steps": steps}}
    sweep = prepare(request_of(flags), str(tmp_path))
    assert sweep.watched_length() == steps
    rungs = [rung for bracket in _scheduler(sweep)._brackets for rung, _ in bracket._rungs]
    assert rungs
    assert max(rungs) < steps


def test_the_presets_own_trial_is_never_stopped(tmp_path: Path) -> None:
    from ray.tune.experiment import Trial

    from gankd.sweep.trials import _scheduler

    sweep = prepare(request_of({"method": "cgan_kd", "preset": "smoke"}), str(tmp_path))
    scheduler = _scheduler(sweep)
    scheduler.set_search_properties(sweep.space.metric, "max")
    preset = sweep.space.preset_point(sweep.tree)
    others = [{**preset, "student.lr": lr} for lr in (0.1, 0.2, 0.3)]
    decisions = {}
    for place, (knobs, value) in enumerate([(others[0], 90.0), (others[1], 80.0), (preset, 10.0), (others[2], 10.0)]):
        trial = Trial("never", config=knobs, trial_id=str(place), stub=True)
        scheduler.on_trial_add(None, trial)
        decisions[place] = scheduler.on_trial_result(None, trial, {"step": 6, "training_iteration": 1, sweep.space.metric: value})
    assert decisions[2] == scheduler.CONTINUE
    assert decisions[3] == scheduler.STOP


def test_a_horizon_is_the_longest_that_the_space_can_ask_for(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text("from ray import tune\nSPACE = {'student.rounds': tune.randint(4, 9)}\n")
    flags = {"method": "rgal", "preset": "smoke", "space": str(tmp_path / "space.py")}
    assert prepare(request_of(flags), str(tmp_path)).watched_length() == 8 * 4  # rounds and student steps in each
