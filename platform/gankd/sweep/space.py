"""Search spaces: dotted knobs mapped to Ray Tune's own samplers, checked against the config before anything starts."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gankd.config import MethodConfig, build_config, knobs, nearest, value_of, with_knobs
from gankd.errors import UserError
from gankd.method import Method


@dataclass(frozen=True)
class Space:
    """What a sweep varies (knob -> sampler, or {"grid_search": [...]}) and what it compares trials by."""

    samplers: Mapping[str, Any]
    metric: str
    mode: str
    source: str

    def preset_point(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The searched knobs at the values they have in `config`: trial 0."""
        return {knob: value_of(config, knob) for knob in self.samplers}


def load_space(method: Method, path: str | None) -> Space:
    """The space of `path` (a Python file), or the method's own. Raises UserError for a file that holds no usable SPACE."""
    module = _module_of_file(path) if path else importlib.import_module(method.space)
    source = path or method.space
    samplers = getattr(module, "SPACE", None)
    if not isinstance(samplers, Mapping) or not samplers:
        raise UserError(f"{source} must define SPACE, a non-empty mapping from knobs to ray.tune samplers")
    mode = getattr(module, "MODE", method.mode)
    if mode not in ("max", "min"):
        raise UserError(f"MODE in {source} must be 'max' or 'min', not {mode!r}")
    return Space(dict(samplers), getattr(module, "METRIC", method.objective), mode, source)


def _module_of_file(path: str) -> ModuleType:
    file = Path(path)
    if file.suffix != ".py" or not file.is_file():
        raise UserError(f"--space takes a Python file that defines SPACE; {path!r} is not one")
    module = ModuleType(f"gankd_space_{file.stem}")
    module.__file__ = path
    try:
        # Not by import: its cached bytecode counts as fresh for a file of the same size edited within the same second.
        exec(compile(file.read_bytes(), path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:  # the user's own code may fail in any way; say how, without a traceback
        raise UserError(f"--space file {path!r} fails: {type(error).__name__}: {error}") from None
    return module


def check_space(space: Space, method: Method, tree: Mapping[str, Any]) -> list[MethodConfig]:
    """Refuse unknown knobs, empty choices, and any bound or choice that the config would not take; the configs tried."""
    known, tried = knobs(method.config), []
    for name, sampler in space.samplers.items():
        if name not in known:
            raise UserError(f"unknown knob {name!r} in {space.source}{nearest(str(name), known)}")
        for value in _extremes(name, sampler, space.source):
            tried.append(build_config(method.config, with_knobs(tree, {name: value}), source=f"{space.source}, {name}"))
    if str(space.metric).partition("/")[0] not in {stage.name for stage in method.stages}:
        stages = ", ".join(stage.name for stage in method.stages)
        raise UserError(f"METRIC {space.metric!r} in {space.source} must be <stage>/<metric>; stages: {stages}")
    return tried


def largest(sampler: Any) -> Any:
    """The largest value a sampler can give; None where that is not a number."""
    values = _extremes("", sampler, "")
    return max(values) if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values) else None


def _extremes(name: str, sampler: Any, source: str) -> list[Any]:
    """The values that tell whether the whole range is allowed: all choices, or both ends."""
    if isinstance(sampler, Mapping) and isinstance(sampler.get("grid_search"), list | tuple):
        choices = list(sampler["grid_search"])
    elif hasattr(sampler, "categories"):
        choices = list(sampler.categories)
    elif hasattr(sampler, "lower") and hasattr(sampler, "upper"):
        upper = sampler.upper - 1 if type(sampler).__name__ == "Integer" else sampler.upper  # an Integer's end is excluded
        return [value for value in (sampler.lower, upper) if value not in (float("inf"), float("-inf"))]
    elif hasattr(sampler, "sample"):
        return [sampler.sample()]
    else:
        raise UserError(f"{name!r} in {source} must be a ray.tune sampler (tune.choice, tune.uniform, ...), not {sampler!r}")
    if not choices:
        raise UserError(f"the choice for {name!r} in {source} is empty; give at least one value")
    return choices
