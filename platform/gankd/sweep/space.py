"""Search spaces: dotted knobs mapped to Ray Tune's own samplers, checked against the config before anything starts."""

from __future__ import annotations

import ast
import importlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gankd.code import source_of
from gankd.config import MethodConfig, build_config, digest, knobs, nearest, value_of, with_knobs
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.method import Method, Stage
from gankd.metrics.directions import direction
from gankd.paths import is_file, read_text
from gankd.sweep.table import TableSpec
from gankd.text import alternatives, shortened

TRIES = 100  # draws by which a sampler without bounds is checked


@dataclass(frozen=True)
class Space:
    """What a sweep varies (knob -> sampler, or {"grid_search": [...]}) and what it compares trials by.

    `source` names the file or module, `digest` stands for its code.
    """

    samplers: Mapping[str, Any]
    metric: str
    mode: str
    source: str
    digest: str

    @property
    def cells(self) -> int:
        """The number of points of its grid, 1 without one."""
        return math.prod(len(sampler["grid_search"]) for sampler in self.samplers.values() if isinstance(sampler, Mapping))

    def preset_point(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The searched knobs at the values they have in `config`: trial 0."""
        return {knob: value_of(config, knob) for knob in self.samplers}


def load_space(method: Method, path: str | None, config: MethodConfig) -> Space:
    """The space of `path` (a Python file), or the method's own, for a preset's `config`.

    SPACE is a mapping; where choices follow from a preset's own values, a function `space(config)` returns it. Raises
    UserError for a file that holds no usable one.
    """
    source = path or method.space
    text = _source_of_file(path) if path else source_of(method.space)
    module = _module_of_file(path, text or "") if path else importlib.import_module(method.space)
    make = getattr(module, "space", None)
    samplers = _guarded(lambda: make(config), source) if callable(make) else getattr(module, "SPACE", None)
    if not isinstance(samplers, Mapping) or not samplers:
        raise UserError(
            f"{source} must define SPACE, a non-empty mapping from knobs to ray.tune samplers, or space(config) that returns one"
        )
    metric = getattr(module, "METRIC", method.objective)
    way = direction(str(metric))
    mode = getattr(module, "MODE", way or method.mode)
    if mode not in ("max", "min") or (way and mode != way):
        allowed = f"{way!r}, as {metric} is better that way" if way else "'max' or 'min'"
        raise UserError(f"MODE in {source} must be {allowed}, not {shortened(mode)}")
    known = knobs(method.config)
    samplers = {knob: _as_declared(known[knob].annotation, each) if knob in known else each for knob, each in samplers.items()}
    return Space(samplers, metric, mode, source, digest(ast.dump(ast.parse(text or ""))))


def space_of_table(method: Method, table: TableSpec, source: str) -> Space:
    """What the rows of a table vary, as a space: by it follows what they share."""
    samplers = {knob: {"grid_search": values} for knob, values in table.values_by_knob().items()}
    way = direction(method.objective) or method.mode
    return Space(samplers, method.objective, way, source, table.digest)


def _as_declared(kind: Any, sampler: Any) -> Any:
    """A choice with its values as the knob's type has them: 2 and 2.0 are one point of a fractional knob."""
    kinds = alternatives(kind)

    def plain(value: Any) -> Any:
        if float in kinds and int not in kinds and type(value) is int:
            return float(value)
        return bool(value) if bool in kinds and type(value) is int and value in (0, 1) else value

    if isinstance(sampler, Mapping) and isinstance(sampler.get("grid_search"), list | tuple):
        return {"grid_search": [plain(value) for value in sampler["grid_search"]]}
    if isinstance(getattr(sampler, "categories", None), list | tuple):
        sampler = copy(sampler)
        sampler.categories = [plain(value) for value in sampler.categories]
    return sampler


def _source_of_file(path: str) -> str:
    file = Path(path)
    if file.suffix != ".py" or not is_file(file):
        raise UserError(f"--space takes a Python file that defines SPACE; {shortened(path)} is not one")
    return read_text(file, "--space file")


def _module_of_file(path: str, text: str) -> ModuleType:
    module = ModuleType(f"gankd_space_{Path(path).stem}")
    module.__file__ = path
    # Not by import: its cached bytecode counts as fresh for a file of the same size edited within the same second.
    _guarded(lambda: exec(compile(text, path, "exec"), module.__dict__), path)
    return module


def _guarded(work: Callable[[], Any], source: str) -> Any:
    """The user's own code may fail in any way; how is said without a traceback."""
    try:
        return work()
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"the space {source!r} fails: {type(error).__name__}: {error}") from None


def check_space(space: Space, method: Method, tree: Mapping[str, Any]) -> list[MethodConfig]:
    """Refuse unknown knobs, empty choices, and any bound or choice that the config would not take; the configs tried."""
    known, tried = knobs(method.config), []
    for name in space.samplers:
        if name not in known:
            raise UserError(f"unknown knob {shortened(name)} in {space.source}{nearest(str(name), known)}")
        for value in _guarded(partial(_extremes, name, space), f"{space.source}, {name}"):
            tried.append(build_config(method.config, with_knobs(tree, {name: value}), source=f"{space.source}, {name}"))
    return tried


def check_metric(space: Space, method: Method, config: MethodConfig, data: DataSet) -> None:
    """Refuse an objective that no stage reports, or that is measured on the test part."""
    name, _, metric = str(space.metric).partition("/")
    stage = next((stage for stage in method.stages if stage.name == name), None)
    if stage is None or not metric:
        stages = ", ".join(stage.name for stage in method.made_always())
        raise UserError(f"METRIC {shortened(space.metric)} in {space.source} must be <stage>/<metric>; stages: {stages}")
    if stage.test:
        raise UserError(f"METRIC {space.metric!r} in {space.source} reads the test part; trials are compared on validation")
    if space.metric == method.objective:
        return
    check_reported(stage, metric, config, data, f"METRIC {space.metric!r} in {space.source}")


def check_table_metrics(table: TableSpec, method: Method, rows: Sequence[MethodConfig], data: DataSet) -> None:
    """Refuse a column that a row's stage does not report."""
    for row, config in zip(table.rows, rows, strict=True):
        for heading, whole in table.metrics_of(row).items():
            name, _, metric = whole.partition("/")
            check_reported(method.stage(name), metric, config, data, f"{heading!r} of row {row.name!r} is {whole!r}")


def check_reported(stage: Stage, metric: str, config: MethodConfig, data: DataSet, what: str) -> None:
    """Refuse a metric that the stage does not report, where that is known beforehand."""
    if stage.metrics is None:
        return
    from gankd.stages.task import task_of  # imports torch, which the method's own objective needs not

    there = stage.reported(config, task_of(data).metric if data.classes or data.label_range else "")
    if metric not in there:
        raise UserError(
            f"{what}: stage {stage.name!r} reports no {metric!r}{nearest(metric, there)} "
            f"(it reports {', '.join(sorted(there)) or 'none'})"
        )


def check_search(space: Space) -> None:
    """Refuse what Optuna cannot draw."""
    from ray.tune.search.optuna import OptunaSearch

    for name, sampler in space.samplers.items():
        try:
            if isinstance(sampler, Mapping):
                raise ValueError("a grid is walked, not drawn")
            OptunaSearch.convert_search_space({name: sampler})
        except (ValueError, TypeError, NotImplementedError) as error:
            raise UserError(
                f"--search optuna cannot draw {name!r} of {space.source} ({' '.join(str(error).split())[:200]}): use choice, "
                "uniform, loguniform, randint or their q forms, or --search random"
            ) from None


def largest(name: str, space: Space) -> Any:
    """The largest value that a knob can be given; None where that is not a number."""
    values = _extremes(name, space)
    return max(values) if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) else None


def _extremes(name: str, space: Space) -> list[Any]:
    """The values that tell whether the whole range is allowed: all choices, both ends, or for what has no ends some draws."""
    sampler, source = space.samplers[name], space.source
    if isinstance(sampler, Mapping) and isinstance(sampler.get("grid_search"), list | tuple):
        choices = list(sampler["grid_search"])
    elif hasattr(sampler, "categories"):
        choices = list(sampler.categories)
    elif hasattr(sampler, "lower") and hasattr(sampler, "upper") and math.isfinite(sampler.upper - sampler.lower):
        whole = type(sampler).__name__ == "Integer"
        if sampler.lower > sampler.upper or (whole and sampler.lower == sampler.upper):
            raise UserError(f"the range of {name!r} in {source} is {sampler.lower} to {sampler.upper}; the lower end comes first")
        step = getattr(sampler.get_sampler(), "q", None)
        if step is not None and not (step > 0 and (not whole or step == int(step))):
            raise UserError(
                f"the step of {name!r} in {source} cannot be {step}: {'a whole number' if whole else 'a number'} above 0"
            )
        choices = [sampler.lower, sampler.upper - 1 if whole else sampler.upper]  # an Integer's end is excluded
    elif hasattr(sampler, "sample"):
        choices = [variant[name] for variant in itertools.islice(variants(space), TRIES)]
    else:
        raise UserError(
            f"{name!r} in {source} must be a ray.tune sampler (tune.choice, tune.uniform, ...), not {shortened(sampler)}"
        )
    if not choices:
        raise UserError(f"the choice for {name!r} in {source} is empty; give at least one value")
    return choices


def variants(space: Space, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Points as Ray Tune draws them, where knobs depend on each other, without end.

    Functions of the user's (`sample_from`) draw from the global generators, which are seeded: the same command asks for the same.
    """
    import numpy as np
    from ray.tune.search.variant_generator import generate_variants

    state = np.random.RandomState(seed)
    random.seed(seed)
    np.random.seed(seed)
    while True:
        drawn = _guarded(lambda: list(generate_variants(dict(space.samplers), random_state=state)), space.source)
        for _, point in drawn:
            yield {name: value.item() if hasattr(value, "item") else value for name, value in point.items()}
