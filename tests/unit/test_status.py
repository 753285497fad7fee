"""`gankd status`: what the records, events and leases of a sweep tell whoever looks from another terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from gankd.commands.status import duration, sweep_status
from gankd.errors import UserError
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.progress import follow
from gankd.sweep.records import SweepRecords, TrialRecord

KEYS = {stage: f"{stage}-{'0' * 20}" for stage in ("teacher", "biggan", "student")}


def event(kind: str, at: float, stage: str = "biggan", **further: object) -> dict[str, object]:
    return {"kind": kind, "time": int(at * 1000), "key": KEYS[stage], "stage": stage, **further}


def test_time_left_is_at_the_pace_since_it_was_first_seen() -> None:
    events = [event("stage_start", 100), event("progress", 110, step=50, total=200)]
    assert follow(events).running[KEYS["biggan"]].seconds_left() is None
    events.append(event("progress", 130, step=100, total=200))  # resumed at 50, 50 more steps in 20 s
    assert follow(events).running[KEYS["biggan"]].seconds_left() == pytest.approx(40)
    seen = follow([*events, event("stage_end", 170, status="finished", metrics={}, reason="")])
    assert not seen.running
    assert seen.ended == {"finished": 1}
    assert seen.device_seconds == pytest.approx(70)


def shown(name: str, storage: str) -> str:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(sweep_status(name, storage))
    return console.export_text()


def test_a_running_sweep(tmp_path: Path) -> None:
    storage = str(tmp_path)
    records = SweepRecords(storage, "mine")
    records.save_request({"method": "cgan_kd", "trials": 8})
    for trial, status, value in (
        ("aa", "finished", 81.0),
        ("bb", "finished", 83.5),
        ("cc", "failed", 99.0),
        ("dd", "running", 1.0),
    ):
        records.save_trial(TrialRecord(trial, {}, status, {"student/val_accuracy": value}))  # type: ignore[arg-type]
    events = EventWriter(records.events, "prefix")
    for stage in ("teacher", "biggan"):
        events.emit("stage_start", key=KEYS[stage], stage=stage, config={}, inputs={}, trial="")
    events.emit("stage_end", key=KEYS["teacher"], stage="teacher", trial="", status="finished", metrics={}, reason="")
    events.emit("progress", key=KEYS["biggan"], stage="biggan", trial="", step=300, total=1200, rate=1.0)
    events.close()
    assert "not running" in shown("mine", storage)
    assert "interrupted" in shown("mine", storage)
    with records.held(), Store(storage).lease(KEYS["biggan"]):
        text = shown("mine", storage)
    for part in (
        "cgan_kd, running: ",
        "biggan",
        "shared",
        "300/1,200",
        "1 finished",
        "trials of 8: 1 failed, 2 finished, 1 running",
    ):
        assert part in text, part
    assert "teacher" not in text
    assert "interrupted" not in text
    assert "best: trial bb, student/val_accuracy 83.5" in text


def test_an_unknown_sweep_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep 'mine'"):
        sweep_status("mine", str(tmp_path))


def test_durations() -> None:
    assert [duration(s) for s in (5, 65.4, 3600 + 62)] == ["0:05", "1:05", "1:01:02"]
