"""The points of its space that a sweep tries, drawn by Ray Tune's own samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Float, Integer
from ray.tune.search.variant_generator import generate_variants

from gankd.config import digest
from gankd.sweep.plan import Sweep, trial_name

Point = dict[str, Any]  # knob -> value
# Drawn at a time, whatever the number of trials: the points of a sweep are the first ones of any longer sweep.
BLOCK = 1024
# Draws without a new point, a part fixed and a part for each point found, after which a space is taken to hold no more.
PATIENCE, PATIENCE_PER_POINT = 1000, 20
LISTED = 1_000_000  # more values than this of one knob are as good as a continuous range


def draw_points(sweep: Sweep) -> dict[str, Point]:
    """Trial -> knobs of all trials, the preset's own first, drawn with the run's seed: the same command asks for the same.

    A grid in the space multiplies the number of trials, as in Ray Tune. Equal points are one trial.
    """
    draw, wanted = _drawing(sweep), trials_possible(sweep)
    first = sweep.space.preset_point(sweep.tree)
    points, fruitless = {trial_name(first): first}, 0
    while len(points) < wanted and fruitless < PATIENCE + PATIENCE_PER_POINT * len(points):
        before, drawn = len(points), draw()
        for point in drawn:
            points.setdefault(trial_name(point), point)
        fruitless = fruitless + len(drawn) if len(points) == before else 0
    return dict(list(points.items())[:wanted])


def trials_asked(sweep: Sweep) -> int:
    """The number of trials that the request comes to in this space, if there are as many points."""
    grids = [sampler["grid_search"] for sampler in sweep.space.samplers.values() if isinstance(sampler, Mapping)]
    return sweep.request.trials * math.prod(map(len, grids))


def trials_possible(sweep: Sweep) -> int:
    """The trials that are asked for, or as many as there are different points."""
    asked, there = trials_asked(sweep), different_points(sweep)
    return asked if there is None else min(asked, there)


def different_points(sweep: Sweep) -> int | None:
    """How many points the space holds, with the preset's own; None where a knob takes any number of values."""
    preset, count, outside = sweep.space.preset_point(sweep.tree), 1, False
    for knob, sampler in sweep.space.samplers.items():
        values = _values(sampler)
        if values is None:
            return None
        count, outside = count * len(values), outside or preset[knob] not in values
    return count + outside


def _values(sampler: Any) -> Sequence[Any] | None:
    """All values that a sampler gives; None where they are too many, or nobody knows."""
    if isinstance(sampler, Mapping | Categorical):
        listed = sampler["grid_search"] if isinstance(sampler, Mapping) else sampler.categories
        return list({digest(value): value for value in listed}.values())
    if not isinstance(sampler, Integer | Float):
        return None
    step = getattr(sampler.get_sampler(), "q", None)
    if isinstance(sampler, Integer):
        low, high = int(sampler.lower), int(sampler.upper)
        # Ray leaves out the end of a range of integers, but not where its steps are longer than 1.
        whole = range(low, high) if step in (None, 1) else range(-(-low // step) * step, high + 1, step)
        return whole if len(whole) <= LISTED else None
    if step and (sampler.upper - sampler.lower) / step <= LISTED:
        steps = np.arange(round(sampler.lower / step), round(sampler.upper / step) + 1)
        return [float(value) for value in steps * step]
    return None


def _drawing(sweep: Sweep) -> Callable[[], list[Point]]:
    """What gives the next points: a block of them where every knob is drawn for itself, else one (or one grid) of Ray's."""
    random, samplers = np.random.RandomState(sweep.config.seed), dict(sweep.space.samplers)
    if any(not isinstance(sampler, Categorical | Float | Integer) or sampler.is_grid() for sampler in samplers.values()):
        return lambda: [
            {knob: _plain(value) for knob, value in point.items()}
            for _, point in generate_variants(samplers, random_state=random)
        ]

    def block() -> list[Point]:
        columns = [_plain_column(sampler.sample(size=BLOCK, random_state=random)) for sampler in samplers.values()]
        return [dict(zip(samplers, values)) for values in zip(*columns)]

    return block


def _plain_column(values: Any) -> list[Any]:
    """An array, or a list in which few or no values are numpy's, as a list of Python's own."""
    if isinstance(values, np.ndarray):
        column: list[Any] = values.tolist()
        return column
    return [_plain(value) for value in values] if any(hasattr(kind, "item") for kind in set(map(type, values))) else values


def _plain(value: Any) -> Any:
    """A value as Python's own, where it is numpy's."""
    return value.item() if hasattr(value, "item") else value
