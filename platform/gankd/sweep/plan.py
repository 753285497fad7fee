"""From what a user asks to a sweep that nothing can refuse any more. All checks that need no cluster are made here."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gankd.config import MethodConfig, build_config, digest, path_knobs, read_preset, with_knobs
from gankd.errors import UserError
from gankd.method import Method, named
from gankd.naming import code_of_stages
from gankd.paths import file_digest, is_file
from gankd.pipeline import Job
from gankd.registry import find_method
from gankd.store import Store
from gankd.sweep.extent import different_points
from gankd.sweep.records import SweepRecords
from gankd.sweep.request import MOST_TRIALS, SweepRequest, request_of
from gankd.sweep.space import (
    Space,
    check_metric,
    check_search,
    check_space,
    check_table_metrics,
    largest,
    load_space,
    space_of_table,
)
from gankd.sweep.table import TableSpec, load_table, table_file


@dataclass(frozen=True)
class Sweep:
    """A checked request. Plain data but for `method` and `space`, which are looked up again where they are needed."""

    request: SweepRequest
    name: str
    storage: str
    tree: dict[str, Any]
    fingerprint: str
    dataset: str

    @cached_property
    def method(self) -> Method:
        return find_method(self.request.method)

    @cached_property
    def config(self) -> MethodConfig:
        return build_config(self.method.config, self.tree)

    @cached_property
    def table(self) -> TableSpec | None:
        """The table that it fills, in place of a search."""
        return load_table(self.method, self.request.table) if self.request.table else None

    @cached_property
    def space(self) -> Space:
        if self.table is not None:
            return space_of_table(self.method, self.table, str(table_file(self.method, self.request.table or "")))
        return load_space(self.method, self.request.space, build_config(self.method.config, self.tree))

    @cached_property
    def records(self) -> SweepRecords:
        return SweepRecords(self.storage, self.name)

    @property
    def experiment(self) -> str:
        """Name of the MLflow experiment: one for each method and data set."""
        return f"{self.method.name}/{self.dataset}"

    def config_of(self, knobs: Mapping[str, Any]) -> MethodConfig:
        """The config of a trial with these knobs."""
        return build_config(self.method.config, with_knobs(self.tree, knobs))

    def job(self, knobs: Mapping[str, Any], trial: str = "", stages: tuple[str, ...] = ()) -> Job:
        """What a process needs to run these stages (all, when none is named) with these knobs."""
        return Job(
            method=self.method.name,
            config=self.config_of(knobs).model_dump(mode="json"),
            storage=self.storage,
            stages=stages,
            sweep=self.name,
            trial=trial,
            fingerprint="" if any(knob.startswith("data.") for knob in knobs) else self.fingerprint,
            code=code_of_stages(self.method),
            threads=self.request.resources(1).threads(),
            checkpoint_seconds=self.request.checkpoint_seconds,
            salt="" if self.request.reuse else f"{self.name}/{trial}",
            reuse_stale=self.request.reuse_stale,
        )

    def shared(self) -> tuple[str, ...]:
        """Stages that no searched knob touches, of a table those that a row needs; none when artifacts are not to be reused."""
        if not self.request.reuse:
            return ()
        if self.table is None:
            return tuple(stage.name for stage in self.method.shared(self.space.samplers, self.config))
        rows, touched = self.table.rows, self.method.touched(self.space.samplers)
        needed = {n for row in rows for n in self.method.needed(self.table.stages_of(row), self.config_of(row.knobs))}
        return tuple(stage.name for stage in self.method.stages if stage.name in needed - touched and not stage.test)

    @cached_property
    def trials(self) -> int:
        """The number of trials: those asked for, which a grid multiplies as in Ray Tune, or as many as there are points; of a
        table its rows, for each seed."""
        if self.table is not None:
            return len(self.table.rows) * max(1, self.request.seeds)
        asked, there = self.request.trials * self.space.cells, different_points(self.space, self.tree)
        return asked if there is None else min(asked, there)

    @property
    def watched_metric(self) -> str:
        """What the watched stage reports while it trains: its own metric of the objective's name."""
        return f"{self.method.watched}/{self.space.metric.partition('/')[2]}"

    def watched_length(self) -> int:
        """Steps of the watched stage, the most that any trial can have; 0 when no stage is watched."""
        if not self.method.length:
            return 0
        section, _, name = self.method.length.partition(".")
        searched = {knob: largest(knob, self.space) for knob in self.space.samplers if knob.startswith(f"{section}.")}
        config = self.config_of({knob: value for knob, value in searched.items() if value is not None})
        return int(getattr(getattr(config, section), name))


def trial_name(knobs: Mapping[str, Any]) -> str:
    """A trial is its knobs: the same knobs are the same trial, also after a resume."""
    return digest(dict(knobs))[:8]


def prepare(request: SweepRequest, storage: str, name: str | None = None) -> Sweep:
    """Check names, knobs, space, data and storage. Raises UserError for whatever is wrong."""
    from gankd.data import load

    method = find_method(request.method)
    source = f"preset {request.preset}"
    preset = read_preset(method.presets, request.preset)
    config = build_config(method.config, with_knobs(preset, request.overrides), source=source)
    paths = path_knobs(config)
    sweep = Sweep(
        request=request.model_copy(update={"overrides": request.overrides | paths}),
        name=default_name(request) if name is None else name,
        storage=storage,
        tree=with_knobs(config.model_dump(mode="json"), paths),
        fingerprint="",
        dataset="",
    )
    config = sweep.config
    Store(storage)
    sweep.records.check_name()
    others = check_space(sweep.space, method, sweep.tree) if sweep.table is None else rows_of(sweep, sweep.table)
    if request.search == "optuna":
        check_search(sweep.space)
    if sweep.trials > MOST_TRIALS:
        raise UserError(
            f"--trials {request.trials:,} for each of the {sweep.space.cells:,} points of the grid in {sweep.space.source} are "
            f"{sweep.trials:,} trials; {MOST_TRIALS:,} are allowed: lower --trials, or draw with tune.choice"
        )
    data = load(config.data)
    made_from = {"data": data.fingerprint, source: digest(preset), f"space {sweep.space.source}": sweep.space.digest}
    files = {knob: Path(path) for knob, path in paths.items() if knob != "data.path" and is_file(Path(path))}
    made_from |= {f"knob {knob!r}": file_digest(file) for knob, file in files.items()}
    _check_unchanged(request, sweep.name, made_from)
    if sweep.table is None:
        check_metric(sweep.space, method, config, data)
    else:
        check_table_metrics(sweep.table, method, others, data)
    check_shares(sweep, [config] if sweep.table is None else others)
    check_stages(method, config, others)
    request = sweep.request.model_copy(update={"made_from": made_from})
    return replace(sweep, request=request, fingerprint=data.fingerprint, dataset=data.name)


def _check_unchanged(request: SweepRequest, name: str, made_from: Mapping[str, str]) -> None:
    """What a resumed sweep was asked for with is still the same: results of two data sets would stand side by side."""
    for what, then in request.made_from.items():
        now = made_from.get(what)
        if now != then:
            raise UserError(
                f"the {what} of the sweep {name!r} is not what it was made with (digest {then[:12]} then, "
                f"{now[:12] if now else 'not there'} now); put that back, or start a new sweep with another --name: what is the "
                "same is taken from the store"
            )


def default_name(request: SweepRequest) -> str:
    """Method, preset and time."""
    preset = re.sub(r"[^A-Za-z0-9._-]", "_", Path(request.preset).stem)[:60]
    return f"{request.method}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"


def rows_of(sweep: Sweep, table: TableSpec) -> list[MethodConfig]:
    """The configs of a table's rows. Raises UserError naming the row that none is, and for flags that a table has no use for."""
    request, plain = sweep.request, SweepRequest(method=sweep.request.method)
    unused = [name for name in ("space", "trials", "scheduler", "search") if getattr(request, name) != getattr(plain, name)]
    if unused:
        flags = ", ".join(f"--{name}" for name in unused)
        raise UserError(f"--table fills the rows of a table and searches nothing: leave out {flags}")
    return [
        build_config(sweep.method.config, with_knobs(sweep.tree, row.knobs), source=f"row {row.name!r} of table {request.table}")
        for row in table.rows
    ]


def check_stages(method: Method, config: MethodConfig, others: Sequence[MethodConfig]) -> None:
    """What stages know to be wrong beforehand, of the preset's config and of all others that a sweep may try."""
    from gankd.data import load
    from gankd.stages.checks import LargeBatch, batches_sentence

    too_large: list[str] = []  # every batch at once, for a small set is too small for all
    for variant in [config, *others]:
        made = method.made(variant)
        for stage in method.stages:
            if stage.on_demand and stage not in made:
                continue
            seen, seen_first = [(c.data, stage.config(c), stage.checked(c)) for c in (variant, config)]
            if stage.check and (variant is config or seen != seen_first or stage.on_demand):
                try:
                    named(stage.check)(stage.section or stage.name, seen[1], load(variant.data).without_test(), **seen[2])
                except LargeBatch as error:
                    too_large.append(error.assignment)
        if too_large:
            raise UserError(batches_sentence(dict.fromkeys(too_large), load(variant.data)))


def check_shares(sweep: Sweep, configs: Sequence[MethodConfig]) -> None:
    """Every batch, and every part of one, that workers share can be split evenly over them."""
    request, shared = sweep.request, sweep.shared()
    for stage in sweep.method.stages:
        is_shared = stage.name in shared
        need = request.shared_resources() if is_shared else request.resources(request.workers)
        flag = "--shared-workers" if is_shared else "--workers"
        asking = [config for config in configs if not stage.on_demand or stage in sweep.method.made(config)]
        for name, config in itertools.product(stage.shares, asking):
            knob = name if "." in name else f"{stage.section or stage.name}.{name}"
            section, _, of_section = knob.partition(".")
            batch = getattr(getattr(config, section), of_section)
            if batch % need.workers:
                raise UserError(
                    f"knob {knob!r} cannot be {batch}: the {flag} {need.workers} "
                    f"share it, so it must be a multiple of {need.workers}"
                )


def resume(storage: str, name: str) -> Sweep:
    """The sweep `name` as it was asked for."""
    return prepare(request_of(SweepRecords(storage, name).request(), f"sweep.json of {name}"), storage, name)
