"""Nothing stands twice in MLflow, whatever is lost, sent again, or made by two processes at once."""

import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gankd.store.events import EventWriter
from gankd.tracking import model_registry
from gankd.tracking.champion import give_alias
from gankd.tracking.model_registry import register
from gankd.tracking.runs import Runs
from tests.conftest import ROOT
from tests.platform.tracking_fixtures import Sweep, picture

KEY = "k" * 16


def rows(sweep: Sweep) -> list[tuple[Any, ...]]:
    """(kind, metric, step, value) of all metric rows, as the database has them."""
    with sqlite3.connect(sweep.folder / "mlflow.db") as database:
        query = (
            "SELECT t.value, m.key, m.step, m.value FROM metrics m JOIN tags t ON t.run_uuid = m.run_uuid "
            "JOIN runs r ON r.run_uuid = m.run_uuid WHERE t.key = 'gankd.kind' AND r.lifecycle_stage = 'active'"
        )
        return sorted(database.execute(query).fetchall())


def walk(sweep: Sweep, *steps: int, writer: EventWriter | None = None) -> None:
    for step in steps:
        values = {"student/loss": 1 / (step + 1), "student/share": step * 0.5}
        (writer or sweep.writer).emit("metrics", key=KEY, step=step, values=values)


def whole(sweep: Sweep, steps: int = 6) -> None:
    """The events of a trial, and of the conclusion."""
    emit = sweep.writer.emit
    emit("trial_start", trial="t0", params={}, keys={"student": KEY})
    emit("stage_start", key=KEY, stage="student", config={}, inputs={}, trial="t0")
    walk(sweep, *range(steps))
    emit("image", key=KEY, name="student/grid", step=3, png=picture())
    emit("stage_end", key=KEY, stage="student", trial="t0", status="finished", metrics={"student/acc": 0.5}, reason="")
    emit("trial_end", trial="t0", status="finished", metrics={"student/acc": 0.5}, reason="")
    emit("metrics", step=0, values={"objective": 0.5, "nan": float("nan"), "inf": float("inf")})


EXPECTED = 6 * 2 + 1 + 1 + 3


def new_driver(sweep: Sweep) -> None:
    sweep.tracker = sweep.open()


def lose_cursor(sweep: Sweep) -> None:
    sweep.tracker.cursor_path.unlink(missing_ok=True)
    new_driver(sweep)


def crash_before_the_cursor_moves(sweep: Sweep) -> None:
    def die(cursor: Any) -> None:
        raise SystemExit

    lose_cursor(sweep)
    sweep.tracker._advance = die  # type: ignore[method-assign]
    with pytest.raises(SystemExit):
        sweep.send()
    new_driver(sweep)


def crash_after_some_rows(sweep: Sweep) -> None:
    client, sent = sweep.tracker.runs.client, 0

    def log_batch(run_id: str, **what: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            raise SystemExit
        type(client).log_batch(client, run_id, **what)

    client.log_batch = log_batch
    with pytest.raises(SystemExit):
        sweep.send()
    new_driver(sweep)


def a_second_pump(sweep: Sweep) -> None:
    sweep.tracker.cursor_path.unlink(missing_ok=True)
    other = sweep.open()
    pumps = [threading.Thread(target=tracker.pump) for tracker in (other, sweep.open())]
    for pump in pumps:
        pump.start()
    for pump in pumps:
        pump.join()


def the_conclusion_again(sweep: Sweep) -> None:
    whole(sweep, 0)


def from_a_checkpoint_in_one_pump(sweep: Sweep) -> None:
    walk(sweep, 2, 3, 4, 5)
    walk(sweep, 4, 5)


def from_a_checkpoint_with_other_timings(sweep: Sweep) -> None:
    for step in (3, 4, 5):
        sweep.writer.emit("metrics", key=KEY, step=step, values={"student/share": step * 0.7})


INTERRUPTIONS: list[Callable[[Sweep], None]] = [
    new_driver, lose_cursor, crash_before_the_cursor_moves, crash_after_some_rows, a_second_pump, the_conclusion_again,
    from_a_checkpoint_in_one_pump, from_a_checkpoint_with_other_timings,
]  # fmt: skip


@pytest.mark.parametrize("sent_before", [True, False], ids=["sent", "unsent"])
@pytest.mark.parametrize("interrupt", INTERRUPTIONS, ids=lambda f: f.__name__)
def test_no_row_is_sent_twice(sweep: Sweep, interrupt: Callable[[Sweep], None], sent_before: bool) -> None:
    whole(sweep)
    sweep.writer.flush()
    if sent_before and interrupt is not crash_after_some_rows:
        sweep.send()
    interrupt(sweep)
    sweep.send()
    lose_cursor(sweep)
    sweep.send()
    found = rows(sweep)
    assert len(found) == EXPECTED
    assert len({row[:3] for row in found}) == EXPECTED
    assert len(list((sweep.folder / "pictures").rglob("*.png"))) == 1
    assert len(sweep.runs()) == 3


def test_a_step_that_comes_late_is_still_taken(sweep: Sweep) -> None:
    walk(sweep, 0, 5)
    sweep.send()
    walk(sweep, 3)
    sweep.send()
    assert [row[2] for row in rows(sweep) if row[1] == "student/loss"] == [0, 3, 5]


def test_two_sweeps_that_share_a_stage_draw_one_curve(sweep: Sweep) -> None:
    other = Sweep(sweep.folder, "s2")
    walk(sweep, 0, 1, 2, 3)  # the first one's worker dies at step 3, its driver has not sent the end yet
    other.writer.emit("stage_start", key=KEY, stage="student", config={}, inputs={}, trial="t0")
    walk(sweep, 2, 3, 4, writer=other.writer)
    other.send()
    sweep.send()
    walk(sweep, 5, writer=other.writer)
    other.send()
    assert [row[2] for row in rows(sweep) if row[1] == "student/loss"] == [0, 1, 2, 3, 4, 5]


def test_a_figure_that_has_changed_is_the_last_one_and_has_a_step_of_its_own(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(1)
    monkeypatch.setattr("gankd.store.events.time.time", lambda: next(clock))
    for value in (0.5, 0.5, 0.7, 0.7, 0.6, 0.5):
        sweep.writer.emit("metrics", step=0, values={"objective": value, "same": 1.0})
        sweep.send()
        lose_cursor(sweep)
        sweep.send()
    found = [(step, value) for _, name, step, value in rows(sweep) if name == "objective"]
    assert found == [(0, 0.5), (1, 0.7), (2, 0.6), (3, 0.5)]
    assert len(rows(sweep)) == 5
    (run,) = sweep.runs("sweep")
    assert run.data.metrics == {"objective": 0.5, "same": 1.0}


@pytest.mark.parametrize(
    "damage", [b"", b"garbage \xff", b"[1, 2]", b'{"driver": "two"}', b'{"driver": 1.5}', b'{"driver": -7}', b"[" * 100_000, None]
)
def test_a_damaged_cursor_is_set_aside_and_all_is_read_again(
    sweep: Sweep, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    whole(sweep)
    sweep.send()
    path = sweep.tracker.cursor_path
    path.unlink()
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    new_driver(sweep)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "s1.damaged1" in caplog.text
    sweep.send()
    assert len(rows(sweep)) == EXPECTED
    assert json.loads(path.read_text())
    assert (sweep.folder / "s1.damaged1").exists()


# Runs and versions.


def at_once(*work: Callable[[], Any]) -> list[Any]:
    """What each returns, all of them begun together."""
    start, found = threading.Barrier(len(work)), [None] * len(work)

    def do(place: int) -> None:
        start.wait()
        found[place] = work[place]()

    threads = [threading.Thread(target=do, args=(place,)) for place in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_two_sweeps_that_meet_at_a_stage_make_one_run(sweep: Sweep) -> None:
    others = [Runs(sweep.tracker.runs.client, sweep.tracker.runs.experiment_id, f"s{n}") for n in range(2, 5)]
    for runs in others:
        runs.sweep_run({})
    found = at_once(*(lambda runs=runs: runs.stage_run(KEY, "student") for runs in others))  # type: ignore[misc]
    assert len(set(found)) == 1
    assert len(sweep.runs("stage")) == 1


def test_on_a_server_the_younger_of_two_runs_withdraws(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing keeps the other out between the look and the making."""
    client, experiment = sweep.tracker.runs.client, sweep.tracker.runs.experiment_id
    first, second = (Runs(client, experiment, name) for name in ("s1", "s2"))
    second.sweep_run({})
    look, made = second._find, []

    def find_and_be_overtaken(kind: str, name: str) -> str | None:
        found = look(kind, name)
        if not made and name == KEY and sys._getframe(1).f_code.co_name == "_find_or_make":
            made.append(first.stage_run(KEY, "student"))  # after the look, upon which it makes a run
        return found

    monkeypatch.setattr("gankd.tracking.runs.alone", lambda uri: nullcontext(False))
    second._find = find_and_be_overtaken  # type: ignore[method-assign]
    assert second.stage_run(KEY, "student") == made[0]
    (run,) = sweep.runs("stage")
    assert run.info.run_id == made[0]


def test_experiments_that_are_made_at_once_are_one(sweep: Sweep) -> None:
    uri = f"sqlite:///{sweep.folder}/mlflow.db"
    found = at_once(*(lambda n=n: Runs.open(uri, "new/digits", sweep.folder, f"s{n}").experiment_id for n in range(3)))  # type: ignore[misc]
    assert len(set(found)) == 1


@pytest.fixture
def cheap_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting is none of this file's business, and takes a second."""
    monkeypatch.setattr(model_registry, "export", lambda network, example, path, meta: path.mkdir())


def registering(sweep: Sweep, key: str, value: float) -> Callable[[], Any]:
    folder = sweep.folder / key
    folder.mkdir()
    save_file(nn.Linear(2, 2).state_dict(), folder / "model.safetensors")
    (folder / "recipe.json").write_text("{}")
    run = sweep.tracker.run_of(key=key)
    return lambda: register(
        f"sqlite:///{sweep.folder}/mlflow.db", "digits-student", lambda: (nn.Linear(2, 2), (torch.zeros(2, 2),)), lambda: folder,
        key=key, metrics={"val/acc": value}, metric="val/acc", mode="max", facts={"data": "d"}, run_id=run,
    )  # fmt: skip


def versions(sweep: Sweep) -> dict[str, str]:
    found = sweep.tracker.runs.client.search_model_versions("name = 'digits-student'")
    return {str(version.version): version.tags["gankd.key"] for version in found}


@pytest.mark.usefixtures("cheap_export")
def test_an_artifact_that_is_registered_twice_at_once_is_one_version(sweep: Sweep) -> None:
    work = registering(sweep, "a", 0.5)
    found = at_once(work, work, work)
    assert versions(sweep) == {"1": "a"}
    assert {each.version for each in found} == {"1"}
    assert sorted(each.new for each in found) == [False, False, True]
    client = sweep.tracker.runs.client
    (shown,) = client.get_run(sweep.tracker.run_of(key="a")).outputs.model_outputs
    assert [model.model_id for model in client.search_logged_models([sweep.tracker.runs.experiment_id])] == [shown.model_id]


@pytest.mark.usefixtures("cheap_export")
def test_on_a_server_the_later_of_two_versions_withdraws(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    work, look, looks = registering(sweep, "a", 0.5), model_registry._of_key, []

    def look_and_be_overtaken(client: Any, name: str, key: str) -> Any:
        found = look(client, name, key)
        looks.append(found)
        if len(looks) == 2:  # the last look before it makes a version
            assert work().new
        return found

    monkeypatch.setattr(model_registry, "_of_key", look_and_be_overtaken)
    late = work()
    assert (late.version, late.new, late.alias) == ("1", False, "champion")
    assert versions(sweep) == {"1": "a"}


@pytest.mark.usefixtures("cheap_export")
def test_of_several_that_move_the_champion_at_once_the_best_stays(sweep: Sweep) -> None:
    values = {"a": 0.5, "b": 0.9, "c": 0.7}
    at_once(*(registering(sweep, key, value) for key, value in values.items()))
    aliases = sweep.tracker.runs.client.get_registered_model("digits-student").aliases
    assert versions(sweep)[str(aliases["champion"])] == "b"
    assert len(versions(sweep)) == 3


@pytest.mark.usefixtures("cheap_export")
@pytest.mark.parametrize("better", ["first", "second"])
def test_on_a_server_the_champion_is_the_better_of_two_that_overtake_each_other(sweep: Sweep, better: str) -> None:
    registering(sweep, "old", 0.1)()
    client = sweep.tracker.runs.client
    facts, values = {"data": "d"}, {"first": 0.5, "second": 0.9} if better == "second" else {"first": 0.9, "second": 0.5}
    made = {}
    for key, value in values.items():
        tags = {"gankd.key": key, "gankd.value": str(value), "gankd.comparable": json.dumps(facts)}
        made[key] = client.create_model_version("digits-student", "file:///x", sweep.tracker.run_of(key=key), tags=tags)
    set_alias = client.set_registered_model_alias

    def be_overtaken(name: str, alias: str, version: Any) -> None:
        client.set_registered_model_alias = set_alias
        give_alias(client, "digits-student", made["second"], values["second"], facts, "max")
        set_alias(name, alias, version)

    client.set_registered_model_alias = be_overtaken
    reason = give_alias(client, "digits-student", made["first"], values["first"], facts, "max")
    assert (reason == "") == (better == "first")
    aliases = client.get_registered_model("digits-student").aliases
    assert str(aliases["champion"]) == str(made[better].version)


# The first ones in a folder.

FIRST = """
import sys
from pathlib import Path
from gankd.store.events import EventReader
from gankd.tracking.tracker import Tracker
name, here = sys.argv[1], Path.cwd()
print("ready", flush=True)
sys.stdin.readline()
reader = EventReader(str(here / name))
tracker = Tracker(Tracker.default_uri(here), "rgal/digits", here / "mlruns", name, reader, here / "mlruns" / f"{name}.json")
tracker.open_sweep({}, {})
tracker.run_of(key="shared-stage")
print(tracker.runs.experiment_id)
"""


def test_two_first_sweeps_of_a_folder_begin_at_once(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"PYTHONPATH": str(ROOT / "platform")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST, f"s{n}"], cwd=tmp_path, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n in range(2)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert {out for out, _ in said} == {"1\n"}
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        kinds = database.execute("SELECT value, count(*) FROM tags WHERE key = 'gankd.kind' GROUP BY value").fetchall()
    assert kinds == [("stage", 1), ("sweep", 2)]


def test_tables_that_were_never_completed_are_made_anew(tmp_path: Path) -> None:
    """A process that was killed while it made them leaves them aside, where nobody takes them for the database."""
    from gankd.tracking.database import prepare

    (tmp_path / "mlflow.db.new").write_bytes(b"half of it")
    prepare(f"sqlite:///{tmp_path}/mlflow.db")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
