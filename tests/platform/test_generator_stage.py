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
from gankd.stages.watch import Watch, WatchedTraining, looks
from gankd.store import Store

METHOD = find_method("cgan_kd")
STAGES = ("feature_classifier", "real_statistics", "biggan")
FEW = {"biggan.steps": 24, "biggan.evaluations": 4, "biggan.sample_grids": 0, "feature_classifier.epochs": 1}


Made = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], dict[str, float]]


def made(root: Path, **knobs: Any) -> Made:
    """The artifact's weights, those of the folder beside it, and the metrics of the GAN stage."""
    changes = FEW | {name.replace("__", "."): value for name, value in knobs.items()}
    config = build_config(METHOD.config, with_knobs(read_preset(METHOD.presets, "smoke"), changes))
    found = run(Job("cgan_kd", config.model_dump(mode="json"), str(root), stages=STAGES, threads=1, checkpoint_seconds=0))
    key = stage_keys(METHOD, config, load(config.data).fingerprint)["biggan"]
    artifact = Store(root).get(key)
    assert artifact is not None
    other = "last" if config.biggan.keep == "best" else "best"
    weights = [load_file(artifact.file(name)) for name in ("model.safetensors", f"{other}/model.safetensors")]
    metrics = {name.partition("/")[2]: value for name, value in found.items() if name.startswith("biggan/")}
    return weights[0], weights[1], {name: value for name, value in metrics.items() if name != "evaluation_share"}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture
def worse_and_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every evaluation but the first two finds a worse generator than the one before."""
    from gankd.stages import watch

    real, seen = watch.score_network, []

    def score(*args: Any) -> dict[str, float]:
        found = real(*args)
        seen.append(args)
        return found | {"fid_classifier": abs(len(seen) - 2) + 1.0}

    monkeypatch.setattr(watch, "score_network", score)


def test_the_best_generator_is_that_of_the_lowest_fid(tmp_path: Path, worse_and_worse: None) -> None:
    last, best, metrics = made(tmp_path / "last")
    assert not same(last, best)
    assert (metrics["step"], metrics["fid_classifier"], metrics["best_fid_classifier"]) == (24, 3.0, 1.0)
    at_twelve, _, _ = made(tmp_path / "twelve", biggan__steps=12, biggan__evaluations=2)
    assert same(best, at_twelve)


def test_either_can_be_the_artifact(tmp_path: Path, undisturbed: Made) -> None:
    last, best, _ = undisturbed
    kept, beside, metrics = made(tmp_path / "best", biggan__keep="best")
    assert same(kept, best)
    assert same(beside, last)
    assert metrics["fid_classifier"] == metrics["best_fid_classifier"]


def test_measuring_changes_nothing_of_the_training(tmp_path: Path, undisturbed: Made) -> None:
    often, _, _ = made(tmp_path, biggan__evaluations=12, biggan__sample_grids=3)
    assert same(often, undisturbed[0])


@pytest.mark.parametrize("step", [5, 13, 23])
def test_a_resumed_gan_is_the_undisturbed_one(
    tmp_path: Path, step: int, undisturbed: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = WatchedTraining.step

    def interrupted(self: WatchedTraining, at: int, rng: torch.Generator) -> Any:
        if at == step:
            raise KeyboardInterrupt
        return whole(self, at, rng)

    monkeypatch.setattr(WatchedTraining, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path / "stopped")
    monkeypatch.setattr(WatchedTraining, "step", whole)
    resumed = made(tmp_path / "stopped")
    assert same(resumed[0], undisturbed[0])
    assert same(resumed[1], undisturbed[1])
    assert resumed[2] == undisturbed[2]


@pytest.mark.parametrize(
    ("steps", "evaluations", "sample_grids", "expected"),
    [(100, 10, 4, (10, 4)), (100, 4, 10, (4, 10)), (25, 10, 4, (9, 4)), (3, 10, 4, (3, 3)), (7, 1, 0, (1, 0))],
)
def test_looks_are_spread_over_the_training(steps: int, evaluations: int, sample_grids: int, expected: tuple[int, int]) -> None:
    watch = object.__new__(Watch)
    watch.steps = steps
    watch.every, watch.looks = looks(steps, max(evaluations, sample_grids))
    looked = [step for step in range(1, steps + 1) if step % watch.every == 0 or step == steps]
    due = [[step for step in looked if watch._due(step, times)] for times in (evaluations, sample_grids)]
    assert due[0][-1] == steps
    assert (len(due[0]), len(due[1])) == expected
