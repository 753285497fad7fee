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

from gankd.config import MethodConfig, Section, Selection, identity


@dataclass(frozen=True)
class Stage:
    """One step of a method.

    Attributes:
        name: names the artifact, and the config section unless `section` says otherwise.
        run: "module:function", imported only in the process that trains. Called as `function(ctx, cfg, data, **sections,
            **inputs) -> dict[str, float]`; files it leaves in `ctx.out` are the artifact.
        inputs: stages whose artifacts it reads, passed by these names.
        section: the config section it is given; a stage of which there is none is given an empty one.
        sections: what it reads of further sections, passed by the sections' names: "task" is all of it, "task.new_classes"
            one knob; reading another knob is then an error.
        ignores: knobs of its own section which it does not use. They are reset to their defaults before the stage sees
            them and before its key is made, so sweeping them leaves the stage alone.
        check: "module:function" called as `function(name, cfg, data, **sections)` before anything starts; raises UserError
            for what can be known to be wrong. It should not import torch.
        looks: further sections that the check alone is given: what the stage makes depends on them through its inputs only.
        shares: knobs whose items all workers share evenly, such as a batch: of the section, or `<section>.<knob>`.
        test: whether it measures on the test part. Only such a stage is handed it, and it runs only for what has been
            chosen on the validation part. It measures the last of its inputs.
        per_seed: whether a repetition over seeds makes it anew. What only measures is made once, else the numbers that it
            measures would not compare.
        metrics: the names of all that it reports, to check an objective by. "{task}" stands for the metric of the data's task,
            "{extractor}" for "classifier", or where labels are numbers "regressor", and the section's `extractor`; "name?knob" is
            reported where that knob of the section is set. None: not known beforehand.
        on_demand: whether it is made only where another stage opens it: what no trial's config asks for is not trained.
        version: raise it when results change by what the syntax tree of the method does not show (a library, a data file).
    """

    name: str
    run: str
    inputs: tuple[str, ...] = ()
    section: str = ""
    sections: tuple[str, ...] = ()
    ignores: frozenset[str] = frozenset()
    check: str = ""
    looks: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()
    test: bool = False
    per_seed: bool = True
    metrics: tuple[str, ...] | None = None
    on_demand: bool = False
    version: int = 1

    def config(self, config: MethodConfig) -> Section:
        """The section this stage sees."""
        section: Section = getattr(config, self.section or self.name, None) or Section()
        if not self.ignores:
            return section
        fields = type(section).model_fields
        return section.model_copy(update={name: fields[name].get_default() for name in self.ignores})

    def further(self, config: MethodConfig) -> dict[str, Section | Selection]:
        """What it reads of further sections, by the section's name."""
        chosen: dict[str, set[str]] = {}
        for entry in self.sections:
            section, _, knob = entry.partition(".")
            chosen.setdefault(section, set()).add(knob)
        return {
            name: getattr(config, name) if "" in names else Selection(getattr(config, name), names, name)
            for name, names in chosen.items()
        }

    def checked(self, config: MethodConfig) -> dict[str, Section | Selection]:
        """What its check is given of further sections."""
        return {**self.further(config), **{name: getattr(config, name) for name in self.looks}}

    def reported(self, config: MethodConfig, task: str) -> list[str]:
        """The names of the metrics that it reports, where the data's task is measured by `task`."""
        section = self.config(config)
        own = "regressor" if task == "mae" else "classifier"
        extractors = [name for name in (own, getattr(section, "extractor", None)) if name]
        entries = [entry.partition("?") for entry in self.metrics or ()]
        names = [
            name.replace("{task}", task) for name, _, knob in entries if not knob or getattr(section, knob, None) is not None
        ]
        return [n.replace("{extractor}", e) for n in names for e in (extractors if "{extractor}" in n else [""])]

    def reads(self, knob: str) -> bool:
        """Whether a dotted knob is among what it reads."""
        section, _, name = knob.partition(".")
        own = section == (self.section or self.name) and name not in self.ignores
        return own or section in self.sections or knob in self.sections

    def identity(self, config: MethodConfig) -> dict[str, Any]:
        """What it reads of a config, as it stands in its key."""
        further = {name: identity(section) for name, section in self.further(config).items()}
        return {"config": identity(self.config(config)), "sections": further}

    def opened_inputs(self, config: MethodConfig) -> list[str]:
        """The inputs that it opens: all but those that its section leaves unread."""
        return [name for name in self.inputs if name not in self.config(config).unread()]

    def keyed_inputs(self, config: MethodConfig) -> list[str]:
        """The inputs on which its artifact depends: of those that it opens, all but the inert ones, which it only looks with."""
        sections = [self.config(config), *self.further(config).values()]
        inert = {name for section in sections for name in section.inert()}
        return [name for name in self.opened_inputs(config) if name not in inert]


def named(function: str) -> Callable[..., Any]:
    """The function that "module:function" names; imports the module."""
    module, _, attribute = function.partition(":")
    function_there: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function_there


@dataclass(frozen=True)
class Gain:
    """What a method is worth: a metric of one of its stages beside the same metric of its control.

    Attributes:
        stage, control: names of two stages that report `metric`.
        metric: such as "val_accuracy". Which way it is better follows from its name (`gankd.metrics.directions`).
        tests: the test stages that measure the two, and the metric they report, such as "test_accuracy".
    """

    stage: str
    control: str
    metric: str
    tests: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class Method:
    """A published method: its stages in order, its knobs and presets, and what a sweep should look at.

    Attributes:
        objective: validation metric that Tune compares trials by, `<stage>/<metric>`.
        mode: "max" or "min".
        watched: the stage whose evaluations are reported to Tune while it trains (for early stopping): its metric of the
            objective's name.
        length: `<section>.<knob>`, or a property of that section, that tells that stage's number of steps; larger knobs
            must not make it smaller.
        roles: what stages are to the platform: "student", "control", "teacher", "baseline", "generator" -> stage.
        gain: what is compared with the control.
        registered: role -> the metric, `<stage>/<metric>`, by which its networks are compared in the model registry.
        networks: names of the method's own networks -> "module:class", which recipes may then name.
        pretrained: "module:function" that turns the file of --pretrained into {knob: value}; empty where there is nothing to
            start from.
        space: module that holds SPACE.
        tables: folder of the tables of its paper (`gankd.sweep.table`), where it has some.
        measured: role -> "module:function" that `gankd evaluate` measures such a registered network with, where that is neither
            a generator nor answers the data's task: called as `function(ctx, network, data, config)`, {metric: value}.
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
    roles: Mapping[str, str] = field(default_factory=dict)
    gain: Gain | None = None
    registered: Mapping[str, str] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    pretrained: str = ""
    tables: Path | None = None
    measured: Mapping[str, str] = field(default_factory=dict)

    def stage(self, name: str) -> Stage:
        return next(stage for stage in self.stages if stage.name == name)

    def made_always(self) -> list[Stage]:
        """The stages that every trial makes: all but those that read the test part, and those on demand."""
        return [stage for stage in self.stages if not stage.test and not stage.on_demand]

    def made(self, config: MethodConfig) -> list[Stage]:
        """The stages that a trial of this config makes: those that every trial makes, and what these open."""
        needed = self.needed([stage.name for stage in self.made_always()], config)
        return [stage for stage in self.stages if stage.name in needed]

    def tests_of(self, stage: str) -> list[Stage]:
        """The test stages that measure a stage's artifact, which is the last of their inputs: the others they measure with."""
        return [test for test in self.stages if test.test and test.inputs[-1:] == (stage,)]

    def touched(self, knobs: Collection[str]) -> set[str]:
        """Names of the stages that a knob in `knobs` (dotted names) touches, directly or through their inputs."""
        if any(knob == "seed" or knob.startswith("data.") for knob in knobs):
            return {stage.name for stage in self.stages}
        touched: set[str] = set()
        for stage in self.stages:
            if touched & set(stage.inputs) or any(stage.reads(knob) for knob in knobs):
                touched.add(stage.name)
        return touched

    def needed(self, stages: Collection[str], config: MethodConfig) -> set[str]:
        """Names of these stages and of all that they open, directly or through others."""
        needed = set(stages)
        for stage in reversed(self.stages):  # inputs come before the stages that open them
            if stage.name in needed:
                needed |= set(stage.opened_inputs(config))
        return needed

    def shared(self, knobs: Collection[str], config: MethodConfig | None = None) -> list[Stage]:
        """The shared stages: those that no knob in `knobs` touches, with a `config` also those on demand that it asks for."""
        touched = self.touched(knobs)
        return [stage for stage in (self.made(config) if config else self.made_always()) if stage.name not in touched]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """A config as flat dotted params: {"student.lr": 0.05, ...}."""
    flat: dict[str, Any] = {}
    for key, value in (config if isinstance(config, Mapping) else config.model_dump(mode="json")).items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value})
    return flat
