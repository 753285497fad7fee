"""Gains: on a metric that both sides report, in its own direction, each side the best of the same trials."""

import math

import pytest

from gankd.errors import UserError
from gankd.method import Gain
from gankd.metrics.directions import direction, is_better
from gankd.metrics.paired import Paired, distinguishable_together, paired
from gankd.registry import find_method
from gankd.sweep.gains import best, difference, tuned_gain
from gankd.sweep.records import TrialRecord

GAIN = Gain("student", "control", "val_accuracy", tests=("test_student", "test_control", "test_accuracy"))


def record(trial: str, status: str = "finished", **metrics: float) -> TrialRecord:
    return TrialRecord(trial, {"x": trial}, status, {name.replace("__", "/"): value for name, value in metrics.items()})


@pytest.mark.parametrize(
    ("metric", "way"),
    [
        ("student/val_accuracy", "max"),
        ("test_accuracy", "max"),
        ("student/val_mae", "min"),
        ("quality/fid_classifier", "min"),
        ("quality/intra_fid_max_classifier", "min"),
        ("quality/is_classifier", "max"),
        ("quality/class_accuracy_classifier", "max"),
        ("quality/kid_std_classifier", "min"),
        ("student/parameters", None),
    ],
)
def test_a_metric_has_its_own_direction(metric: str, way: str | None) -> None:
    assert direction(metric) == way


def test_better_is_in_the_metrics_direction() -> None:
    assert is_better("val_accuracy", 2.0, 1.0)
    assert is_better("val_mae", 1.0, 2.0)
    assert not is_better("parameters", 2.0, 1.0)


def test_a_gain_of_an_accuracy_is_positive_where_the_method_is_better_whatever_the_sweep_minimises() -> None:
    # A sweep with METRIC = "quality/fid_classifier", MODE = "min" reported -10 for this one.
    records = [record("a", student__val_accuracy=91.0, control__val_accuracy=81.0, quality__fid_classifier=2.0)]
    gain = tuned_gain(GAIN, records, "a")
    assert gain is not None
    assert gain.on_validation(GAIN) == 10
    assert gain.of_preset(GAIN) == 10


def test_a_gain_of_an_error_is_positive_where_it_falls() -> None:
    spec = Gain("student", "control", "val_mae")
    assert difference(spec, "val_mae", {"student/val_mae": 2.0}, {"control/val_mae": 5.0}) == 3
    assert difference(spec, "val_mae", {"student/val_mae": 2.0}, {}) is None


def test_the_control_is_the_best_of_all_trials_also_of_those_that_were_stopped() -> None:
    records = [
        record("preset", student__val_accuracy=88.0, control__val_accuracy=85.0),
        record("b", student__val_accuracy=90.0, control__val_accuracy=84.0),
        record("c", "stopped", control__val_accuracy=89.0),
        record("d", "stopped", student__val_accuracy=99.0),
        record("e", "failed"),
    ]
    gain = tuned_gain(GAIN, records, "preset")
    assert gain is not None
    assert (gain.method.trial, gain.control.trial, gain.trials) == ("b", "c", 5)
    assert gain.on_validation(GAIN) == 1
    assert gain.of_preset(GAIN) == 3


def test_without_a_control_or_values_there_is_no_gain() -> None:
    assert tuned_gain(None, [record("a", student__val_accuracy=1.0)], "a") is None
    assert tuned_gain(GAIN, [record("a", student__val_accuracy=1.0)], "a") is None
    assert tuned_gain(Gain("student", "control", "parameters"), [record("a", student__parameters=1.0)], "a") is None


def test_the_best_is_finite_and_the_first_of_equals() -> None:
    records = [record("a", s__m=math.nan), record("b", s__m=2.0), record("c", s__m=2.0)]
    assert best(records, "s/m", "max") is records[1]
    assert best(records[:1], "s/m", "max") is None


def test_a_paired_interval_by_students_t() -> None:
    # Five differences; t(0.975, 4) = 2.7764.
    p = paired([2.67, 2.00, 3.34, 1.84, 0.17])
    assert p.mean == pytest.approx(2.004)
    assert p.deviation == pytest.approx(1.1852, abs=1e-3)
    assert (p.low, p.high) == (pytest.approx(0.532, abs=1e-3), pytest.approx(3.476, abs=1e-3))
    assert p.distinguishable


def test_a_p_value_goes_with_the_interval() -> None:
    assert paired([2.67, 2.00, 3.34, 1.84, 0.17]).p == pytest.approx(0.01934, abs=1e-4)  # t = 3.781 with 4 degrees of freedom
    assert [paired(same).p for same in ([1.0, 1.0], [0.0, 0.0])] == [0.0, 1.0]
    assert math.isnan(paired([3.0]).p)


def test_of_several_differences_those_stand_that_holm_keeps() -> None:
    def of(p: float) -> Paired:
        return Paired(5, 1.0, 1.0, *((0.1, 1.9) if p < 0.05 else (-0.1, 2.1)), p)

    def kept(*values: float) -> list[bool]:
        return distinguishable_together([of(p) for p in values])

    assert kept(0.01, 0.04, 0.03, 0.005) == [True, False, False, True]  # 0.03 > 0.05 / 2 stops, and 0.04 with it
    assert kept(0.04) == [True]
    assert kept(0.04, 0.04) == [False, False]
    assert kept(0.3, 0.001) == [False, True]
    assert kept() == []


def test_an_interval_that_holds_zero_distinguishes_nothing() -> None:
    assert not paired([1.0, -1.0, 0.5]).distinguishable
    assert not paired([3.0]).distinguishable  # one pair has no interval
    with pytest.raises(ValueError, match="no pair"):
        paired([])


def test_nothing_to_choose_from_is_said() -> None:
    from gankd.sweep.gains import choose

    class Space:
        metric, mode = "s/m", "max"

    class Sweep:
        space = Space()

    with pytest.raises(UserError, match="none of the 1 trials finished: it broke"):
        choose(Sweep(), [TrialRecord("a", {}, "failed", reason="it broke")])  # type: ignore[arg-type]


def test_a_test_stage_measures_its_last_input_and_not_what_it_measures_with() -> None:
    transfer = find_method("cgan_transfer")
    assert transfer.tests_of("feature_classifier") == []
    assert [stage.name for stage in transfer.tests_of("ft")] == ["test_ft"]
    assert [stage.name for stage in find_method("cgan_kd").tests_of("student")] == ["test_student"]
