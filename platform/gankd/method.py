"""The vocabulary: a `Method` is a pipeline of `Stage`s, and a stage makes one artifact.

One name serves everywhere: stage `student` = config section `student` = knob prefix `student.lr` = artifact `student`
= metrics `student/...`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankd.config import MethodConfig, Section


@dataclass(frozen=True)
class Stage:
    """One step of a method.

    Attributes:
        name: names the artifact, and the config section unless `section` says otherwise.
        run: "module:function", imported only in the process that trains. Called as `function(ctx, cfg, data, **reads,
            **inputs) -> dict[str, float]`; files it leaves in `ctx.out` are the artifact.
        needs: stages whose artifacts it reads, passed by these names.
        section: the config section it is given.
        reads: further config sections that it reads, passed by these names.
        ignores: fields of that section which it does not use. They are reset to their defaults before the stage sees
            them and before its key is made, so sweeping them leaves the stage alone.
        check: "module:function" called as `function(name, cfg, data, **reads)` before anything starts; raises UserError
            for what can be known to be wrong. It should not import torch.
        shares: knobs whose items all workers share evenly, such as a batch: of the section, or `<section>.<knob>`.
        version: raise it when the function's results change; the old artifacts are then no longer found.
    """

    name: str
    run: str
    inputs: tuple[str, ...] = ()
    section: str = ""
    sections: tuple[str, ...] = ()
    ignores: frozenset[str] = frozenset()
    check: str = ""
    shares: tuple[str, ...] = ()
    version: int = 1

    def config(self, config: MethodConfig) -> Section:
        """The section this stage sees."""
        section: Section = getattr(config, self.section or self.name)
        if not self.ignores:
            return section
        fields = type(section).model_fields
        return section.model_copy(update={name: fields[name].get_default() for name in self.ignores})

    def also(self, config: MethodConfig) -> dict[str, Section]:
        """The further sections that it reads, by name."""
        return {name: getattr(config, name) for name in self.sections}


def named(function: str) -> Callable[..., Any]:
    """The function that "module:function" names; imports the module."""
    module, _, attribute = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found


@dataclass(frozen=True)
class Method:
    """A published method: its stages in order, its knobs and presets, and what a sweep should look at.

    Attributes:
        objective: validation metric that Tune and the registry compare, `<stage>/<metric>`.
        mode: "max" or "min".
        progress: the stage whose evaluations are reported to Tune while it trains (for early stopping).
        horizon: `<section>.<knob>`, or a property of that section, that tells that stage's number of steps; larger knobs
            must not make it smaller.
        scored: stage -> "module:function" that measures its artifact on the test split, once, for the chosen trial.
        gain: (stage, control stage): the objective's gain is always shown beside its control.
        registered: role ("generator", "student") -> stage whose network goes into the model registry.
        generator_metric: (metric, mode) by which generators are compared in the registry.
        space: module that holds SPACE.
    """

    name: str
    title: str
    summary: str
    config: type[MethodConfig]
    stages: tuple[Stage, ...]
    presets: Path
    objective: str
    space: str
    mode: str = "max"
    watched: str = ""
    length: str = ""
    scored: Mapping[str, str] = field(default_factory=dict)
    gain: tuple[str, str] | None = None
    registered: Mapping[str, str] = field(default_factory=dict)
    generator_metric: tuple[str, str] | None = None

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def shared(self, knobs: Collection[str]) -> list[Stage]:
        """The shared stages: stages that no knob in `knobs` (dotted names) touches, directly or through their needs."""
        if any(knob == "seed" or knob.startswith("data.") for knob in knobs):
            return []
        touched: set[str] = set()
        for stage in self.stages:
            section = stage.section or stage.name
            own = {knob.partition(".")[2] for knob in knobs if knob.partition(".")[0] == section}
            read = any(knob.partition(".")[0] in stage.sections for knob in knobs)
            if own - stage.ignores or read or touched & set(stage.inputs):
                touched.add(stage.name)
        return [stage for stage in self.stages if stage.name not in touched]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as flat dotted params: {"student.lr": 0.05, ...}."""
    flat: dict[str, Any] = {}
    for key, value in (config if isinstance(config, Mapping) else config.model_dump(mode="json")).items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat
