"""How tables print numbers: enough digits for accuracies in percent and for labels in [-1, 1]."""

import math

import pytest

from gankd.metrics.paired import paired
from gankd.sweep.figures import figure, interval, mean_and_deviation, verdict


@pytest.mark.parametrize(
    ("value", "shown"),
    [(91.666, "91.67"), (8.357, "8.36"), (0.6512, "0.651"), (0.04312, "0.0431"),
     (-1e-4, "-0.000100"), (0.0, "0.00"), (1e-9, "0.000000")],
)  # fmt: skip
def test_a_value_has_three_digits_that_count(value: float, shown: str) -> None:
    assert figure(value) == shown


def test_a_gain_shows_its_sign() -> None:
    assert [figure(value, "+") for value in (4.671, -0.0312, 0.0)] == ["+4.67", "-0.0312", "+0.00"]


def test_what_is_not_there_is_empty_and_what_is_no_number_says_so() -> None:
    assert [figure(None), figure(math.nan), figure(math.inf)] == ["", "nan", "inf"]


def test_a_deviation_that_two_decimals_would_hide_has_two_digits() -> None:
    assert mean_and_deviation([91.2, 92.4, 90.1]) == "91.23 ± 1.15"
    assert mean_and_deviation([0.0431, 0.0452, 0.0419]) == "0.0434 ± 0.0017"
    assert mean_and_deviation([91.2, 91.2]) == "91.20 ± 0.00"
    assert [mean_and_deviation([0.0431]), mean_and_deviation([])] == ["0.0431", ""]


def test_an_interval_is_as_fine_as_it_is_wide() -> None:
    assert interval(paired([4.1, 5.2, 4.6])).startswith("+4.63 [+3.")
    assert interval(paired([0.0012, 0.0031, 0.0019])) == "+0.0021 [-0.0003, +0.0045]"
    assert interval(paired([-0.001, 0.00099])) == "+0.00 [-0.01, +0.01]"  # no minus before nothing
    assert interval(paired([2.5])) == "+2.50"


def test_a_verdict() -> None:
    assert [verdict(paired(values)) for values in ([1.0, 1.1, 0.9], [-1.0, -1.1, -0.9], [1.0, -1.0])] == [
        "better",
        "worse",
        "not distinguishable",
    ]
    assert verdict(paired([1.0, 1.1, 0.9]), among=4) == "better alone, not among 4"
    assert verdict(paired([1.0, -1.0]), among=4) == "not distinguishable"
