"""Pages: everything is escaped, nothing outside is referred to, and drawings lie on their axes."""

from __future__ import annotations

import math

import pytest

from gankd.page import Curves, Dots, Facts, Grid, Line, Node, Picture, Pictures, Section, Tree, Values, as_html
from gankd.page.drawing import axis, draw_curves, draw_dots
from tests.browser import Elements

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"


def everything(text: str) -> Section:
    """A section with an element of every kind, in which every text is this one."""
    values = Values(text, (1.0, 2.0), (0.5, -0.25), (0.125, -0.5, 0.75))
    node = Node(text, text, shared=True, below=(Node(text, text),))
    return Section(
        text,
        (text,),
        (text,),
        (
            Grid(text, (text, text), ((text, text),), notes=(text,)),
            Dots(text, text, (values, Values(text, ())), text),
            Curves(text, (Line(text, ((0, 1.0), (1, 2.0))), Line(text + "2", ((0, 1.0), (5, math.nan))))),
            Pictures(text, (Picture(text, text),), text),
            Tree(text, (node,), text),
            Facts(text, ((text, text),)),
        ),
    )


def test_every_text_is_escaped_and_no_template() -> None:
    page = as_html(HOSTILE, [everything(HOSTILE)], HOSTILE)
    found = Elements(page)
    found.check_whole()
    assert HOSTILE in "".join(found.texts)  # as it was
    assert "<script" not in page
    assert {"table", "svg", "img", "details", "dl"} <= set(found.tags)


def test_a_page_forbids_scripts_and_requests_by_itself() -> None:
    found = Elements(as_html("empty", []))
    (policy,) = [value for name, value in found.attributes if name == "content" and "default-src" in value]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


def test_halves_of_characters_do_not_keep_a_page_from_being_written() -> None:
    as_html("name \udcff", []).encode()


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 1.0], ["0.0", "0.5", "1.0"]),
        ([86.2, 91.7], ["86", "88", "90", "92"]),
        ([0, 30000], ["0", "10,000", "20,000", "30,000"]),
        ([0.00012, 0.00019], ["0.00012", "0.00014", "0.00016", "0.00018"]),
        ([5.0], ["4.95", "5.00", "5.05"]),
        ([0.0, 0.0], ["-0.5", "0.0", "0.5"]),
        ([], ["-0.5", "0.0", "0.5"]),
        ([math.nan, 1.0, 2.0, math.inf], ["1.0", "1.5", "2.0"]),
    ],
)
def test_axes_hold_what_is_finite_and_have_round_ticks(values: list[float], texts: list[str]) -> None:
    found = axis(values, 10, 110)
    assert set(texts) <= {text for _, text in found.ticks}
    assert 2 <= len(found.ticks) <= 8
    assert all(10 <= place <= 110 for place, _ in found.ticks)
    assert all(10 <= found.at(value) <= 110 for value in values if math.isfinite(value))


def test_steps_are_whole() -> None:
    assert [text for _, text in axis([1, 2], 0, 100, whole=True).ticks] == ["1", "2"]


def dots() -> Dots:
    rows = (Values("control", (1.0, 2.0, 3.0)), Values("method", (2.0, 3.5, 4.0), (1.0, 1.5, 1.0), (1.17, 0.45, 1.88)))
    return Dots("top-1", "top-1", rows, "difference")


def test_dots_have_their_mean_and_the_interval_its_zero_line() -> None:
    drawn = draw_dots(dots())
    control, method = drawn.rows
    assert control.values == sorted(control.values)
    assert control.mean == control.values[1]
    assert (control.interval, control.differences) == (None, [])
    assert drawn.zero is not None
    assert method.interval is not None
    assert drawn.zero < method.interval[1] < method.interval[0] < method.interval[2]
    assert method.better == "better"
    assert max(*control.values, *method.values) < drawn.zero  # the halves do not meet


def test_dots_without_differences_have_no_zero_line() -> None:
    drawn = draw_dots(Dots("top-1", "top-1", (Values("one", (1.0,)), Values("none", ()))))
    assert (drawn.zero, drawn.right) == (None, None)
    assert drawn.rows[1].mean is None
    single = Values("one", (1.0,), (0.5,), (0.5, math.nan, math.nan))  # of one seed there is no interval
    assert draw_dots(Dots("top-1", "top-1", (single,))).rows[0].interval is None


def test_a_name_keeps_its_colour_from_drawing_to_drawing() -> None:
    names = tuple(f"row {number}" for number in range(10))
    line = Line("row 9", ((0, 1.0), (10, 2.0)))
    first = draw_curves(Curves("a", tuple(Line(name, line.points) for name in names), names))
    second = draw_curves(Curves("b", (line, line), names))
    assert second.legend == {"row 9": first.legend["row 9"]} == {"row 9": "c1 dashed"}
    assert first.lines[0].points.count(",") == 2
