"""Where things lie in a drawing, in pixels of its own: the template only writes them down."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from gankd.page.elements import Curves, Dots, Values

COLOURS = 8  # classes c0 ... c7 of the style sheet; further names get them again, dashed
NAME_CHARS = 62
POINTS = 200  # of a line


@dataclass(frozen=True)
class Axis:
    """From values to pixels: `low` lies at `start`, `high` at `end`. `whole`: of values that are counts."""

    low: float
    high: float
    start: float
    end: float
    whole: bool = False

    def at(self, value: float) -> float:
        """The place of a value, to a tenth of a pixel."""
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of round values, two to seven."""
        rough = (self.high - self.low) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        step = max(step, 1.0) if self.whole else step
        digits = max(0, -math.floor(math.log10(step)))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self.at(n * step), f"{n * step:,.{digits}f}") for n in range(first, last + 1)]


def axis(values: Iterable[float], start: float, end: float, *, margin: float = 0.06, whole: bool = False) -> Axis:
    """An axis that holds the finite values, with a margin (a share of its length) at either end."""
    there = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(there), max(there)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) * 0.01 or 0.5), high + (abs(high) * 0.01 or 0.5)
    more = (high - low) * margin
    return Axis(low - more, high + more, start, end, whole)


@dataclass(frozen=True)
class DotRow:
    """A row of `Dots`: the height of its middle, and the places of all that is drawn on it."""

    y: float
    name: str
    shown: str
    values: list[float]
    mean: float | None
    differences: list[float]
    interval: tuple[float, float, float] | None
    better: str


@dataclass(frozen=True)
class DrawnDots:
    """A drawing of `Dots`. `zero`: the place of no difference; None without differences."""

    width: int
    height: int
    left: Axis
    right: Axis | None
    zero: float | None
    rows: list[DotRow]

    WIDTH, NAMES, ROW, TOP, BOTTOM = 924, 400, 26, 8, 44


def draw_dots(dots: Dots) -> DrawnDots:
    """Values in the left half; where some row has differences, these in the right one."""
    sizes, compared = DrawnDots, any(row.differences for row in dots.rows)
    middle = (sizes.NAMES + sizes.WIDTH) / 2 if compared else sizes.WIDTH
    left = axis((value for row in dots.rows for value in row.values), sizes.NAMES + 8, middle - 16)
    right = None
    if compared:
        spread = [0.0, *(d for row in dots.rows for d in (*row.differences, *(row.interval or ())))]
        right = axis(spread, middle + 16, sizes.WIDTH - 8)
    rows = [_dot_row(row, sizes.TOP + (place + 0.5) * sizes.ROW, left, right) for place, row in enumerate(dots.rows)]
    height = sizes.TOP + len(rows) * sizes.ROW + sizes.BOTTOM
    return DrawnDots(sizes.WIDTH, height, left, right, right.at(0.0) if right else None, rows)


def _dot_row(row: Values, y: float, left: Axis, right: Axis | None) -> DotRow:
    values = [value for value in row.values if math.isfinite(value)]
    interval = row.interval if row.interval and all(map(math.isfinite, row.interval)) else None
    better = "" if interval is None else "better" if interval[1] > 0 else "worse" if interval[2] < 0 else ""
    return DotRow(
        y=y,
        name=row.name,
        shown=_shortened(row.name),
        values=[left.at(value) for value in values],
        mean=left.at(fmean(values)) if values else None,
        differences=[right.at(value) for value in row.differences] if right else [],
        interval=(right.at(interval[0]), right.at(interval[1]), right.at(interval[2])) if right and interval else None,
        better=better,
    )


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_CHARS else f"{name[: NAME_CHARS - 1]}…"


@dataclass(frozen=True)
class DrawnLine:
    """A line with the classes of its colour; `points` as SVG's polyline takes them, `ends` the places of its points."""

    name: str
    style: str
    points: str
    places: list[tuple[float, float]]


@dataclass(frozen=True)
class DrawnCurves:
    """A drawing of `Curves`. `legend`: name -> classes, in order."""

    width: int
    height: int
    x: Axis
    y: Axis
    lines: list[DrawnLine]
    legend: dict[str, str]

    WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 360, 210, 52, 10, 10, 24


def draw_curves(curves: Curves) -> DrawnCurves:
    """All lines, each with its points where these are few."""
    sizes = DrawnCurves
    points = [point for line in curves.lines for point in line.points]
    x = axis((step for step, _ in points), sizes.LEFT, sizes.WIDTH - sizes.RIGHT, margin=0.02, whole=True)
    y = axis((value for _, value in points), sizes.HEIGHT - sizes.BOTTOM, sizes.TOP)
    there = [line.name for line in curves.lines]
    legend = _legend([*curves.names, *there], there)
    lines = []
    for line in curves.lines:
        places = thinned([(x.at(step), y.at(value)) for step, value in line.points if math.isfinite(value)])
        drawn = " ".join(f"{across},{down}" for across, down in places)
        lines.append(DrawnLine(line.name, legend[line.name], drawn, places if len(places) <= 12 else []))
    return DrawnCurves(sizes.WIDTH, sizes.HEIGHT, x, y, lines, legend)


def thinned(places: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Evenly taken points where there are more than a drawing has pixels for, the last one among them."""
    return places[:: -(-len(places) // POINTS)] + places[-1:] if len(places) > POINTS else places


def _legend(names: Sequence[str], there: Collection[str]) -> dict[str, str]:
    """Name -> classes of the style sheet, of those that are there; what is first among all names keeps the first colour."""
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return {name: f"c{n % COLOURS}{' dashed' if n // COLOURS % 2 else ''}" for name, n in places.items() if name in there}
