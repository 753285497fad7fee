"""Which trial Ray Tune begins next, and how many run at once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune.search import ConcurrencyLimiter, Searcher

from gankd.sweep.extent import holds
from gankd.sweep.nodes import Nodes, concurrency, nodes_of_ray
from gankd.sweep.plan import Sweep, trial_name
from gankd.sweep.points import Point
from gankd.sweep.records import TrialRecord
from gankd.sweep.request import Resources
from gankd.sweep.space import Space

LOOK_S = 5.0  # between looks at the nodes that there are


class Listed(Searcher):
    """Gives Tune the points of a list, one after the other, then those of another searcher, if there is one.

    Tune's own BasicVariantGenerator takes a list too, but copies the whole space for each of its points before the first starts.
    """

    def __init__(self, points: list[Point], then: Searcher | None = None) -> None:
        super().__init__()
        self.left, self.then = deque(points), then
        self._own: set[str] = set()

    def suggest(self, trial_id: str) -> Point | None:
        if self.left:
            self._own.add(trial_id)
            return self.left.popleft()
        return self.then.suggest(trial_id) if self.then else None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """The other one hears of what it has suggested."""
        if self.then and trial_id not in self._own:
            self.then.on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing is learned from a point of the list: the space may not hold it."""
        if self.then and trial_id not in self._own:
            self.then.on_trial_complete(trial_id, result, error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing is kept: a resumed sweep goes by its records."""


class AsManyAsFit(ConcurrencyLimiter):
    """Lets as many trials run at once as fit on the nodes, those that have joined since included."""

    def __init__(self, searcher: Searcher, need: Resources, nodes: Nodes, look: Callable[[], Nodes] = nodes_of_ray) -> None:
        super().__init__(searcher, max_concurrent=concurrency(need, nodes))
        self.need, self.look, self.looked = need, look, time.monotonic()

    def suggest(self, trial_id: str) -> Point | None:
        if len(self.live_trials) >= self.max_concurrent and time.monotonic() - self.looked > LOOK_S:
            self.max_concurrent, self.looked = concurrency(self.need, self.look()), time.monotonic()
        point: Point | None = super().suggest(trial_id)
        return point


def searcher(sweep: Sweep, missing: list[Point], ended: Mapping[str, TrialRecord]) -> Searcher:
    """The missing points first; with Optuna then what it draws, told of what has ended."""
    if sweep.request.search == "random":
        return Listed(missing)
    from ray.tune.search.optuna import OptunaSearch

    space, preset = sweep.space, sweep.space.preset_point(sweep.tree)
    rewarded = [record for record in ended.values() if math.isfinite(record.metrics.get(space.metric, math.nan))]
    known = [record for record in rewarded if _within(space, record.knobs)]
    # Optuna takes no point outside its space; the preset is tried wherever it lies.
    lost = [record.knobs for record in sweep.records.trials() if record.ended() and record.trial not in ended]
    untried = [] if trial_name(preset) in ended or preset in lost else [preset]
    told = untried if not known and _within(space, preset) else [record.knobs for record in known]
    search = OptunaSearch(
        space=OptunaSearch.convert_search_space(dict(space.samplers)),
        metric=space.metric,
        mode=space.mode,
        points_to_evaluate=told or None,
        evaluated_rewards=[record.metrics[space.metric] for record in known] or None,
        seed=sweep.config.seed,
    )
    return Listed([*lost, *(point for point in untried if point not in told)], search)


def _within(space: Space, knobs: Mapping[str, Any]) -> bool:
    return all(holds(sampler, knobs[knob]) for knob, sampler in space.samplers.items())
