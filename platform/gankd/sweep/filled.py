"""A table of a paper with what was measured: rows over seeds, their differences to the reference, and what they cost."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from gankd.method import Method
from gankd.metrics.directions import direction
from gankd.metrics.paired import Paired, distinguishable_together, paired
from gankd.page import Grid
from gankd.store import Store
from gankd.sweep.comparable import comparable_groups, facts_of
from gankd.sweep.cost import RowCost, cost_of
from gankd.sweep.figures import figure, interval, mean_and_deviation, verdict
from gankd.sweep.records import Outcome
from gankd.sweep.table import Row, TableSpec

Manifests = Mapping[str, Mapping[str, Any]]  # by key
# Beside the network itself, which in a table is often what the rows are about.
NO_JUDGE = {"network"}


@dataclass(frozen=True)
class Filled:
    """A row with what was measured.

    Attributes:
        values: heading -> seed -> value; a seed that failed is missing.
        difference: its first metric less that of its reference, over the seeds of both, positive where it is better; None without
            reference. `differences` are those of the single seeds.
        among: where the difference is more than luck by itself, but not among all that the table has, how many these are; else 1.
        failures: why seeds are missing.
        keys: the artifacts that it was filled with, by seed and stage.
        facts: what its numbers depend on, by heading; they compare with those of another row only where all is equal.
        mark: a letter, where the rows of the table do not all compare: those of one letter do.
        cost: in device-seconds; None where it is not known.
    """

    row: Row
    values: Mapping[str, Mapping[int, float]]
    difference: Paired | None = None
    among: int = 1
    failures: tuple[str, ...] = ()
    differences: Mapping[int, float] = field(default_factory=dict)
    keys: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    mark: str = ""
    cost: RowCost | None = None

    def mean(self, heading: str) -> float:
        """Over seeds; NaN for none."""
        values = self.values[heading].values()
        return fmean(values) if values else math.nan

    def judged(self, heading: str) -> dict[str, Any]:
        """What the numbers under one heading depend on."""
        return {fact: of[heading] for fact, of in self.facts.items() if heading in of}

    def all_keys(self) -> set[str]:
        """Over all seeds."""
        return {key for keys in self.keys.values() for key in keys.values()}


@dataclass(frozen=True)
class FilledTable:
    """All rows, with the sentences that belong below (what does not compare, and the cost) and the manifests by key."""

    spec: TableSpec
    rows: tuple[Filled, ...]
    notes: tuple[str, ...] = ()
    manifests: Manifests = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """All that some row was made or tried with."""
        tried = {seed for each in self.rows for seed in each.keys}
        return sorted(tried | {seed for each in self.rows for values in each.values.values() for seed in values})

    def headings(self) -> list[str]:
        """In order. What has no words of its own says whether rows compare, or are better."""
        spec = self.spec
        marks = [""] if any(each.mark for each in self.rows) else []
        compared = ["difference, 95 % interval", ""] if self._compares else []
        cost = ["device-seconds, own + shared"] if any(each.cost for each in self.rows) else []
        return [*spec.columns, *marks, *spec.metrics, *compared, *cost, *(f"paper: {heading}" for heading in self._paper())]

    def cells(self, each: Filled) -> list[str]:
        """A row's texts, one for each heading."""
        spec = self.spec
        marks = [each.mark] if any(row.mark for row in self.rows) else []
        values = [mean_and_deviation(list(each.values[heading].values())) for heading in spec.metrics]
        compared = self._compared(each) if self._compares else []
        cost = [str(each.cost or "")] if any(row.cost for row in self.rows) else []
        return [*each.row.labels, *marks, *values, *compared, *cost, *(_paper(each.row.paper.get(h)) for h in self._paper())]

    def _paper(self) -> list[str]:
        return list(dict.fromkeys(heading for row in self.spec.rows for heading in row.paper))

    @property
    def _compares(self) -> bool:
        return any(self.spec.reference_of(row) for row in self.spec.rows)

    def _compared(self, each: Filled) -> list[str]:
        row = self.spec.reference_of(each.row)
        if row is None:
            named = any(self.spec.reference_of(other) == each.row for other in self.spec.rows)
            return ["the reference" if named else "", "; ".join(each.failures)]
        p, against = each.difference, self.spec.against(each.row)
        said = [] if p is None else [verdict(p, each.among) if p.count > 1 else "", against]
        first, reference = next(iter(self.spec.metrics)), _row_of(self.rows, row)
        if each.values[first] and reference.values[first] and each.judged(first) != reference.judged(first):
            said = [f"not comparable with {row.name if against else 'the reference'}"]
        return ["" if p is None else interval(p), "; ".join(filter(None, [*said, *each.failures]))]

    def stage_notes(self) -> list[str]:
        """What the stages of the rows say of their artifacts, each sentence once: who taught, what had been seen."""
        return list(dict.fromkeys(note for manifest in self.manifests.values() for note in manifest.get("notes", [])))

    def grid(self, title: str) -> Grid:
        """As the terminal and a page show it."""
        words, headings = len(self.spec.columns), self.headings()
        left = [place for place, heading in enumerate(headings) if place < words or not heading]
        return Grid(title, tuple(headings), tuple(tuple(self.cells(each)) for each in self.rows), left, self.notes)

    def markdown(self, title: str, about: str) -> str:
        """As text for a page."""
        headings = self.headings()
        rows = [headings, ["---"] * len(headings), *(self.cells(each) for each in self.rows)]
        lines = "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)
        return "\n\n".join([f"# {title}", f"{about}.", lines, *self.notes]) + "\n"


def filled_table(spec: TableSpec, outcomes: Sequence[Mapping[int, Outcome]], manifests: Manifests) -> FilledTable:
    """The table from what came of each row's seeds, row by row, and from the manifests of what they were made with.

    Rows that were measured by another judge than others, or on other data, are marked. One whose first metric was is not
    compared with the reference.
    """
    rows = [_filled(spec, row, of_seeds, manifests) for row, of_seeds in zip(spec.rows, outcomes, strict=True)]
    measured = [each for each in rows if any(each.values.values())]
    letters, notes = comparable_groups(_completed([each.facts for each in measured]))
    if notes:
        marks = {each.row.labels: letter for each, letter in zip(measured, letters, strict=True)}
        rows = [replace(each, mark=marks.get(each.row.labels, "")) for each in rows]
    cost = cost_of([each.all_keys() for each in rows], manifests)
    if cost.total:
        rows = [replace(each, cost=of_row) for each, of_row in zip(rows, cost.rows, strict=True)]
        notes = [*notes, str(cost)]
    rows = _together(_with_differences(spec, rows))
    if among := max((each.among for each in rows if each.among > 1), default=0):
        notes = [*notes, f"alone: of {among} differences one that leaves out 0 may be luck; Holm's procedure does not keep it"]
    return FilledTable(spec, tuple(rows), tuple(notes), manifests)


def needed_manifests(store: Store, outcomes: Iterable[Mapping[int, Outcome]]) -> dict[str, dict[str, Any]]:
    """Key -> manifest of all that rows were filled with, as far as it is there."""
    keys = dict.fromkeys(key for row in outcomes for outcome in row.values() for key in outcome.keys.values())
    found = ((key, store.manifest(key)) for key in keys)
    return {key: manifest for key, manifest in found if manifest}


def row_trial(seed: int, number: int) -> str:
    """What the trial is called that makes the row of this number, from 0, with a seed."""
    return f"seed{seed}-row{number + 1}"


def row_of(trial: str) -> tuple[int, int] | None:
    """Seed and number of the row that a trial made; None for any other trial."""
    match = re.fullmatch(r"seed(\d+)-row(\d+)", trial)
    return (int(match[1]), int(match[2]) - 1) if match else None


def _filled(spec: TableSpec, row: Row, outcomes: Mapping[int, Outcome], manifests: Manifests) -> Filled:
    metrics = spec.metrics_of(row)
    values = {
        heading: {seed: o.metrics[metrics[heading]] for seed, o in outcomes.items() if metrics.get(heading) in o.metrics}
        for heading in spec.metrics
    }
    failures = tuple(f"seed {seed}: {o.failure}" for seed, o in outcomes.items() if o.failure)
    keys = {seed: outcome.keys for seed, outcome in outcomes.items() if outcome.keys}
    return Filled(row, values, failures=failures, keys=keys, facts=_facts(metrics, keys, manifests))


def _facts(metrics: Mapping[str, str], keys: Mapping[int, Mapping[str, str]], manifests: Manifests) -> dict[str, Any]:
    """Fact -> heading -> its values over seeds, as far as the manifests are there."""
    found: dict[str, dict[str, list[str]]] = {}
    for (heading, metric), of_seed in itertools.product(metrics.items(), keys.values()):
        stage, _, name = metric.partition("/")
        manifest = manifests.get(of_seed.get(stage, ""))
        facts = facts_of(name, manifest, str(manifest.get("fingerprint"))) if manifest else {}
        for fact in facts.keys() - NO_JUDGE:
            values = found.setdefault(fact, {}).setdefault(heading, [])
            values += {json.dumps(facts[fact], sort_keys=True)} - set(values)
    return {fact: {heading: sorted(values) for heading, values in of.items()} for fact, of in found.items()}


def _completed(facts: Sequence[Mapping[str, Mapping[str, Any]]]) -> list[dict[str, dict[str, Any]]]:
    """The facts of each row, those of headings that it has not as most other rows have them: what is not there cannot differ."""
    completed: list[dict[str, dict[str, Any]]] = [{fact: dict(of) for fact, of in each.items()} for each in facts]
    for fact, heading in dict.fromkeys((fact, heading) for each in facts for fact, of in each.items() for heading in of):
        there = [json.dumps(each[fact][heading]) for each in facts if heading in each.get(fact, {})]
        most = json.loads(Counter(there).most_common(1)[0][0])
        for row, each in zip(completed, facts, strict=True):
            if heading not in each.get("metric", {}):  # which every number has
                row.setdefault(fact, {})[heading] = most
    return completed


def _with_differences(spec: TableSpec, rows: list[Filled]) -> list[Filled]:
    """The rows with their differences to their reference, in the first metric, where they compare with it."""
    heading, metric = next(iter(spec.metrics.items()))
    sign = -1 if direction(metric) == "min" else 1

    def compared(each: Filled) -> Filled:
        row = spec.reference_of(each.row)
        if row is None:
            return each
        reference = _row_of(rows, row)
        ours, theirs = each.values[heading], reference.values[heading]
        by_seed = {seed: sign * (ours[seed] - theirs[seed]) for seed in ours if seed in theirs}
        if not by_seed or each.judged(heading) != reference.judged(heading):
            return each
        return replace(each, difference=paired(list(by_seed.values())), differences=by_seed)

    return [compared(each) for each in rows]


def _together(rows: list[Filled]) -> list[Filled]:
    """The rows, those marked whose differences are more than luck by themselves, but not among all of the table."""
    compared = {place: each.difference for place, each in enumerate(rows) if each.difference and each.difference.count > 1}
    passed = dict(zip(compared, distinguishable_together(list(compared.values())), strict=True))
    return [
        replace(each, among=len(compared)) if place in passed and not passed[place] and compared[place].distinguishable else each
        for place, each in enumerate(rows)
    ]


def _row_of(rows: Iterable[Filled], row: Row) -> Filled:
    return next(each for each in rows if each.row.labels == row.labels)


def _paper(value: float | str | None) -> str:
    return "" if value is None else value if isinstance(value, str) else figure(value)


def seed_note(method: Method, seeds: Sequence[int]) -> str:
    """Which seed each stage sees of repetitions with consecutive `seeds`, of which there is at least one."""
    once = [stage.name for stage in method.stages if not stage.per_seed]
    note = f"seeds {seeds[0]} to {seeds[-1]} chose nothing; every stage sees them"
    return f"{note}, but {', '.join(once)}, which only measure and keep seed {seeds[0] - 1}" if once else note
