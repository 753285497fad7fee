"""Processes that die: the driver and a trial's process. Nothing finished is trained again."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gankd.config import build_config, read_preset, with_knobs
from gankd.naming import stage_keys
from gankd.paths import file_digest
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store import Store
from tests.conftest import ROOT, Workplace, members, until

pytestmark = pytest.mark.timeout(900)  # seconds; half a minute each where nothing else runs
NAME = "tiny_gan"
LONG = {"biggan.steps": 80, "student.steps": 200}
READS = {"biggan": "feature_classifier", "student": "teacher"}
COMMON = ("--method", NAME, "--trials", "1", "--scheduler", "fifo", "--checkpoint-seconds", "0")


def command(place: Workplace, name: str, **more: object) -> list[str]:
    """The sweep as a command line; `more` are further knobs, with `__` for the dot."""
    knobs = LONG | {knob.replace("__", "."): value for knob, value in more.items()}
    return [sys.executable, str(ROOT / "tune.py"), *COMMON, "--name", name, *(f"--set={k}={v}" for k, v in knobs.items())]


def keys_of(**more: object) -> dict[str, str]:
    """Stage -> key of the sweep's only trial, which is the preset with these knobs."""
    from gankd.data import load

    config = config_of(**more)
    return stage_keys(find_method(NAME), config, load(config.data).fingerprint)


def config_of(**more: object) -> Any:
    knobs = LONG | {knob.replace("__", "."): value for knob, value in more.items()}
    method = find_method(NAME)
    return build_config(method.config, with_knobs(read_preset(method.presets, "digits"), knobs))


def checkpoints(place: Workplace, key: str, at_least: int) -> Sequence[Path]:
    """The checkpoints of a stage, once the newest is that far. At --checkpoint-seconds 0 each step writes one."""
    found = sorted((place.storage / "checkpoints" / key).glob("*.ckpt"))
    return found if found and int(found[-1].name.partition("-")[0]) >= at_least else []


def files(artifact: Path) -> dict[str, str]:
    """Path -> digest of what a stage made."""
    made = (file for file in artifact.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {str(file.relative_to(artifact)): file_digest(file) for file in made}


def spoil(place: Workplace, key: str) -> None:
    """Damage the weights of an artifact."""
    weights = place.storage / "artifacts" / key / "model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)


def shared() -> list[str]:
    return [stage.name for stage in find_method(NAME).shared(["student.lr"])]


@pytest.fixture(scope="module", params=["student", pytest.param("biggan", marks=pytest.mark.long)])
def killed(request: pytest.FixtureRequest) -> str:
    """The stage in whose middle the driver is killed: in a trial's process, or on Ray Train."""
    stage: str = request.param
    return stage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plugin: Path, empty_store: Path, killed: str) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("resume"), plugin, database=empty_store)
    if killed == "student":
        place.make(NAME, shared(), LONG, preset="digits")
    return place


@pytest.fixture(scope="module")
def resumed(place: Workplace, killed: str) -> str:
    """A sweep whose driver was killed, with all its processes, and after it has been gone on with, its trial's process.

    An artifact was damaged in between.
    """
    keys = keys_of()
    with place.started(command(place, "killed")) as process:
        until(lambda: checkpoints(place, keys[killed], at_least=10), alive=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not members(process.pid))
    assert not Store(place.storage).has(keys[killed]), "it was killed too late"
    spoil(place, keys[READS[killed]])
    with place.started([sys.executable, str(ROOT / "tune.py"), "--resume", "killed"]) as process:
        until(lambda: checkpoints(place, keys["student"], at_least=70), alive=process)
        (lease,) = (place.storage / "leases").glob(f"{keys['student']}.*.json")
        victim = json.loads(lease.read_text())["pid"]
        assert victim != process.pid
        os.kill(victim, signal.SIGKILL)
        assert process.wait(timeout=400) == 0, place.output()
    return place.output()


def test_a_killed_sweep_is_gone_on_with(place: Workplace, resumed: str) -> None:
    assert [trial["status"] for trial in place.trials("killed")] == ["finished"]
    assert "registered digits-student version 1" in resumed


def test_finished_stages_are_not_trained_again(place: Workplace, resumed: str, killed: str) -> None:
    started = [event["stage"] for event in place.events("killed", "stage_start")]
    before = shared() if killed == "biggan" else []
    assert sorted(started) == sorted([*before, "student", killed, "student", READS[killed]])  # killed twice, and damaged


def test_damage_is_said(resumed: str, killed: str) -> None:
    assert f"the artifact {keys_of()[READS[killed]]} in" in resumed


def test_killed_stages_go_on_from_their_checkpoints(place: Workplace, resumed: str, killed: str) -> None:
    for stage, loss in (("biggan", "loss_generator"), ("student", "loss")):
        starts = [event["time"] for event in place.events("killed", "stage_start") if event["stage"] == stage]
        steps = {"biggan": [10], "student": [10, 70] if killed == "student" else [70]}[stage]
        logged = [event for event in place.events("killed", "metrics") if f"{stage}/{loss}" in event["values"]]
        for again, before in zip(starts[1:], steps, strict=killed == stage or stage == "student"):
            after = sorted(event["step"] for event in logged if event["time"] >= again)
            assert after[0] > before
            assert after[-1] == LONG[f"{stage}.steps"]
            assert stage == "student" or after == list(range(after[0], after[-1] + 1))


def test_it_ends_where_an_undisturbed_run_ends(place: Workplace, resumed: str, tmp_path: Path) -> None:
    run(Job(NAME, config_of().model_dump(mode="json"), str(tmp_path), threads=1))
    keys = keys_of()
    for stage in [stage.name for stage in find_method(NAME).made_always()]:
        ours, theirs = (files(root / "artifacts" / keys[stage]) for root in (tmp_path, place.storage))
        assert ours == theirs, stage
        assert ours, stage


@pytest.mark.long  # mended on the way, damage is in `resumed`
@pytest.mark.parametrize("killed", ["biggan"], indirect=True)
def test_damage_to_what_is_recorded_is_said_and_mended(place: Workplace, resumed: str) -> None:
    """In a fresh registry, so that the student is read: a network that is registered already is not."""
    keys, artifacts = keys_of(), place.storage / "artifacts"
    before = {stage: files(artifacts / keys[stage]) for stage in ("biggan", "student")}
    spoil(place, keys["student"])
    (artifacts / keys["biggan"] / "manifest.json").unlink()
    place.environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{place.folder / 'fresh.db'}"
    try:
        done = place.tune("--resume", "killed")
    finally:
        del place.environment["MLFLOW_TRACKING_URI"]
    assert done.returncode == 0, done.stdout + done.stderr
    for stage in before:
        assert f"the artifact {keys[stage]} in" in done.stdout + done.stderr
    assert "registered digits-generator version 1" in done.stdout
    assert "registered digits-student version 1" in done.stdout
    assert {stage: files(artifacts / keys[stage]) for stage in before} == before
