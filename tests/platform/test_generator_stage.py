"""The GAN stage: it is measured while it trains, keeps its last and its best generator, and resumes exactly with both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gankd.config import build_config, read_preset, with_knobs
from gankd.data import load
from gankd.naming import stage_keys
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.stages.evaluation import Evaluation, occasions
from gankd.stages.generator import EvaluatedTraining
from gankd.stages.sections import GanConfig
from gankd.store import Store

METHOD = find_method("cgan_kd")
STAGES = ("feature_classifier", "biggan")
FEW = {"biggan.steps": 24, "biggan.evaluations": 4, "biggan.sample_grids": 0, "feature_classifier.epochs": 1}


Made = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, float]]


def made(root: Path, **knobs: Any) -> Made:
    """The artifact's weights, those of the last generator, and the metrics of the GAN stage."""
    changes = FEW | {name.replace("__", "."): value for name, value in knobs.items()}
    config = build_config(METHOD.config, with_knobs(read_preset(METHOD.presets, "smoke"), changes))
    result = run(Job("cgan_kd", config.model_dump(mode="json"), str(root), stages=STAGES, threads=1, checkpoint_seconds=0))
    key = stage_keys(METHOD, config, load(config.data).fingerprint)["biggan"]
    artifact = Store(root).get(key)
    assert artifact is not None
    last = "last/model.safetensors" if config.biggan.keep == "best" else "model.safetensors"
    weights = [load_file(artifact.file(name)) for name in ("model.safetensors", last)]
    return weights[0], weights[1], {name.partition("/")[2]: v for name, v in result.items() if name.startswith("biggan/")}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def worse_and_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation but the first two finds a worse generator than the one before."""
    from gankd.stages import evaluation

    real, seen = evaluation.score_network, []

    def score(*args: Any) -> dict[str, float]:
        metrics = real(*args)
        seen.append(args)
        return metrics | {"fid_classifier": abs(len(seen) - 2) + 1.0}

    monkeypatch.setattr(evaluation, "score_network", score)


def test_the_best_generator_is_that_of_the_lowest_fid(tmp_path: Path, worse_and_worse: None) -> None:
    best, last, metrics = made(tmp_path / "best", biggan__keep="best")
    assert not same(last, best)
    assert (metrics["step"], metrics["fid_classifier"]) == (12, 1.0)
    at_twelve, _, _ = made(tmp_path / "twelve", biggan__steps=12, biggan__evaluations=2)
    assert same(best, at_twelve)


def test_either_can_be_the_artifact(tmp_path: Path, undisturbed: Made) -> None:
    kept, _, metrics = undisturbed
    _, last, _ = made(tmp_path / "best", biggan__keep="best")
    assert same(kept, last)
    assert set(metrics) == {"step", "parameters"}  # what depends on how it was looked at is no part of the artifact


def test_measuring_changes_nothing_of_the_training(tmp_path: Path, undisturbed: Made) -> None:
    often, _, metrics = made(tmp_path / "often", biggan__evaluations=12, biggan__sample_grids=3)
    assert same(often, undisturbed[0])
    assert metrics == undisturbed[2]


def test_the_key_of_the_last_generator_omits_how_it_was_looked_at() -> None:
    def key(**knobs: Any) -> str:
        config = METHOD.config.model_validate({"biggan": knobs, "feature_classifier": {"epochs": knobs.pop("epochs", 3)}})
        return stage_keys(METHOD, config, "data")["biggan"]

    assert key() == key(evaluations=3, evaluation_images=77, sample_grids=1) == key(epochs=9)
    best = key(keep="best")
    assert best != key()
    assert best == key(keep="best", sample_grids=1)
    assert best not in (key(keep="best", evaluations=3), key(keep="best", epochs=9))


@pytest.mark.parametrize("step", [5, 13, 23])
def test_a_resumed_gan_is_the_undisturbed_one(
    tmp_path: Path, step: int, undisturbed: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = EvaluatedTraining.step

    def interrupted(self: EvaluatedTraining, at: int, rng: torch.Generator) -> Any:
        if at == step:
            raise KeyboardInterrupt
        return whole(self, at, rng)

    monkeypatch.setattr(EvaluatedTraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "stopped")
    monkeypatch.setattr(EvaluatedTraining, "step", whole)
    resumed = made(tmp_path / "stopped")
    assert same(resumed[0], undisturbed[0])
    assert same(resumed[1], undisturbed[1])
    assert resumed[2] == undisturbed[2]


@pytest.mark.parametrize(
    ("steps", "evaluations", "sample_grids", "expected"),
    [(100, 10, 4, (10, 4)), (100, 4, 10, (4, 10)), (25, 10, 4, (9, 4)), (3, 10, 4, (3, 3)), (7, 1, 0, (1, 0))],
)
def test_occasions_are_spread_over_the_training(
    steps: int, evaluations: int, sample_grids: int, expected: tuple[int, int]
) -> None:
    evaluation = object.__new__(Evaluation)
    evaluation.cfg = GanConfig(steps=steps)
    evaluation.every, evaluation.occasions = occasions(steps, max(evaluations, sample_grids))
    all_occasions = [step for step in range(1, steps + 1) if step % evaluation.every == 0 or step == steps]
    due = [[step for step in all_occasions if evaluation._due(step, times)] for times in (evaluations, sample_grids)]
    assert due[0][-1] == steps
    assert (len(due[0]), len(due[1])) == expected
