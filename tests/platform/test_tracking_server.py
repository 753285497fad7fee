"""A real tracking server that is really killed in the middle of a sweep."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gankd.commands.ui import server_command, ui
from gankd.errors import UserError
from gankd.store.events import EventReader, EventWriter
from gankd.tracking import tracker as tracking
from gankd.tracking.tracker import Tracker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(folder: Path, port: int) -> Iterator[None]:
    """`mlflow server`, until its whole process group is killed."""
    command = server_command(f"sqlite:///{folder}/mlflow.db", "127.0.0.1", port)
    command += ["--artifacts-destination", str(folder / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("a") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_until_it_answers(port, process)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_it_answers(port: int, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("mlflow server ended")


def test_a_killed_server_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tracking, "PERIOD_S", 0.05)
    port, key = free_port(), "k" * 16
    writer = EventWriter(str(tmp_path / "events"), "trial-0", 0.05)

    def train(steps: range) -> None:
        for step in steps:
            writer.emit("metrics", key=key, step=step, values={"student/loss": float(step)})
        writer.flush()

    def sent() -> bool:
        return tracker.unsent() == 0

    with server(tmp_path, port):
        reader = EventReader(str(tmp_path / "events"))
        uri = f"http://127.0.0.1:{port}"
        tracker = Tracker(uri, "rgal/digits", tmp_path / "unused", "s1", reader, tmp_path / "cursor.json")
        tracker.open_sweep({}, {})
        tracker.start()
        writer.emit("trial_start", trial="t0", params={"student.lr": 0.1}, keys={"student": key})
        train(range(0, 100))
        wait_for(sent)
    train(range(100, 200))
    wait_for(lambda: tracker._away)
    train(range(200, 300))
    assert tracker.unsent() == 200
    with server(tmp_path, port):
        wait_for(sent)
        train(range(300, 400))
        writer.emit("trial_end", trial="t0", status="finished", metrics={"val/student": 0.5}, reason="")
        writer.close()
        assert tracker.close(wait_s=20) == 0
        assert tracker.finish("finished")
        client = tracker.runs.client
        history = client.get_metric_history(tracker.run_of(key=key), "student/loss")
        assert [metric.step for metric in history] == list(range(400))
        runs = client.search_runs([tracker.runs.experiment_id])
        assert sorted(run.data.tags["gankd.kind"] for run in runs) == ["stage", "sweep", "trial"]
        assert client.get_run(tracker.run_of(trial="t0")).info.status == "FINISHED"
    assert not tracker.finish("finished")  # the server is gone: said, not raised
    with pytest.raises(UserError, match=r"cannot be opened .* start that server"):
        tracker.run_of(key="n" * 16)  # what registering asks for
    warnings = [record.message for record in caplog.records if record.name == "gankd.tracking.tracker"]
    assert sum("does not answer" in text for text in warnings) == 2
    assert sum("answers again" in text for text in warnings) == 1


def wait_for(condition) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 30 s"
        time.sleep(0.02)


def test_a_port_in_use_is_named_with_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of 127.0.0.1 is in use.*--port \d+"):
            ui("sqlite:////x/mlflow.db", "127.0.0.1", port)


def test_the_ui_of_a_server_is_the_server() -> None:
    with pytest.raises(UserError, match="open it in a browser"):
        ui("http://tracker:5000")
