"""RGAL's alternation: which step belongs to which phase, when the student is evaluated, and in what count it is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gankd import models
from gankd.config import build_config, parse_overrides, read_preset, with_knobs
from gankd.data import load
from gankd.engine import train
from gankd.registry import find_method
from methods.rgal.alternation import Alternation, NoiseTraining, Phase, phases
from methods.rgal.config import RgalConfig
from tests.methods.rgal_fixtures import context

ROUNDS = ("student.rounds=41", "student.kd_steps=2", "synthesis.g_steps=3", "student.warm_up=2")


def training(folder: Path, kind: type, *assignments: str) -> Any:
    cfg = build_config(RgalConfig, with_knobs(read_preset(find_method("rgal").presets, "smoke"), parse_overrides(assignments)))
    torch.manual_seed(0)
    teacher = models.build("small_cnn", classes=10, image_channels=1, image_size=8, width=8).eval().requires_grad_(False)
    further = (cfg.synthesis,) if kind is Alternation else ()
    return kind(context(folder), cfg.student, load(cfg.data), teacher, *further)


def test_a_round_synthesises_then_distils_and_warm_up_only_synthesises() -> None:
    assert list(phases(rounds=2, kd_steps=4, g_steps=3, warm_up=1)) == [
        Phase("synthesis", -1, 0, 3),
        Phase("synthesis", 0, 3, 3),
        Phase("distillation", 0, 6, 4),
        Phase("synthesis", 1, 10, 3),
        Phase("distillation", 1, 13, 4),
    ]
    assert [(phase.kind, phase.start) for phase in phases(rounds=2, kd_steps=4)] == [("distillation", 0), ("distillation", 4)]


def test_every_step_is_one_of_the_paper_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int, int]] = []

    def recorded(kind: str) -> Any:
        def call(self: Alternation, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
            calls.append((kind, phase.round, index))
            return {}

        return call

    monkeypatch.setattr(Alternation, "synthesise", recorded("synthesise"))
    monkeypatch.setattr(Alternation, "distil", recorded("distil"))
    alternation = training(tmp_path, Alternation, *ROUNDS)
    for step in range(alternation.steps):
        alternation.step(step, torch.Generator())
    expected = []
    for number in range(-2, 41):
        expected += [("synthesise", number, index) for index in range(3)]
        expected += [("distil", number, index) for index in range(2) if number >= 0]
    assert calls == expected


@pytest.mark.parametrize("kind", [Alternation, NoiseTraining])
def test_it_is_evaluated_at_ends_of_rounds_and_compared_by_student_steps(tmp_path: Path, kind: type) -> None:
    """41 rounds and 20 evaluations: every second round, and the last."""
    rounds = training(tmp_path, kind, *ROUNDS)
    reported: list[tuple[int, float]] = []
    rounds.ctx.report = lambda metrics, step: reported.append((step, metrics["student/best_val_accuracy"]))
    metrics = train(rounds.ctx, rounds, steps=rounds.steps, batch=10)
    assert [step for step, _ in reported] == [2 * number for number in (*range(2, 41, 2), 41)]
    best = [value for _, value in reported]
    assert best == sorted(best)
    assert metrics["best_val_accuracy"] == best[-1] >= metrics["val_accuracy"]


def test_the_clock_stands_still_while_images_are_made(tmp_path: Path) -> None:
    rounds = training(tmp_path, Alternation, "student.rounds=2", "student.kd_steps=2", "synthesis.g_steps=3", "student.warm_up=1")
    assert [rounds.clock(step) for step in range(rounds.steps + 1)] == [0, 0, 0, 0, 0, 0, 0, 1, 2, 2, 2, 2, 3, 4]


def test_the_best_accuracy_outlives_a_checkpoint(tmp_path: Path) -> None:
    first, second = training(tmp_path / "a", NoiseTraining), training(tmp_path / "b", NoiseTraining)
    first.best_val_accuracy = 99.0
    second.load_state_dict(first.state_dict())
    assert second.evaluate(second.steps)["best_val_accuracy"] == 99.0
