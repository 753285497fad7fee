"""Numbers as tables print them: two decimals, and more for what is small, so that labels in [-1, 1] have digits too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from gankd.metrics.paired import Paired

LEAST, MOST = 2, 6  # decimals
SMALL = 0.01  # a spread below this has no digits left at two decimals


def figure(value: float | None, sign: str = "") -> str:
    """One value with at least three digits that count, such as 91.67, 0.651 or 0.0431; `sign` "+" shows that of a gain.

    Empty for None.
    """
    return "" if value is None else _at(value, _decimals(value, 3), sign)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Over seeds; the value alone of one, empty for none."""
    if len(values) < 2:
        return figure(values[0]) if values else ""
    mean, deviation = fmean(values), stdev(values)
    places = _decimals_by_spread(deviation)
    return f"{_at(mean, places)} ± {_at(deviation, places)}"


def interval(p: Paired) -> str:
    """The mean difference and, of two seeds or more, its 95 % interval."""
    if p.count < 2:
        return figure(p.mean, "+")
    places = _decimals_by_spread((p.high - p.low) / 2)
    mean, low, high = (_at(value, places, "+") for value in (p.mean, p.low, p.high))
    return f"{mean} [{low}, {high}]"


def verdict(p: Paired, among: int = 1) -> str:
    """Whether a difference, positive where it is better, is more than luck; `among` so many of which it does not stand out."""
    if not p.distinguishable:
        return "not distinguishable"
    return ("better" if p.mean > 0 else "worse") + (f" alone, not among {among}" if among > 1 else "")


def _at(value: float, places: int, sign: str = "") -> str:
    return f"{round(value, places) + 0.0:{sign}.{places}f}"  # -0.0 + 0.0 is 0.0


def _decimals(value: float, digits: int) -> int:
    """So many that `digits` of them count."""
    if not math.isfinite(value) or value == 0:
        return LEAST
    return min(MOST, max(LEAST, digits - 1 - math.floor(math.log10(abs(value)))))


def _decimals_by_spread(spread: float) -> int:
    return _decimals(spread, 2) if spread < SMALL else LEAST
