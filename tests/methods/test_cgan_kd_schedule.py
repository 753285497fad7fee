"""Learning-rate schedules against the rates that the reference trainers used."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gankd.stages.schedule import cosine, multistep

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def drops(rates: np.ndarray) -> list[int]:
    """The epochs whose rate is lower than that of the one before."""
    return (np.flatnonzero(np.diff(rates)) + 1).tolist()


def test_repdistiller_steps_one_epoch_late() -> None:
    expected = fixture("lr_schedule_repdistiller")["lr"]
    milestones = [epoch - 1 for epoch in drops(expected)]  # where its trainer was told to step
    assert milestones
    assert all(milestone % 10 == 0 for milestone in milestones)  # round numbers, as nobody says 151
    rates = [expected[0] * multistep(epoch, milestones, late=True) for epoch in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_a_late_step_worked_out() -> None:
    rates = [0.05 * multistep(epoch, (150, 180, 210), late=True) for epoch in range(240)]
    assert [rates[e] for e in (150, 151, 180, 181, 211, 239)] == pytest.approx([0.05, 5e-3, 5e-3, 5e-4, 5e-5, 5e-5])


@pytest.mark.parametrize("name", fixture("lr_schedule_regression"))
def test_other_trainers_step_on_the_epoch(name: str) -> None:
    expected = fixture("lr_schedule_regression")[name]
    milestones = drops(expected)
    assert milestones
    assert all(milestone % 10 == 0 for milestone in milestones)
    rates = [expected[0] * multistep(epoch, milestones) for epoch in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_cosine_reaches_its_end() -> None:
    assert [cosine(s, 100) for s in (0, 50, 100, 150)] == pytest.approx([1, 0.5, 0, 0])
    assert cosine(100, 100, floor=0.1) == pytest.approx(0.1)


@given(st.integers(0, 1000), st.integers(1, 900), st.floats(0, 1))
def test_multipliers_fall_and_stay_in_bounds(step: int, total: int, floor: float) -> None:
    assert floor - 1e-12 <= cosine(step + 1, total, floor) <= cosine(step, total, floor) + 1e-12 <= 1 + 2e-12
    assert multistep(step + 1, (total, 2 * total)) <= multistep(step, (total, 2 * total))
