"""Processes that die: the driver and a trial's process. Nothing finished is trained again."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gankd.config import build_config, read_preset, with_knobs
from gankd.naming import stage_keys
from gankd.paths import file_digest
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store import Store
from gankd.store.lease import holder
from tests.conftest import ROOT, Workplace, members, until

pytestmark = pytest.mark.timeout(900)  # seconds; half a minute each where nothing else runs
NAME = "tiny_gan"
LONG = {"biggan.steps": 80, "student.steps": 600}
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


def newest(place: Workplace, key: str) -> int:
    """The step of a stage's newest checkpoint, 0 before the first. At --checkpoint-seconds 0 each step writes one."""
    return max((int(file.name.partition("-")[0]) for file in (place.storage / "checkpoints" / key).glob("*.ckpt")), default=0)


def leases(place: Workplace, key: str = "*") -> list[Path]:
    return list((place.storage / "leases").glob(f"{key}.*.json"))


def holding(place: Workplace, key: str) -> int:
    """The process that trains a stage."""
    (lease,) = leases(place, key)
    return int(json.loads(lease.read_text())["pid"])


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
def reached() -> dict[str, list[int]]:
    """Stage -> the steps at which `resumed` has killed it."""
    return {"biggan": [], "student": []}


@pytest.fixture(scope="module")
def resumed(place: Workplace, killed: str, reached: dict[str, list[int]]) -> str:
    """A sweep whose driver was killed, with all its processes, and after it has been gone on with, its trial's process.

    An artifact was damaged in between.
    """
    keys = keys_of()
    with place.started(command(place, "killed")) as process:
        until(lambda: newest(place, keys[killed]) >= 10, alive=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # Ray's workers have groups of their own, and live until they miss the raylet: a stage could end until then.
        with suppress(ProcessLookupError):
            os.kill(holding(place, keys[killed]), signal.SIGKILL)
        until(lambda: not members(process.pid) and not any(holder(lease.read_bytes()) for lease in leases(place)))
    assert not Store(place.storage).has(keys[killed]), "it was killed too late"
    reached[killed].append(newest(place, keys[killed]))
    before = newest(place, keys["student"]) + 30
    spoil(place, keys[READS[killed]])
    with place.started([sys.executable, str(ROOT / "tune.py"), "--resume", "killed"]) as process:
        reached["student"].append(until(lambda: step if (step := newest(place, keys["student"])) >= before else 0, alive=process))
        victim = holding(place, keys["student"])
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


def test_killed_stages_go_on_from_their_checkpoints(place: Workplace, resumed: str, reached: dict[str, list[int]]) -> None:
    for stage, loss in (("biggan", "loss_generator"), ("student", "loss")):
        starts = [event["time"] for event in place.events("killed", "stage_start") if event["stage"] == stage]
        logged = [event for event in place.events("killed", "metrics") if f"{stage}/{loss}" in event["values"]]
        for again, before in zip(starts[1:], reached[stage], strict=True):
            after = sorted(event["step"] for event in logged if event["time"] >= again)
            assert after[0] > before
            assert after[-1] == LONG[f"{stage}.steps"]
            assert stage == "student" or after == list(range(after[0], after[-1] + 1))
    made = Store(place.storage).manifest(keys_of()["student"])
    assert made is not None
    assert made["earlier_device_seconds"] > 0  # what the killed processes had spent


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
