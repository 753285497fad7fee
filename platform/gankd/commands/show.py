"""`gankd show`: every knob of a method with its value, unit, range and origin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from rich.markup import escape
from rich.table import Table

from gankd.config import build_config, knobs, read_preset, value_of, with_knobs
from gankd.registry import find_method

COMPARISONS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def knob_table(name: str, preset: str, overrides: Mapping[str, Any]) -> Table:
    """The resolved config of a method as a table. Values that differ from the defaults are bold."""
    method = find_method(name)
    tree = with_knobs(read_preset(method.presets, preset), overrides)
    config = build_config(method.config, tree, source=f"preset {preset}").model_dump(mode="json")
    defaults = method.config().model_dump(mode="json")
    table = Table(title=f"{method.title}, preset {preset}", title_justify="left")
    for heading in ("knob", "value", "unit", "allowed", "what", "origin of the default"):
        table.add_column(heading, overflow="fold")
    for knob, info in knobs(method.config).items():
        value, extra = value_of(config, knob), info.json_schema_extra or {}
        shown = f"[bold]{escape(str(value))}[/]" if value != value_of(defaults, knob) else escape(str(value))
        table.add_row(knob, shown, extra.get("unit", ""), allowed(info), info.description, extra.get("origin", ""))
    return table


def allowed(info: Any) -> str:
    """The range or the choices of a pydantic field, as text."""
    bounds = [f"{sign} {getattr(m, bound)}" for m in info.metadata for bound, sign in COMPARISONS.items() if hasattr(m, bound)]
    if bounds:
        return ", ".join(bounds)
    choices = [choice for choice in get_args(info.annotation) if isinstance(choice, str)]
    if choices:
        return " | ".join(choices)
    return str(getattr(info.annotation, "__name__", info.annotation)).replace("typing.", "")
