"""A method whose trial takes a fixed time and trains nothing: what is left of a sweep is the platform's own time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gankd.config import MethodConfig, Section, knob
from gankd.method import Method, Stage


class NapConfig(Section):
    """How long a trial takes."""

    seconds: float = knob(1.0, "length of a trial", unit="seconds", origin="ours", ge=0)
    number: int = knob(0, "tells trials apart", origin="ours", ge=0)


class StubConfig(MethodConfig):
    """All knobs."""

    nap: NapConfig = NapConfig()


def nap(ctx: Any, cfg: NapConfig, data: Any) -> dict[str, float]:
    """Sleep; an artifact of one small file."""
    time.sleep(cfg.seconds)
    (ctx.out / "number.txt").write_text(str(cfg.number))
    return {"val_accuracy": float(cfg.number % 100)}


METHOD = Method(
    name="stub",
    title="Stub",
    summary="a trial of a fixed length",
    config=StubConfig,
    stages=(Stage("nap", "gankd_stub:nap"),),
    presets=Path(__file__).parent / "presets",
    objective="nap/val_accuracy",
    space="gankd_stub.space",
)
