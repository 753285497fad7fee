"""The comparison of methods: the best sweep of each, sorted in the metric's direction, marked where rows do not compare."""

import io
from typing import Any

import pytest
from rich.console import Console

from gankd.commands.compare import STUDENT, best_of_each_method, side_by_side, side_by_side_of
from gankd.sweep.comparable import comparable_groups
from gankd.tracking.sweeps import FinishedSweep

FACTS = {"metric": "val_accuracy", "data": "d1", "network": {"name": "small_cnn", "width": 3}}


def sweep(name: str, method: str = "rgal", value: float = 0.0, metric: str = "val_accuracy", **facts: Any) -> FinishedSweep:
    depends = {**FACTS, "metric": metric, **facts}
    metrics = {"objective": value, "val/student": value}
    return FinishedSweep(method, name, name, f"student/{metric}", metrics, {"objective": depends, "student": depends})


def shown(sweeps: list[FinishedSweep]) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(side_by_side("students", "student", "val/student", STUDENT, sweeps))
    return console.file.getvalue()  # type: ignore[attr-defined]


def order(text: str, *names: str) -> list[str]:
    return sorted(names, key=text.index)


def test_the_best_sweep_of_each_method_is_shown_and_the_newest_of_equals() -> None:
    newest_first = [sweep("c", value=80.0), sweep("b", value=90.0), sweep("a", value=90.0), sweep("x", "cgan_kd", 70.0)]
    assert [found.name for found in best_of_each_method(newest_first)] == ["b", "x"]


def test_less_is_better_for_an_error() -> None:
    sweeps = [sweep("big", value=9.0, metric="val_mae"), sweep("small", value=2.0, metric="val_mae")]
    assert [found.name for found in best_of_each_method(sweeps)] == ["small"]
    rows = [sweep("big", "one", 9.0, "val_mae"), sweep("small", "two", 2.0, "val_mae")]
    assert order(shown(rows), "big", "small") == ["small", "big"]
    rows = [sweep("low", "one", 2.0), sweep("high", "two", 9.0)]
    assert order(shown(rows), "low", "high") == ["high", "low"]


def test_a_better_number_of_other_data_does_not_displace_the_newest() -> None:
    sweeps = [sweep("new", value=50.0, data="d2"), sweep("old", value=90.0, data="d1")]
    assert [found.name for found in best_of_each_method(sweeps)] == ["new"]


@pytest.mark.parametrize(
    ("facts", "differs"),
    [({"data": "d2"}, "data"), ({"network": {"name": "small_cnn", "width": 12}}, "network"), ({"extractor": "c@2"}, "extractor")],
)
def test_rows_that_do_not_compare_are_marked(facts: dict[str, Any], differs: str) -> None:
    rows = [sweep("one", "one", 1.0), sweep("two", "two", 2.0, **facts), sweep("three", "three", 3.0)]
    letters, notes = comparable_groups([row.facts["student"] for row in rows])
    assert letters == ["a", "b", "a"]
    assert notes == [f"Only rows of the same letter compare; they differ in: {differs}."]
    assert order(shown(rows), "one ", "two ", "three ") == ["three ", "one ", "two "]  # by letter first


def test_rows_that_compare_are_not_marked() -> None:
    assert comparable_groups([FACTS, dict(FACTS)]) == (["a", "a"], [])


def test_a_sweep_that_filled_a_table_does_not_displace_the_search_of_its_method() -> None:
    table = FinishedSweep("rgal", "newer", "newer", "student/val_accuracy", {"table/control/top-1": 99.0}, {})
    (grid,) = side_by_side_of("digits", [table, sweep("older", value=90.0)])
    assert [row[-1] for row in grid.rows] == ["older"]
    assert side_by_side_of("digits", [table]) == []


def test_what_names_say_is_text_and_no_markup() -> None:
    assert "[red]x[/red]" in shown([sweep("[red]x[/red]")])
