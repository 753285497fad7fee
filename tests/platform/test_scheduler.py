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


def test_a_horizon_is_the_longest_that_the_space_can_ask_for(tmp_path: Path) -> None:
    (tmp_path / "space.py").write_text("from ray import tune\nSPACE = {'student.rounds': tune.randint(4, 9)}\n")
    flags = {"method": "rgal", "preset": "smoke", "space": str(tmp_path / "space.py")}
    assert prepare(request_of(flags), str(tmp_path)).horizon() == 8 * 4  # rounds and student steps in each
