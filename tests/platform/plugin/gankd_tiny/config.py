"""The knobs."""

from gankd.config import MethodConfig, Section, knob


class SmallConfig(Section):
    """How a small classifier is trained."""

    lr: float = knob(0.1, "learning rate", origin="ours", gt=0)
    steps: int = knob(100, "optimiser steps", unit="steps", origin="ours", ge=1)
    batch: int = knob(50, "images per step over all workers", unit="images", origin="ours", ge=1)


class TinyConfig(MethodConfig):
    """All knobs."""

    teacher: SmallConfig = SmallConfig()
    student: SmallConfig = SmallConfig()
