"""A transfer that was interrupted goes on from its last checkpoint and ends, to the bit, where the undisturbed one does."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from gankd.config import build_config, read_preset, with_knobs
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.stages.generator import EvaluatedTraining
from gankd.store import Store

METHOD = find_method("cgan_transfer")


BEFORE, STAGES = ("feature_classifier", "pretrain", "real_statistics"), ("bn", "ft")


def transfer(storage: Path, stages: tuple[str, ...] = STAGES) -> dict[str, float]:
    tree = with_knobs(
        read_preset(METHOD.presets, "smoke"), {"training.steps": 12, "pretrain.steps": 10, "feature_classifier.epochs": 1}
    )
    config = build_config(METHOD.config, tree).model_dump(mode="json")
    return run(Job("cgan_transfer", config, str(storage), stages=stages, threads=1, checkpoint_seconds=0))


def test_an_interrupted_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transfer(tmp_path / "interrupted", BEFORE)
    shutil.copytree(tmp_path / "interrupted", tmp_path / "undisturbed")
    undisturbed = transfer(tmp_path / "undisturbed")
    plain, left = EvaluatedTraining.step, {"bn": 4, "ft": 3}

    def interrupted(self: EvaluatedTraining, step: int, rng: torch.Generator) -> Any:
        stage = self.ctx.stage
        if step == left.get(stage):
            del left[stage]
            raise KeyboardInterrupt
        return plain(self, step, rng)

    monkeypatch.setattr(EvaluatedTraining, "step", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            transfer(tmp_path / "interrupted")
    assert transfer(tmp_path / "interrupted") == undisturbed
    stores = [Store(tmp_path / name) for name in ("undisturbed", "interrupted")]
    for entry in stores[0].ls():
        one, other = (store.get(entry.key) for store in stores)
        assert one
        assert other
        assert {name: file["sha256"] for name, file in one.manifest["files"].items()} == {
            name: file["sha256"] for name, file in other.manifest["files"].items()
        }
