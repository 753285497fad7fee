"""A table of a paper as a sweep: each row is some knobs, all rows share what their knobs do not touch, and nothing is chosen.

methods/<name>/tables/<table>.yaml holds

title: what it shows
columns: [data, method]                                # headings of what a row is called
metrics: {top-1: test_linear/test_accuracy}            # heading -> <stage>/<metric>
reference: [real, VICReg]                              # the row with which the others are compared, by seed; may be left out
rows:
  - {labels: [real, VICReg], knobs: {encoder.recipe: vicreg_real}, paper: {CIFAR-10: 89.20}}

A row may have `metrics` of its own under the same headings, null for one that it has not, and a `reference` of its own.
`plot: {x: FID, y: top-1}` draws two of the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, model_validator

from gankd.config import Section, digest, nearest
from gankd.errors import UserError
from gankd.method import Method
from gankd.paths import read_text
from gankd.text import read_yaml, shortened


class Row(Section):
    """What it is called, the knobs it sets, and what the paper has, by the paper's headings."""

    labels: tuple[str, ...]
    knobs: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, str | None] = Field(default_factory=dict)
    paper: dict[str, float | str] = Field(default_factory=dict)
    reference: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        return " / ".join(self.labels)


class Plot(Section):
    """Headings of two columns, to be drawn against each other."""

    x: str
    y: str
    log_x: bool = False


class TableSpec(Section):
    """A table as its file says it."""

    title: str
    columns: tuple[str, ...]
    metrics: dict[str, str] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)
    reference: tuple[str, ...] | None = None
    plot: Plot | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [row.labels for row in self.rows]
        if wrong := [row.name for row in self.rows if len(row.labels) != len(self.columns)]:
            raise UserError(f"the row {wrong[0]!r} has not {len(self.columns)} labels, as there are columns")
        if len(set(names)) < len(names):
            raise UserError("two rows have the same labels")
        references = [self.reference, *(row.reference for row in self.rows)]
        if strange := [labels for labels in references if labels is not None and labels not in names]:
            raise UserError(f"the reference {list(strange[0])} is none of the rows")
        if own := [row.name for row in self.rows if row.reference == row.labels]:
            raise UserError(f"the row {own[0]!r} is its own reference")
        headings = [heading for row in self.rows for heading in row.metrics]
        headings += [] if self.plot is None else [self.plot.x, self.plot.y]
        if unknown := [heading for heading in headings if heading not in self.metrics]:
            raise UserError(f"{unknown[0]!r} is none of the headings of metrics: {', '.join(self.metrics)}")
        return self

    @property
    def digest(self) -> str:
        """Of all that it says. A row without a reference of its own counts as it did before rows could have one."""
        content = self.model_dump(mode="json")
        rows = [{key: value for key, value in row.items() if key != "reference" or value is not None} for row in content["rows"]]
        return digest(content | {"rows": rows})

    def metrics_of(self, row: Row) -> dict[str, str]:
        """Heading -> `<stage>/<metric>`, of those that the row has."""
        return {heading: metric for heading, metric in {**self.metrics, **row.metrics}.items() if metric is not None}

    def reference_of(self, row: Row) -> Row | None:
        """The row that it is compared with: its own, else the table's; None for the table's itself, or without one."""
        labels = row.reference or self.reference
        return None if labels in (None, row.labels) else next(other for other in self.rows if other.labels == labels)

    def against(self, row: Row) -> str:
        """What it is compared with, in words, where that is not the table's reference; else empty."""
        return f"against {' / '.join(row.reference)}" if row.reference else ""

    def stages_of(self, row: Row) -> tuple[str, ...]:
        """The stages that report them."""
        return tuple(dict.fromkeys(metric.partition("/")[0] for metric in self.metrics_of(row).values()))

    def values_by_knob(self) -> dict[str, list[Any]]:
        """Knob -> the values that rows give it, each once."""
        found: dict[str, list[Any]] = {}
        for row in self.rows:
            for knob, value in row.knobs.items():
                if value not in found.setdefault(knob, []):
                    found[knob].append(value)
        return found


def table_names(method: Method) -> list[str]:
    """The tables of a method."""
    return sorted(file.stem for file in method.tables.glob("*.yaml")) if method.tables else []


def table_file(method: Method, table: str) -> Path:
    """The file of a table: a name of the method's, or the path of a user's own. Raises UserError when there is none."""
    names = table_names(method)
    if table in names and method.tables:
        return method.tables / f"{table}.yaml"
    if (file := Path(table)).suffix in (".yaml", ".yml") and file.is_file():
        return file
    known = f"known: {', '.join(names)}" if names else f"{method.name} has none"
    raise UserError(f"unknown table {shortened(table)}{nearest(table, names)} ({known}; or give the path of a YAML file)")


def load_table(method: Method, table: str) -> TableSpec:
    """A method's table, or a user's own. Raises UserError naming what is wrong with it."""
    file = table_file(method, table)
    content = read_yaml(read_text(file, "table"), f"table {file}")
    if not isinstance(content, Mapping):
        raise UserError(f"table {file} must hold title, columns, metrics and rows, not {shortened(content)}")
    try:
        spec = TableSpec.model_validate(dict(content))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"table {file}: {where} cannot be {shortened(first['input'])}: {first['msg']}") from None
    _check_metrics(spec, method, file)
    return spec


def _check_metrics(spec: TableSpec, method: Method, file: Path) -> None:
    """Every metric names a stage of the method."""
    stages = [stage.name for stage in method.stages]
    for metric in (metric for row in spec.rows for metric in spec.metrics_of(row).values()):
        stage, slash, _ = metric.partition("/")
        if not slash or stage not in stages:
            raise UserError(
                f"table {file}: {metric!r} must be <stage>/<metric>{nearest(stage, stages)} (stages: {', '.join(stages)})"
            )
