"""A sweep as a part of a page, from its records, its events and the store alone: neither Ray, nor MLflow, nor the data."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from gankd.data.config import DataConfig
from gankd.errors import UserError
from gankd.method import Method
from gankd.metrics.directions import direction
from gankd.page import Dots, Element, Facts, Grid, Section, Values, as_html
from gankd.registry import find_method
from gankd.store import Store
from gankd.sweep.cost import cost_of
from gankd.sweep.evidence import Evidence, PictureBudget, Use, curves, lineage, pictures
from gankd.sweep.figures import figure
from gankd.sweep.filled import Filled, FilledTable, filled_table, needed_manifests, row_of, seed_note
from gankd.sweep.records import SweepRecords, TrialRecord
from gankd.sweep.repeated import Repeated, repeated_of, seeds_grid
from gankd.sweep.request import SweepRequest, request_of
from gankd.sweep.table import TableSpec, load_table
from gankd.sweep.traces import Traces, traces_of

DIFFERENCE = "difference to the reference, 95 % interval"


FOOT = "Made by gankd report. This file needs no network and runs no script."
# Of a search's own figures, those of what it has chosen.
MEASURED = ("fid", "kid", "precision", "recall", "coverage")
FIGURES = ("val/", "test/", "gain", *(f"generator/{name}_" for name in MEASURED))


def sweep_report(storage: str, name: str, filled_by: TableSpec | None = None) -> str:
    """The report of one sweep as HTML. Raises UserError when there is no such sweep."""
    return as_html(f"{name}: report", [Reported(storage, name, filled_by).section(PictureBudget())], FOOT)


@dataclass(frozen=True)
class Reported:
    """What is known of a sweep. `filled_by`: its table, by one who has it: the file may have been edited since."""

    storage: str
    name: str
    filled_by: TableSpec | None = None

    @cached_property
    def records(self) -> SweepRecords:
        return SweepRecords(self.storage, self.name)

    @cached_property
    def request(self) -> SweepRequest:
        return request_of(self.records.request(), f"sweep.json of {self.name}")

    @cached_property
    def method(self) -> Method:
        return find_method(self.request.method)

    @cached_property
    def traces(self) -> Traces:
        return traces_of(self.storage, self.name)

    @cached_property
    def manifests(self) -> dict[str, dict[str, Any]]:
        """Of all artifacts that trials, rows and repetitions used."""
        return needed_manifests(Store(self.storage), [dict(enumerate(self.traces.outcomes.values()))])

    @cached_property
    def table(self) -> TableSpec | None:
        """What it was filled by; None for a search. Raises UserError when that was edited since."""
        if self.filled_by is not None or self.request.table is None:
            return self.filled_by
        spec = load_table(self.method, self.request.table)
        made_from = self.request.made_from
        if made_from and spec.digest not in made_from.values():
            raise UserError(
                f"the table {self.request.table!r} is not what the sweep {self.name!r} was filled by: its rows would be called "
                "otherwise; put that file back, or fill it by a new sweep"
            )
        return spec

    def section(self, budget: PictureBudget) -> Section:
        """Its table or trials, values over seeds, cost, curves, pictures, lineage and provenance.

        Raises UserError when there is no such sweep, or when its table is not what it was filled by.
        """
        if self.table is not None:
            uses, elements, warnings, called = self._of_table(self.table)
        else:
            uses, elements, warnings, called = self._of_trials()
        stages = [stage.name for stage in self.method.stages]
        evidence = Evidence(self.name, stages, uses, self.traces, self.manifests)
        behind: list[Element] = [*curves(evidence), *pictures(evidence, budget)]
        if uses:
            behind.append(lineage(evidence, called))
        title = self.table.title if self.table else f"{self.method.title}: {self.method.summary}"
        sentences = (f"{title}; data {', '.join(self.datasets) or 'unknown'}.",)
        warnings = [*warnings, *self._other_data()]
        return Section(f"Sweep {self.name}", sentences, tuple(warnings), (*elements, *behind, self._provenance()))

    # A table.

    def _of_table(self, spec: TableSpec) -> tuple[list[Use], list[Element], list[str], str]:
        of_rows: list[dict[int, Any]] = [{} for _ in spec.rows]
        for trial, outcome in self.traces.outcomes.items():
            seed, number = row_of(trial) or (0, len(of_rows))
            if number < len(of_rows):
                of_rows[number][seed] = outcome
        of_rows = [dict(sorted(outcomes.items())) for outcomes in of_rows]
        filled = filled_table(spec, of_rows, self.manifests)
        uses = [Use(each.row.name, keys, f"seed {seed}") for each in filled.rows for seed, keys in each.keys.items()]
        asked, there = len(spec.rows) * max(1, self.request.seeds), sum(map(len, of_rows))
        warnings = [f"This table is not finished: {there} of {asked} trainings have ended."] if there < asked else []
        warnings += [f"{each.row.name}: {failure}" for each in filled.rows for failure in each.failures]
        note = seed_note(self.method, filled.seeds) if self.request.seeds and filled.seeds else self._seed_of(filled)
        return uses, [filled.grid(f"{spec.title}: {note}"), *table_dots(filled)], warnings, "row"

    @staticmethod
    def _seed_of(filled: FilledTable) -> str:
        return f"seed {', '.join(map(str, filled.seeds))}" if filled.seeds else "nothing yet"

    # A search.

    def _of_trials(self) -> tuple[list[Use], list[Element], list[str], str]:
        records = list(self.records.trials())
        repeated = repeated_of(self.method.gain, self.traces.outcomes) if self.method.gain else []
        used = {record.trial: record.keys for record in records}
        uses = [Use(trial, {**used.get(trial, {}), **outcome.keys}) for trial, outcome in self.traces.outcomes.items()]
        uses = [use for use in uses if use.keys]
        elements: list[Element] = [self._trials(records)] if records else []
        figures = {n: value for n, value in self.traces.figures.items() if n.startswith(FIGURES) and "_std_" not in n}
        if figures:
            rows = tuple((name, f"{value:,.4g}") for name, value in figures.items())
            elements.append(Grid("the chosen trial and its gain over the control", ("figure", "value"), rows))
        if repeated:
            seeds = sorted({seed for each in repeated for seed in each.seeds})
            note = seed_note(self.method, seeds) if seeds else "none came to its end"
            elements += [seeds_grid(self.method.gain, repeated, note), *seeds_dots(self.method, repeated)]
        ended = [record for record in records if record.ended()]
        warnings = [] if self.traces.figures and ended else ["This sweep has not come to its end."]
        return uses, elements, warnings, "trial"

    def _trials(self, records: Iterable[TrialRecord]) -> Grid:
        """The trials, best first, with the knobs in which they differ and their cost."""
        objective = self.method.objective
        sign = 1 if (direction(objective) or self.method.mode) == "min" else -1
        ordered = sorted(records, key=lambda r: (r.status != "finished", sign * r.metrics.get(objective, math.inf * sign)))
        differing = {
            knob: None for record in ordered for knob in record.knobs if len({str(r.knobs.get(knob)) for r in ordered}) > 1
        }
        cost = cost_of([list(record.keys.values()) for record in ordered], self.manifests)
        rows = [
            (
                record.trial,
                ", ".join(f"{knob} {_knob(record.knobs.get(knob))}" for knob in differing),
                figure(record.metrics.get(objective)),
                "" if record.status == "finished" else record.status,
                str(of_trial),
            )
            for record, of_trial in zip(ordered, cost.rows, strict=True)
        ]
        headings = ("trial", "knobs that differ", objective, "", "device-seconds, own + shared")
        return Grid("trials, on the validation part", headings, tuple(rows), left=(0, 1, 3), notes=(str(cost),))

    # Both.

    @cached_property
    def datasets(self) -> list[str]:
        """What the data sets of its artifacts are called."""
        return list(dict.fromkeys(_dataset(manifest.get("data_config")) for manifest in self.manifests.values()))

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of the data that it was asked for with, and of those that its artifacts were made of."""
        asked = self.request.made_from.get("data")
        made = [manifest["fingerprint"] for manifest in self.manifests.values() if manifest.get("fingerprint")]
        return list(dict.fromkeys([*([asked] if asked else []), *made]))

    def _other_data(self) -> list[str]:
        if len(self.fingerprints) < 2:
            return []
        listed = ", ".join(each[:12] for each in self.fingerprints)
        return [f"Its artifacts were made of different data (fingerprints {listed}): what differs in data does not compare."]

    def _provenance(self) -> Facts:
        manifests = self.manifests.values()
        versions = (f"{name} {version}" for m in manifests for name, version in m.get("versions", {}).items())
        seeds = sorted({int(manifest["seed"]) for manifest in manifests if "seed" in manifest})
        facts = {
            "method": f"{self.method.title}: {self.method.summary}",
            "data": ", ".join(self.datasets),
            "fingerprint": ", ".join(self.fingerprints),
            "seeds": ", ".join(map(str, seeds)),
            "versions": ", ".join(dict.fromkeys(versions)),
            "devices": ", ".join(dict.fromkeys(str(m["device"]) for m in manifests if "device" in m)),
            "stages say": " ".join(dict.fromkeys(note for m in manifests for note in m.get("notes", []))),
            "to repeat it": command_line(self.request),
        }
        return Facts("Provenance", tuple((term, text) for term, text in facts.items() if text))


def table_dots(filled: FilledTable) -> list[Dots]:
    """A drawing for each metric, the first with the differences. Values that do not compare are in drawings of their own."""
    drawn = []
    for place, heading in enumerate(filled.spec.metrics):
        judges: dict[str, list[Filled]] = {}
        for each in filled.rows:
            if each.values[heading]:
                judges.setdefault(json.dumps(each.judged(heading), sort_keys=True), []).append(each)
        for rows in judges.values():
            which = f" (rows {', '.join(dict.fromkeys(each.mark for each in rows))})" if len(judges) > 1 else ""
            values = tuple(_dots(filled.spec, each, heading, place == 0) for each in rows)
            drawn.append(Dots(f"{heading}, seed by seed{which}", heading, values, DIFFERENCE))
    return drawn


def _dots(spec: TableSpec, each: Filled, heading: str, first: bool) -> Values:
    p = each.difference if first else None
    return Values(
        "; ".join(filter(None, [each.row.name, spec.against(each.row) if p else ""])),
        tuple(each.values[heading].values()),
        tuple(each.differences.values()) if first else (),
        (p.mean, p.low, p.high) if p else None,
    )


def seeds_dots(method: Method, repeated: Iterable[Repeated]) -> list[Dots]:
    """The method's side and the control's, seed by seed, and their differences."""
    assert method.gain is not None
    drawn = []
    for each in repeated:
        p, sign = each.paired, 1 if direction(each.metric) == "max" else -1
        if p is None:
            continue
        differences = tuple(sign * (ours - theirs) for ours, theirs in zip(each.method, each.control, strict=True))
        rows = (
            Values(method.gain.stage, each.method, differences, (p.mean, p.low, p.high)),
            Values(method.gain.control, each.control),
        )
        drawn.append(
            Dots(f"{each.what}: {each.metric}, seed by seed", each.metric, rows, "difference to the control, 95 % interval")
        )
    return drawn


def command_line(request: SweepRequest) -> str:
    """The command that asks for the same."""
    plain = SweepRequest(method=request.method)
    words = ["python", "tune.py", "--method", request.method]
    for name, info in SweepRequest.model_fields.items():
        value = getattr(request, name)
        if not info.description or name == "method" or value == getattr(plain, name):
            continue
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}", str(value)]
    for knob, value in request.overrides.items():
        words += ["--set", f"{knob}={_text(value)}"]
    return shlex.join(words)


def _text(value: Any) -> str:
    """A knob's value as `--set` takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(_text, value))}]" if isinstance(value, list | tuple) else str(value)


def _knob(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _dataset(config: Mapping[str, Any] | None) -> str:
    try:
        return DataConfig.model_validate(config or {}).dataset
    except (ValidationError, UserError):
        return "unknown"
