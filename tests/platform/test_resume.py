"""Processes that die: the driver, a trial's process, and the user's Ctrl-C. Nothing finished is trained again."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from gankd.config import build_config, read_preset, with_knobs
from gankd.naming import stage_keys
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store import Store
from gankd.store.artifact import sha256
from gankd.store.lease import process_start
from tests.conftest import ROOT, Done, Workplace, until

pytestmark = pytest.mark.timeout(900)  # seconds; half a minute each where nothing else runs
NAME = "tiny_gan"
LONG_GAN = {"biggan.steps": 120}
COMMON = ("--method", NAME, "--trials", "1", "--scheduler", "fifo", "--checkpoint-seconds", "0")


def command(place: Workplace, name: str, **more: object) -> list[str]:
    """The sweep as a command line; `more` are further knobs, with `__` for the dot."""
    knobs = LONG_GAN | {knob.replace("__", "."): value for knob, value in more.items()}
    return [sys.executable, str(ROOT / "tune.py"), *COMMON, "--name", name, *(f"--set={k}={v}" for k, v in knobs.items())]


def keys_of(**more: object) -> dict[str, str]:
    """Stage -> key of the sweep's only trial, which is the preset with these knobs."""
    from gankd.data import load

    config = config_of(**more)
    return stage_keys(find_method(NAME), config, load(config.data).fingerprint)


def config_of(**more: object) -> Any:
    knobs = LONG_GAN | {knob.replace("__", "."): value for knob, value in more.items()}
    method = find_method(NAME)
    return build_config(method.config, with_knobs(read_preset(method.presets, "digits"), knobs))


def checkpoints(place: Workplace, key: str, at_least: int) -> Sequence[Path]:
    """The checkpoints of a stage, once the newest is that far. At --checkpoint-seconds 0 each step writes one."""
    found = sorted((place.storage / "checkpoints" / key).glob("*.ckpt"))
    return found if found and int(found[-1].name.partition("-")[0]) >= at_least else []


def listening(root: int) -> set[str]:
    """The addresses on which a process and its descendants listen."""
    family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    found = set()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert found
    return found


def files(artifact: Path) -> dict[str, str]:
    """Path -> digest of what a stage made."""
    made = (file for file in artifact.rglob("*") if file.is_file() and file.name != "manifest.json")
    return {str(file.relative_to(artifact)): sha256(file) for file in made}


def members(group: int) -> list[int]:
    """The living processes of a process group."""
    return [
        int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and in_group(p, group) and process_start(int(p.name))
    ]


def in_group(process: Path, group: int) -> bool:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[2]) == group
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plugin: Path) -> Workplace:
    return Workplace(tmp_path_factory.mktemp("resume"), plugin)


@pytest.fixture(scope="module")
def resumed(place: Workplace) -> Done:
    """A sweep that was killed in the middle of the GAN, and then gone on with."""
    gan = keys_of()["biggan"]
    with place.started(command(place, "killed")) as process:
        until(lambda: checkpoints(place, gan, at_least=10), alive=process)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        until(lambda: not members(process.pid))
    assert not Store(place.storage).has(gan), "it was killed too late"
    return place.tune("--resume", "killed", timeout=400)


def test_a_killed_sweep_is_gone_on_with(place: Workplace, resumed: Done) -> None:
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert [trial["status"] for trial in place.trials("killed")] == ["finished"]
    assert "registered digits-student version 1" in resumed.stdout


def test_finished_stages_are_not_trained_again(place: Workplace, resumed: Done) -> None:
    started = [event["stage"] for event in place.events("killed", "stage_start")]
    assert sorted(started) == sorted([stage.name for stage in find_method(NAME).stages] + ["biggan"])


def test_the_killed_stage_goes_on_from_its_checkpoint(place: Workplace, resumed: Done) -> None:
    starts = [event["time"] for event in place.events("killed", "stage_start") if event["stage"] == "biggan"]
    losses = [e for e in place.events("killed", "metrics") if "biggan/loss_generator" in e["values"]]
    after = [event["step"] for event in losses if event["time"] >= starts[1]]
    assert after[0] > 10
    assert after == list(range(after[0], LONG_GAN["biggan.steps"] + 1))


def test_it_ends_where_an_undisturbed_run_ends(place: Workplace, resumed: Done, tmp_path: Path) -> None:
    run(Job(NAME, config_of().model_dump(mode="json"), str(tmp_path), threads=1))
    keys = keys_of()
    for stage in [stage.name for stage in find_method(NAME).made_always()]:
        ours, theirs = (files(root / "artifacts" / keys[stage]) for root in (tmp_path, place.storage))
        assert ours == theirs, stage
        assert ours, stage


def test_a_trial_whose_process_dies_is_taken_over(place: Workplace, resumed: Done) -> None:
    student = keys_of(student__steps=150)["student"]
    with place.started(command(place, "orphan", student__steps=150)) as process:
        until(lambda: checkpoints(place, student, at_least=10), alive=process)
        (lease,) = (place.storage / "leases").glob(f"{student}.*.json")
        victim = json.loads(lease.read_text())["pid"]
        assert victim != process.pid
        os.kill(victim, signal.SIGKILL)
        assert process.wait(timeout=400) == 0, place.output()
    starts = [event for event in place.events("orphan", "stage_start") if event["stage"] == "student"]
    losses = [
        e["step"] for e in place.events("orphan", "metrics") if e["time"] >= starts[1]["time"] and "student/loss" in e["values"]
    ]
    assert len(starts) == 2
    assert losses[0] > 10
    assert [trial["status"] for trial in place.trials("orphan")] == ["finished"]


def test_ctrl_c_says_how_to_go_on(place: Workplace, resumed: Done) -> None:
    student = keys_of(student__steps=100_000)["student"]
    with place.started(command(place, "stopped", student__steps=100_000)) as process:
        until(lambda: checkpoints(place, student, at_least=3), alive=process)
        assert listening(process.pid) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=120) == 130, place.output()
        assert "Go on with: python tune.py --resume stopped" in place.output()
        assert "Traceback" not in place.output()
        until(lambda: not members(process.pid), seconds=30)
