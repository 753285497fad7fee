"""The model card of an exported network: what it is, what it scores and beside what, and on which data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gankd.commands.network import json_tag
from gankd.registry import find_method
from gankd.tracking.sweeps import FinishedSweep, finished_sweeps
from gankd.tracking.tracker import Tracker

FILES = {
    "safetensors": "`model.safetensors`: the weights; `recipe.json`: the network that they belong to",
    "onnx": "`model.onnx`: the network, for ONNX Runtime and what else reads ONNX",
    "torch-export": "`model.pt2`: the network, for `torch.export.load`",
}
# Heading -> figures of the sweep's run.
FIGURES = {
    "student": {
        "validation": "val/student", "test": "test/student", "control, test": "test/control",
        "baseline, test": "test/baseline", "teacher, test": "test/teacher", "gain over the control": "gain",
    },
    "generator": {name: f"generator/{name}_classifier" for name in ("fid", "kid", "precision", "recall", "coverage")},
}  # fmt: skip


def model_card(model: str, kind: str, network: Any, tags: Mapping[str, str], inputs: Mapping[str, Any], data_licence: str) -> str:
    """The card as Markdown. Raises UserError for tags that are damaged."""
    method = find_method(tags["gankd.method"])
    config, facts = (json_tag(tags, f"gankd.{what}", model) for what in ("config", "comparable"))
    takes = ", ".join(f"`{n}` ({', '.join(map(str, ('n', *each.shape[1:])))}) {each.dtype}" for n, each in inputs.items())
    name = model.removeprefix("models:/").partition("@")[0].partition("/")[0]
    dataset, _, role = name.rpartition("-")
    better = "higher" if tags.get("gankd.mode") == "max" else "lower"
    lines = [
        f"# {name}",
        "",
        f"{method.title}: {method.summary}.",
        "",
        f"- network: `{network.recipe['name']}`, {sum(p.numel() for p in network.parameters()):,} parameters; takes {takes}",
        *([] if role == "generator" else ["- images are RGB or grey in [-1, 1]; classes are numbered as in the data"]),
        f"- data: {dataset}, fingerprint `{tags.get('gankd.data', '')}`",
        f"- licence of the data: {data_licence or 'not stated by who exported this'}",
        f"- made by sweep `{tags.get('gankd.sweep', '')}`, trial `{tags.get('gankd.trial', '')}`, seed {config.get('seed', '')}",
        *([f"- {tags['gankd.notes']}"] if tags.get("gankd.notes") else []),
        "",
        f"Chosen by validation: {facts.get('metric', '')} {float(tags.get('gankd.value', 'nan')):.4g}, {better} is better.",
        *_figures(role, dataset, tags),
        "",
        "## Files",
        "",
        f"- {FILES[kind]}",
        "- `example.py`: how to read it, without gankd",
        "- `check.safetensors`: inputs, and what the network gives for them",
        "",
        "## Knobs",
        "",
        *(f"- `{knob}`: {value}" for knob, value in config.items()),
    ]
    return "\n".join(lines) + "\n"


def _figures(role: str, dataset: str, tags: Mapping[str, str]) -> list[str]:
    """The sweep's own figures as a table, and its repetitions over seeds; nothing where the sweep's run is gone."""
    uri = Tracker.default_uri(Path.cwd())
    sweep = next((each for each in finished_sweeps(uri, dataset) if each.name == tags.get("gankd.sweep")), None)
    if sweep is None:
        return []
    there = {heading: sweep.metrics[name] for heading, name in FIGURES.get(role, {}).items() if name in sweep.metrics}
    rows = [f"| {heading} | {value:.4g} |" for heading, value in there.items()]
    return ["", "| figure | value |", "|---|---|", *rows, *_seeds(sweep)] if rows else []


def _seeds(sweep: FinishedSweep) -> list[str]:
    values = {
        name.removeprefix("seeds/tuned/"): value for name, value in sweep.metrics.items() if name.startswith("seeds/tuned/")
    }
    if not {"mean", "low", "high", "count"} <= values.keys():
        return []
    interval = f"{values['mean']:+.3g}, 95 % interval [{values['low']:+.3g}, {values['high']:+.3g}]"
    clear = "" if values["low"] * values["high"] > 0 else ": not distinguishable"
    return ["", f"Gain over the control on {values['count']:.0f} seeds that chose nothing: {interval}{clear}."]
