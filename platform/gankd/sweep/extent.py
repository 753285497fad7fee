"""How much a search space holds: the number of its points, and whether a value is among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.search.sample import Categorical, Float, Integer

from gankd.config import digest
from gankd.sweep.space import Space

LISTED = 1_000_000  # more values than this of one knob are as good as a continuous range


def different_points(space: Space, tree: Mapping[str, Any]) -> int | None:
    """How many points the space holds, with that of a preset's config `tree`; None where a knob takes any number of values."""
    preset, count, outside = space.preset_point(tree), 1, False
    for knob, sampler in space.samplers.items():
        values = _values(sampler)
        if values is None:
            return None
        count, outside = count * len(values), outside or preset[knob] not in values
    return count + outside


def holds(sampler: Any, value: Any) -> bool:
    """Whether a sampler can give a value."""
    if isinstance(sampler, Integer | Float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        steps = (value - sampler.lower) / (getattr(sampler.get_sampler(), "q", None) or 1)
        on_step = (isinstance(sampler, Float) and not hasattr(sampler.get_sampler(), "q")) or abs(steps - round(steps)) < 1e-6
        return bool(on_step and sampler.lower <= value <= sampler.upper - isinstance(sampler, Integer))
    return isinstance(sampler, Categorical) and value in sampler.categories


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
