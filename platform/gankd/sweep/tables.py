"""What the terminal shows at the end of a sweep: its trials, the chosen one, the gain over the control, seeds."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from gankd.method import Method
from gankd.page import Grid
from gankd.sweep.conclusion import Conclusion, main_values, test_gain
from gankd.sweep.figures import figure
from gankd.sweep.filled import seed_note
from gankd.sweep.plan import Sweep
from gankd.sweep.records import TrialRecord
from gankd.sweep.repeated import Repeated, seeds_grid


def trial_table(sweep: Sweep, records: list[TrialRecord], best: TrialRecord | None) -> Table:
    """All trials, best first: where its knobs differ from the preset's, the objective and, with one, its own control."""
    metric, gain, preset = sweep.space.metric, sweep.method.gain, sweep.space.preset_point(sweep.tree)
    ends = Counter(knob.partition(".")[2] for knob in sweep.space.samplers)
    short = {knob: end if ends[end := knob.partition(".")[2]] == 1 else knob for knob in sweep.space.samplers}
    table = Table(title=f"{sweep.name}: {metric} on the validation part", title_justify="left")
    table.add_column("trial", no_wrap=True)
    table.add_column("differs from the preset in", overflow="fold", max_width=64)
    figures = [metric, *([f"{gain.control}/{gain.metric}"] if gain else [])]
    for heading in (*(name.partition("/")[0] for name in figures), ""):
        table.add_column(heading, justify="right")
    sign = -1 if sweep.space.mode == "max" else 1
    for record in sorted(records, key=lambda r: (r.status != "finished", sign * _objective(sweep, r, math.inf * sign))):
        values = [record.metrics.get(name) for name in figures]
        if values[0] is None:  # stopped before its end: what the scheduler saw
            values[0] = record.metrics.get(sweep.watched_metric)
        other = [f"{short[knob]} {_knob(value)}" for knob, value in record.knobs.items() if value != preset.get(knob)]
        state = "" if record.status == "finished" else record.status
        mark = "* " if best and record.trial == best.trial else ""
        table.add_row(mark + record.trial, ", ".join(other) or "(the preset)", *map(figure, values), state)
    return table


def _objective(sweep: Sweep, record: TrialRecord, otherwise: float) -> float:
    return record.metrics.get(sweep.space.metric, record.metrics.get(sweep.watched_metric, otherwise))


def score_table(sweep: Sweep, record: TrialRecord, tests: Mapping[str, float]) -> Table:
    """Validation and test figures of the chosen trial's stages, with the parameters of each network."""
    table = Table(title=f"chosen trial {record.trial}: validation and, read once, test", title_justify="left")
    for heading in ("stage", "metric", "validation", "test", "parameters"):
        table.add_column(heading, justify="left" if heading in ("stage", "metric") else "right")
    for stage in dict.fromkeys(sweep.method.roles.values()):
        validation = main_values(record.metrics, stage, "val_") or _measured(sweep.method, record, stage)
        test = {name: v for each in sweep.method.tests_of(stage) for name, v in main_values(tests, each.name, "test_").items()}
        if not validation and not test:
            continue
        parameters = record.metrics.get(f"{stage}/parameters")
        count = f"{parameters:,.0f}" if parameters else ""
        name = next(iter([*validation, *test])).rpartition("/")[2]
        for part in ("val_", "test_"):
            name = name.removeprefix(part)
        shown = [next(iter(values.values()), None) for values in (validation, test)]
        table.add_row(stage, name, *map(figure, shown), count)
    return table


# Of a measured generator, beside each other: FID alone does not see a collapse.
GENERATOR_FIGURES = {
    "fid": "FID",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "coverage": "coverage",
    "spread": "spread",
    "class_accuracy": "class accuracy",
    "sfid": "SFID",
    "label_score": "label score",
}


def generator_table(record: TrialRecord) -> Table | None:
    """How good and how diverse the chosen trial's generators are, by each extractor; None where none was measured."""
    measured = [name.partition("/recall_") for name in record.metrics if "/recall_" in name]
    if not measured:
        return None
    rows = {
        (stage, extractor): {figure: record.metrics.get(f"{stage}/{figure}_{extractor}") for figure in GENERATOR_FIGURES}
        for stage, _, extractor in measured
    }
    shown = [name for name in GENERATOR_FIGURES if any(row[name] is not None for row in rows.values())]
    table = Table(title="generators, on the validation part", title_justify="left")
    for heading in ("stage", "extractor", *(GENERATOR_FIGURES[name] for name in shown)):
        table.add_column(heading, justify="left" if heading in ("stage", "extractor") else "right")
    for names, row in rows.items():
        table.add_row(*names, *[figure(row[name]) for name in shown])
    return table


def _measured(method: Method, record: TrialRecord, stage: str) -> dict[str, float]:
    """What a further stage has measured of this one: the metric of the gain."""
    gain = method.gain
    if gain is None:
        return {}
    measuring = [name for name in (gain.stage, gain.control) if stage in method.stage(name).inputs]
    names = [f"{name}/{gain.metric}" for name in measuring if stage not in (gain.stage, gain.control)]
    return {name: record.metrics[name] for name in names[:1] if name in record.metrics}


def gain_table(sweep: Sweep, conclusion: Conclusion) -> Table | None:
    """The method beside its control, both tuned over the same trials, and both at the preset; None without a control."""
    gain, tuned = sweep.method.gain, conclusion.gain
    if gain is None or tuned is None:
        return None
    title = f"gain: {gain.stage} over {gain.control}, each the best of {tuned.trials} trials by validation"
    table = Table(title=title, title_justify="left")
    for heading in ("knobs", "metric", gain.stage, gain.control, "gain"):
        table.add_column(heading, justify="left" if heading in ("knobs", "metric") else "right")
    ours, theirs = f"{gain.stage}/{gain.metric}", f"{gain.control}/{gain.metric}"
    if tuned.preset and tuned.of_preset(gain) is not None:
        own = tuned.preset.metrics
        table.add_row("preset", gain.metric, figure(own[ours]), figure(own[theirs]), figure(tuned.of_preset(gain), "+"))
    values = [tuned.method.metrics[ours], tuned.control.metrics[theirs]]
    table.add_row("tuned", gain.metric, *[figure(value) for value in values], figure(tuned.on_validation(gain), "+"))
    if (difference := test_gain(sweep, conclusion)) is not None and gain.tests:
        values = [next(iter(side.values())) for side in conclusion.gain_tests]
        table.add_row("tuned", gain.tests[2], *[figure(value) for value in values], figure(difference, "+"))
    return table


def seeds_table(sweep: Sweep, repeated: list[Repeated]) -> Grid:
    """Mean and standard deviation over seeds, and the paired difference with its 95 % interval."""
    seeds = range(sweep.config.seed + 1, sweep.config.seed + sweep.request.seeds + 1)
    return seeds_grid(sweep.method.gain, repeated, seed_note(sweep.method, seeds))


def _knob(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
