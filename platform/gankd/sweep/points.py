"""The points of its space that a sweep tries, drawn by Ray Tune's own samplers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Float, Integer

from gankd.sweep.plan import Sweep, trial_name
from gankd.sweep.space import variants

Point = dict[str, Any]  # knob -> value
# Drawn at a time, whatever the number of trials: the points of a sweep are the first ones of any longer sweep.
BLOCK = 1024
# Draws without a new point, a part fixed and a part for each point found, after which a space is taken to hold no more.
PATIENCE, PATIENCE_PER_POINT = 1000, 20


def draw_points(sweep: Sweep) -> dict[str, Point]:
    """Trial -> knobs of all trials, the preset's own first, drawn with the run's seed: the same command asks for the same.

    Equal points are one trial.
    """
    draw, wanted = _drawing(sweep), sweep.trials
    first = sweep.space.preset_point(sweep.tree)
    points, fruitless = {trial_name(first): first}, 0
    while len(points) < wanted and fruitless < PATIENCE + PATIENCE_PER_POINT * len(points):
        before, drawn = len(points), draw()
        for point in drawn:
            points.setdefault(trial_name(point), point)
        fruitless = fruitless + len(drawn) if len(points) == before else 0
    return dict(list(points.items())[:wanted])


def _drawing(sweep: Sweep) -> Callable[[], list[Point]]:
    """What gives the next points: a block of them where every knob is drawn for itself, else one of Ray's.

    As in Ray, every point of a grid is given draws of its own.
    """
    samplers = sweep.space.samplers
    grids = {knob: sampler["grid_search"] for knob, sampler in samplers.items() if isinstance(sampler, Mapping)}
    drawn = {knob: sampler for knob, sampler in samplers.items() if knob not in grids}
    if any(not isinstance(sampler, Categorical | Float | Integer) or sampler.is_grid() for sampler in drawn.values()):
        points = variants(sweep.space, sweep.config.seed)
        return lambda: [next(points)]
    random, walk = np.random.RandomState(sweep.config.seed), itertools.cycle(itertools.product(*grids.values()))

    def block() -> list[Point]:
        columns = [_plain_column(sampler.sample(size=BLOCK, random_state=random)) for sampler in drawn.values()]
        cells = itertools.islice(walk, BLOCK) if grids else itertools.repeat((), BLOCK)
        rows = zip(*columns, strict=True) if columns else itertools.repeat((), BLOCK)
        return [dict(zip((*grids, *drawn), (*cell, *row))) for cell, row in zip(cells, rows)]

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
