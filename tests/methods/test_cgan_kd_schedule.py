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


def test_repdistiller_steps_one_epoch_late() -> None:
    expected = fixture("lr_schedule_repdistiller")["lr"]
    rates = [0.05 * multistep(epoch, (150, 180, 210), late=True) for epoch in range(240)]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)
    assert rates[150] == pytest.approx(0.05)
    assert [rates[e] for e in (151, 180, 181, 211, 239)] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5, 5e-5])


@pytest.mark.parametrize(("name", "milestones"), [("student_cnn", (150, 250)), ("sparse_ae", (50, 100, 150))])
def test_other_trainers_step_on_the_epoch(name: str, milestones: tuple[int, ...]) -> None:
    expected = fixture("lr_schedule_regression")[name]
    rates = [0.01 * multistep(epoch, milestones) for epoch in range(len(expected))]
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_cosine_reaches_its_end() -> None:
    assert [cosine(s, 100) for s in (0, 50, 100, 150)] == pytest.approx([1, 0.5, 0, 0])
    assert cosine(100, 100, floor=0.1) == pytest.approx(0.1)


@given(st.integers(0, 1000), st.integers(1, 900), st.floats(0, 1))
def test_multipliers_fall_and_stay_in_bounds(step: int, total: int, floor: float) -> None:
    assert floor - 1e-12 <= cosine(step + 1, total, floor) <= cosine(step, total, floor) + 1e-12 <= 1 + 2e-12
    assert multistep(step + 1, (total, 2 * total)) <= multistep(step, (total, 2 * total))
