"""What the sweep's events become in MLflow, on a real SQLite store."""

import json
import math
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gankd.errors import UserError
from gankd.store.events import EventReader, EventWriter
from gankd.tracking import provenance
from gankd.tracking.pages import run_tables
from gankd.tracking.provenance import source_tags
from gankd.tracking.tracker import Tracker
from tests.platform.tracking_fixtures import DIGITS, Sweep, picture


def history(sweep: Sweep, run: Any, metric: str) -> list[tuple[int, float]]:
    found = sweep.tracker.runs.client.get_metric_history(run.info.run_id, metric)
    return sorted((m.step, m.value) for m in found)


def test_a_sweep_becomes_a_parent_with_trials_and_stages(sweep: Sweep) -> None:
    sweep.trial()
    assert sweep.send() == 8
    (parent,), (trial,), (stage,) = sweep.runs("sweep"), sweep.runs("trial"), sweep.runs("stage")
    assert parent.data.params == {"scheduler": "asha"}
    assert parent.info.status == "RUNNING"
    assert trial.data.tags["mlflow.parentRunId"] == stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert trial.data.params == {"student.lr": "0.1", "seed": "0"}
    assert trial.data.tags["gankd.key.student"] == stage.data.tags["gankd.key"] == "k" * 16
    assert trial.data.tags["gankd.stage_run.student"] == stage.info.run_id
    assert trial.data.metrics == {"val/student": 0.5, "val/best": 0.5}
    assert stage.data.params == {"lr": "0.1"}
    assert stage.data.tags["gankd.key.teacher"] == "t" * 16
    assert stage.info.run_name == "student kkkkkkkk"
    assert history(sweep, stage, "student/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert history(sweep, stage, "student/acc") == [(2, 0.5)]  # final values stand at the last step
    assert trial.info.status == stage.info.status == "FINISHED"


def test_sending_everything_twice_changes_nothing(sweep: Sweep) -> None:
    sweep.trial()
    png = picture()
    sweep.writer.emit("image", key="k" * 16, name="student/grid", step=1, png=png)
    sweep.send()
    before = sweep.rows(), len(sweep.runs()), files(sweep)
    sweep.tracker.cursor_path.unlink()
    sweep.tracker = sweep.open()  # a new driver that has lost its cursor
    assert sweep.send() == 9
    assert (sweep.rows(), len(sweep.runs()), files(sweep)) == before
    assert {run.info.status for kind in ("trial", "stage") for run in sweep.runs(kind)} == {"FINISHED"}


def inputs(run: Any) -> list[Any]:
    return [each.dataset for each in run.inputs.dataset_inputs]


def test_every_run_shows_its_data_set_once(sweep: Sweep) -> None:
    for _ in range(2):
        sweep.trial()
        sweep.send()
        sweep.tracker.cursor_path.unlink()
        sweep.tracker = sweep.open()
    sweep.send()
    assert len(sweep.runs()) == 3
    for run in sweep.runs():
        (data,) = inputs(run)
        assert (data.name, data.digest) == ("digits", "0123456789abcdef")
        assert json.loads(data.profile) == {"train_images": 1078, "test_images": 599}


def test_a_data_set_is_one_that_mlflow_reads_back(tmp_path: Path) -> None:
    from mlflow.data import get_source
    from mlflow.types import Schema

    package = DIGITS.to_mlflow().dataset
    assert get_source(package).to_dict() == {"tags": {"mlflow.source.name": "scikit-learn"}}
    (images,) = Schema.from_json(json.loads(package.schema)["mlflow_tensorspec"]["features"]).inputs
    assert images.shape == (-1, 1, 8, 8)
    files = replace(DIGITS, source=str(tmp_path)).to_mlflow().dataset
    assert get_source(files).to_dict() == {"uri": str(tmp_path)}


def test_data_that_a_knob_chooses_is_the_sweeps_alone(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    sweep = Sweep(tmp_path, data=replace(DIGITS, in_all_trials=False))
    sweep.trial()
    sweep.send()
    assert [len(inputs(run)) for kind in ("sweep", "trial", "stage") for run in sweep.runs(kind)] == [1, 0, 0]


def test_every_run_tells_its_source(sweep: Sweep) -> None:
    sweep.trial()
    sweep.send()
    tags = source_tags()
    assert tags["mlflow.source.type"] == "LOCAL"
    for run in sweep.runs():
        assert tags.items() <= run.data.tags.items()
        assert run.info.user_id == tags.get("mlflow.user", "unknown")


@pytest.fixture
def fresh_source_tags() -> Iterator[None]:
    source_tags.cache_clear()
    yield
    source_tags.cache_clear()


@pytest.mark.usefixtures("fresh_source_tags")
@pytest.mark.parametrize("tracked", [True, False])
def test_the_commit_is_that_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: bool) -> None:
    def git(*command: str) -> str:
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *own, *command], cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "lib" / "gankd" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("")
    monkeypatch.setattr(provenance.gankd, "__file__", str(package))
    git("init")
    (tmp_path / "other.txt").write_text("a project that has installed the package")
    git("add", "." if tracked else "other.txt")
    git("commit", "-m", "start")
    tags = source_tags()
    if tracked:
        assert tags["mlflow.source.git.commit"] == git("rev-parse", "HEAD")
        assert tags["mlflow.source.git.dirty"] == "false"
    else:
        assert not any("git" in tag for tag in tags)


@pytest.mark.usefixtures("fresh_source_tags")
@pytest.mark.parametrize(("command", "name"), [("/x/tune.py", "tune.py"), ("-c", "gankd"), ("/y/bin/gankd", "gankd")])
def test_the_source_is_the_command(monkeypatch: pytest.MonkeyPatch, command: str, name: str) -> None:
    monkeypatch.setattr("sys.argv", [command])
    monkeypatch.setenv("PATH", "")  # no git either
    tags = source_tags()
    assert tags["mlflow.source.name"] == name
    assert "mlflow.source.git.commit" not in tags


def test_an_experiment_is_one_of_training_also_when_it_was_there(sweep: Sweep) -> None:
    client = sweep.tracker.runs.client
    kinds = {"mlflow.experimentKind": "custom_model_development"}
    assert client.get_experiment(sweep.tracker.runs.experiment_id).tags.items() >= kinds.items()
    old = client.create_experiment("old/digits")
    uri, reader = f"sqlite:///{sweep.folder}/mlflow.db", EventReader(str(sweep.folder / "s2"))
    Tracker(uri, "old/digits", sweep.folder, "s2", reader, sweep.folder / "c.json")
    assert client.get_experiment(old).tags.items() >= kinds.items()
    client.set_experiment_tag(old, "mlflow.experimentKind", "genai_development")  # by a user, in the UI
    Tracker(uri, "old/digits", sweep.folder, "s2", reader, sweep.folder / "c.json")
    assert client.get_experiment(old).tags["mlflow.experimentKind"] == "genai_development"


def test_the_addresses_of_the_run_tables(sweep: Sweep) -> None:
    tables = run_tables(f"sqlite:///{sweep.folder}/mlflow.db", "http://127.0.0.1:5000")
    here = f"http://127.0.0.1:5000/#/experiments/{sweep.tracker.runs.experiment_id}/runs?workflowType=machine_learning"
    assert tables["rgal/digits"] == here
    assert "Default" not in tables


def test_a_resumed_driver_sends_only_the_rest(sweep: Sweep) -> None:
    sweep.trial("t0", "a" * 16)
    sweep.send()
    sweep.trial("t1", "b" * 16)
    sweep.tracker = sweep.open()
    assert sweep.send() == 8
    assert len(sweep.runs("sweep")) == 1
    assert len(sweep.runs("trial")) == 2


def test_a_stage_is_one_run_for_all_trials_and_sweeps(sweep: Sweep) -> None:
    sweep.trial("t0")
    sweep.send()
    other = Sweep(sweep.folder, "s2")
    other.writer.emit("trial_start", trial="t0", params={}, keys={"student": "k" * 16})
    other.send()
    assert len(sweep.runs("sweep")) == 2
    (stage,) = sweep.runs("stage")
    assert [trial.data.tags["gankd.stage_run.student"] for trial in sweep.runs("trial")] == [stage.info.run_id] * 2


def test_steps_walked_again_after_a_crash_draw_one_curve(sweep: Sweep) -> None:
    key = "k" * 16
    for step in (0, 1, 2):
        sweep.writer.emit("metrics", key=key, step=step, values={"student/loss": float(step)})
    sweep.send()
    for tracker in (sweep.tracker, sweep.open()):
        sweep.tracker = tracker
        for step in (1, 2, 3):  # from the checkpoint at step 1
            sweep.writer.emit("metrics", key=key, step=step, values={"student/loss": float(step)})
        sweep.send()
    (stage,) = sweep.runs("stage")
    assert history(sweep, stage, "student/loss") == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 3.0)]


@pytest.mark.parametrize(("status", "expected"), [("failed", "FAILED"), ("stopped", "KILLED")])
def test_how_a_run_ended(sweep: Sweep, status: str, expected: str) -> None:
    sweep.trial(status=status, reason="loss became NaN")
    sweep.send()
    for run in sweep.runs("trial") + sweep.runs("stage"):
        assert run.info.status == expected
        assert run.data.tags["gankd.reason"] == "loss became NaN"


def test_a_trial_that_goes_on_is_running_again(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep.trial(status="stopped")
    sweep.send()
    (trial,) = sweep.runs("trial")
    late = trial.info.end_time / 1000 + 1
    monkeypatch.setattr("gankd.store.events.time.time", lambda: late)
    sweep.writer.emit("trial_start", trial="t0", params={"seed": 1, "workers": 2}, keys={"extra": "e" * 16})
    sweep.send()
    (trial,) = sweep.runs("trial")
    assert trial.info.status == "RUNNING"
    assert trial.data.params == {"student.lr": "0.1", "seed": "0", "workers": "2"}  # MLflow's params never change
    assert trial.data.tags["gankd.key.extra"] == "e" * 16


def test_a_start_that_arrives_after_the_end_does_not_open_the_run_again(sweep: Sweep) -> None:
    sweep.writer.emit("trial_start", trial="t0", params={"student.lr": 0.1}, keys={})  # not flushed yet
    worker = EventWriter(str(sweep.folder / "s1"), "worker", 1e6)
    worker.emit("trial_end", trial="t0", status="finished", metrics={}, reason="")
    worker.close()
    assert sweep.tracker.pump() == 2
    assert sweep.send() == 1
    (trial,) = sweep.runs("trial")
    assert trial.info.status == "FINISHED"
    assert trial.data.params == {"student.lr": "0.1"}


def test_a_trial_whose_stage_another_one_makes_is_linked_when_it_ends(sweep: Sweep) -> None:
    sweep.writer.emit("trial_start", trial="t1", params={}, keys={"student": "k" * 16})
    sweep.trial("t0")
    sweep.writer.emit("trial_end", trial="t1", status="finished", metrics={}, reason="")
    sweep.send()
    (stage,) = sweep.runs("stage")
    assert [trial.data.tags["gankd.stage_run.student"] for trial in sweep.runs("trial")] == [stage.info.run_id] * 2


def test_finish_ends_the_parent_and_kills_leftovers(sweep: Sweep) -> None:
    sweep.writer.emit("trial_start", trial="t0", params={}, keys={})
    sweep.writer.emit("stage_start", key="a" * 16, stage="student", config={}, inputs={}, trial="t0")
    sweep.send()
    assert sweep.tracker.finish("finished")
    assert [run.info.status for run in sweep.runs("sweep")] == ["FINISHED"]
    assert {run.info.status for run in sweep.runs("trial") + sweep.runs("stage")} == {"KILLED"}


def test_params_are_flat_short_and_many(sweep: Sweep) -> None:
    params = {f"student.p{i}": i for i in range(250)} | {"long": "x" * 7000, "list": [1, 2], "none": None, "off": False}
    sweep.writer.emit("trial_start", trial="t0", params=params, keys={})
    sweep.send()
    got = sweep.runs("trial")[0].data.params
    assert len(got) == len(params)
    assert got["long"] == "x" * 499 + "…"
    assert (got["list"], got["none"], got["off"], got["student.p249"]) == ("[1, 2]", "None", "False", "249")


def test_metrics_of_any_value_name_and_number(sweep: Sweep) -> None:
    for step in range(2500):
        sweep.writer.emit("metrics", key="a" * 16, step=step, values={"loss": float(step)})
    values = {"nan": math.nan, "inf": math.inf, "fid[inception]@1k": 3.0, "../up": 1.0, "a//b": 2.0}
    sweep.writer.emit("metrics", key="a" * 16, step=1, values=values)
    sweep.writer.emit("metrics", step=0, values={"test/student": 0.9})
    sweep.send()
    (stage,), (parent,) = sweep.runs("stage"), sweep.runs("sweep")
    assert len(history(sweep, stage, "loss")) == 2500
    assert math.isnan(stage.data.metrics["nan"])
    assert stage.data.metrics["inf"] > 1e308
    assert stage.data.metrics["fid_inception__1k"] == 3.0
    assert {"_/up", "a/b"} <= set(stage.data.metrics)
    assert parent.data.metrics == {"test/student": 0.9}


def files(sweep: Sweep) -> list[str]:
    return sorted(path.name for path in (sweep.folder / "pictures").rglob("*") if path.is_file())


def test_pictures_have_the_names_that_the_run_page_shows(sweep: Sweep) -> None:
    for _ in range(2):  # the second one comes from a stage that went on from its checkpoint
        sweep.writer.emit("image", key="a" * 16, name="student/grid", step=7, png=picture())
    sweep.send()
    (stage,) = sweep.runs("stage")
    small, full = files(sweep)
    assert full.startswith("student~grid+step+7+timestamp+")
    assert full.endswith(".png")
    assert small.endswith("+compressed.webp")
    assert stage.data.tags["mlflow.loggedImages"] == "True"
    paths = [item.path for item in sweep.tracker.runs.client.list_artifacts(stage.info.run_id, "images")]
    local = sweep.tracker.runs.client.download_artifacts(stage.info.run_id, next(p for p in paths if p.endswith("png")))
    assert Image.open(local).size == (300, 40)


def test_an_artifact_found_in_the_store_gets_a_run(sweep: Sweep) -> None:
    manifest = {
        "stage": "teacher", "config": {"lr": 0.1, "net": {"depth": 8}}, "metrics": {"acc": 0.9}, "inputs": {},
        "created": 1.7e9, "seconds": 5.0,
    }  # fmt: skip
    for _ in range(2):
        sweep.tracker.stage_from_store("t" * 16, manifest)
        sweep.send()
    (stage,) = sweep.runs("stage")
    assert stage.data.params == {"lr": "0.1", "net.depth": "8"}
    assert stage.data.metrics == {"teacher/acc": 0.9}
    assert stage.info.status == "FINISHED"


def test_an_event_that_mlflow_never_takes_does_not_hold_up_the_rest(sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    sweep.trial("t0")
    sweep.send()
    client = sweep.tracker.runs.client
    client.delete_run(sweep.runs("trial")[0].info.run_id)  # by a user, in the UI
    sweep.writer.emit("metrics", trial="t0", step=9, values={"loss": 1.0})
    sweep.writer.emit("trial_end", trial="t0", status="finished", metrics={}, reason="")
    sweep.writer.emit("tags", trial="t1", tags={"": "no name"})
    sweep.writer.emit("image", trial="t1", name="grid", png="no picture")
    sweep.writer.emit("image", trial="t1", name="grid", png=picture()[:60])
    sweep.writer.emit("metrics", trial="t1", step=9, values={"loss": 1.0})
    assert sweep.send() == 6
    assert "does not take" in caplog.text
    assert caplog.text.count("the picture grid of step 0 is damaged") == 2
    (trial,) = sweep.runs("trial")
    assert trial.data.metrics == {"loss": 1.0}


def test_a_failed_pump_is_repeated_whole(sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    sweep.trial()
    sweep.writer.flush()
    client = sweep.tracker.runs.client
    log_batch = client.log_batch

    def cut(run_id: str, metrics: Any = (), **others: Any) -> None:
        log_batch(run_id, metrics=metrics, **others)
        if metrics:  # taken, but the answer is lost
            raise ConnectionError("cut")

    client.log_batch = cut
    for _ in range(2):  # once for each of two runs: what was taken is not sent again
        assert not sweep.tracker._try_pump()
    assert [record.levelname for record in caplog.records] == ["WARNING"]  # one, not two
    assert "cut" in caplog.text
    assert sweep.tracker.unsent() == 8
    client.log_batch = log_batch
    assert sweep.tracker.close(wait_s=0.1) == 0
    assert sweep.rows() == 3 + 1 + 2
    assert len(sweep.runs()) == 3


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "http://me:secret@127.0.0.1:{port}", "ftp://x/y", "/etc/passwd"])
def test_a_store_that_cannot_be_opened_is_one_sentence(tmp_path: Path, uri: str) -> None:
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        uri = uri.format(port=taken.getsockname()[1])
        with pytest.raises(UserError) as caught:
            Tracker(uri, "rgal/digits", tmp_path, "s1", EventReader(str(tmp_path / "events")), tmp_path / "c.json")
    text = str(caught.value)
    assert "\n" not in text
    assert uri.replace("me:secret@", "") in text
    assert "secret" not in text
    assert "MLFLOW_TRACKING_URI" in text


def test_the_default_store_is_sqlite_unless_the_user_names_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Tracker.default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracker:5000")
    assert Tracker.default_uri(tmp_path) == "http://tracker:5000"


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, gankd.tracking.tracker, gankd.tracking.model_registry\n"
    code += "assert not {'mlflow', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2] / "platform")
