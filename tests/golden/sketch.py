"""Sketches of what the stages of a method make with the smoke preset: few numbers that another result does not have.

Of each tensor: its size, as the root of the mean square, and its direction, as a sum with random signs in units of that size.
A direction that turns by an angle moves the second number by about that angle, however large the tensor is.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from gankd.config import build_config, read_preset, with_knobs
from gankd.pipeline import Job, run
from gankd.registry import find_method

FOLDER = Path(__file__).parent

# On top of the smoke preset. BigGAN's Adam has no first moment and next to no epsilon: a gradient of zero but for rounding
# becomes a whole step, and no two types of CPU agree. With more epsilon they do.
CALM: dict[str, dict[str, Any]] = {
    "cgan_kd": {"biggan.adam_eps": 1e-4},
    "cgan_kd_regression": {"ccgan.adam_eps": 1e-2, "ccgan.steps": 8},
    "rgal": {},
    "rgal_quantization": {},
    "rgal_incremental": {},
    "squeeze_span": {"gan.adam_eps": 1e-2, "gan.steps": 8},
    "kd_dlgan": {"gan.adam_eps": 1e-2, "gan.steps": 8},
    "five_teachers": {
        "gan.adam_eps": 1e-2,
        "gan.steps": 8,
        "pretrain.adam_eps": 1e-2,
        "pretrain.steps": 8,
        "training.adam_eps": 1e-2,
        "training.steps": 8,
    },
    "cgan_transfer": {"pretrain.adam_eps": 1e-2, "pretrain.steps": 8, "training.adam_eps": 1e-2, "training.steps": 8},
}

# What tensors may differ by, of their size and in direction, at two quantiles: the second sees what trains a few tensors only.
# Told to be another type of CPU, torch moves no tensor by more than 4e-4, or, where one pixel of a generated image is rounded
# the other way, the student's by 1e-3 and 1e-2; a learning rate that is a tenth higher moves them by 8e-3 and more.
TENSORS = {0.75: 2e-3, 0.9: 2e-2}
METRICS = 2e-2  # relative; and absolute below 0.05

# Stage -> its artifact's key, its metrics, and file -> tensor -> (size, direction).
Sketch = dict[str, dict[str, Any]]


def make_sketch(method: str, storage: Path, knobs: Mapping[str, Any] | None = None, stages: tuple[str, ...] = ()) -> Sketch:
    """Run stages of the smoke preset, all by default, calmed, in this process, and sketch them; `knobs` come on top."""
    spec = find_method(method)
    config = build_config(spec.config, with_knobs(read_preset(spec.presets, "smoke"), CALM[method] | dict(knobs or {})))
    stages = stages or tuple(stage.name for stage in spec.stages)
    run(Job(method, config.model_dump(mode="json"), str(storage), stages=stages, threads=1))
    made = {}
    for file in storage.glob("artifacts/*/manifest.json"):
        manifest = json.loads(file.read_text())
        metrics = {name: float(f"{value:.6g}") for name, value in manifest["metrics"].items()}
        made[manifest["stage"]] = {"key": file.parent.name, "metrics": metrics, "files": sketch_files(file.parent)}
    return {stage.name: made[stage.name] for stage in spec.stages if stage.name in made}


def sketch_files(artifact: Path) -> dict[str, dict[str, list[float]]]:
    """File -> tensor -> (size, direction), of an artifact's own safetensors and npy files; not of what is kept beside them."""
    found = {}
    for file in sorted(artifact.iterdir()):
        tensors = load_file(file) if file.suffix == ".safetensors" else {"": np.load(file)} if file.suffix == ".npy" else {}
        # Without Adam's moments: that of a first decay of zero is the last gradient, rounding and all.
        kept = {name: sketch(name, tensor) for name, tensor in sorted(tensors.items()) if "/exp_avg" not in name}
        if kept:
            found[file.name] = kept
    return found


def sketch(name: str, tensor: np.ndarray) -> list[float]:
    """(size, direction) of a tensor; the signs depend on its name only."""
    values = tensor.astype(np.float64).ravel()
    size = math.sqrt(float((values**2).mean())) if values.size else 0.0
    signs = np.random.RandomState(zlib.crc32(name.encode())).choice((-1.0, 1.0), values.size)
    direction = float(signs @ values) / (size * math.sqrt(values.size)) if size else 0.0
    return [float(f"{number:.6g}") for number in (size, direction)]


def golden(method: str) -> Sketch:
    """What was recorded."""
    recorded: Sketch = json.loads((FOLDER / f"{method}.json").read_text())
    return recorded


def differences(before: Sketch, after: Sketch) -> dict[str, str]:
    """Stage -> how it differs, in the pipeline's order, and stages that are there on one side only."""
    found = {stage: "is new" for stage in after if stage not in before}
    found |= {stage: "is gone" for stage in before if stage not in after}
    for stage in (stage for stage in after if stage in before):
        if reasons := [*_metrics(before[stage], after[stage]), *_tensors(before[stage], after[stage])]:
            found[stage] = "; ".join(reasons)
    return {stage: found[stage] for stage in (*after, *before) if stage in found}


def _metrics(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = before["metrics"], after["metrics"]
    if old.keys() != new.keys():
        return [f"metrics {sorted(old.keys() ^ new.keys())} on one side only"]
    close = {name: math.isclose(old[name], new[name], rel_tol=METRICS, abs_tol=1e-3) for name in old}
    return [f"{name} {old[name]:.5g} -> {new[name]:.5g}" for name in old if not close[name]]


def _tensors(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = ({(file, name): pair for file in s["files"] for name, pair in s["files"][file].items()} for s in (before, after))
    if old.keys() != new.keys():
        return [f"other tensors: {sorted(old.keys() ^ new.keys())[:3]}"]
    if not old:
        return []
    sizes = [abs(old[t][0] - new[t][0]) / max(old[t][0], new[t][0], 1e-30) for t in old]
    directions = [abs(old[t][1] - new[t][1]) for t in old]
    return [
        f"{1 - share:.0%} of its tensors differ by {value:.1e} in {what}"
        for what, values in (("size", sorted(sizes)), ("direction", sorted(directions)))
        for share, limit in TENSORS.items()
        if (value := values[int(share * len(values))]) > limit
    ]
