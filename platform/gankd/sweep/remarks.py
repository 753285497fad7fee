"""What the user should know before a sweep starts, in a sentence each."""

from __future__ import annotations

import os
from pathlib import Path

from gankd.data import load
from gankd.sweep.extent import different_points
from gankd.sweep.plan import Sweep

CPU, NVIDIA = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia")
BF16_PIXELS = 32  # the image size from which bf16 has been seen to be faster on a CPU


def remarks(sweep: Sweep, *, this_machine: bool) -> list[str]:
    """Sentences about the sweep; those about hardware where it runs on `this_machine` alone."""
    said = [small_space(sweep), *([bf16_unused(sweep), ray_elsewhere()] if this_machine else [])]
    return [sentence for sentence in said if sentence]


def small_space(sweep: Sweep) -> str:
    """That the space holds fewer points than trials are asked for; a table asks for none."""
    if sweep.table is not None:
        return ""
    asked, there = sweep.request.trials * sweep.space.cells, different_points(sweep.space, sweep.tree)
    if there is None or there >= asked:
        return ""
    return f"the space holds {there} different point{'s' * (there != 1)} with the preset's, so {there} trials run and not {asked}"


def ray_elsewhere() -> str:
    """That RAY_ADDRESS names a cluster which the sweep does not use."""
    place = os.environ.get("RAY_ADDRESS")
    return f"RAY_ADDRESS={place} is not used: the sweep runs on this machine alone (--address auto goes there)" if place else ""


def bf16_unused(sweep: Sweep) -> str:
    """That the CPU has bf16 in hardware, and stages leave it unused because `precision` is auto."""
    config = sweep.config
    sections = [name for name in type(config).model_fields if getattr(getattr(config, name), "precision", "") == "auto"]
    if not sections or sweep.request.gpus_per_worker or NVIDIA.exists() or not bf16_in_hardware():
        return ""
    if load(config.data).image_size < BF16_PIXELS:
        return ""
    flags = " ".join(f"--set {name}.precision=bf16" for name in sections)
    return f"this CPU has bf16 in hardware, which `precision: auto` leaves to GPUs; training is up to twice as fast with {flags}"


def bf16_in_hardware() -> bool:
    """Whether this CPU has AVX512-BF16 or AMX; where the system does not tell, it has not. torch knows too, in three seconds."""
    flags = CPU.read_text() if CPU.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags
