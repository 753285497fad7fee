"""Databases and folders as users leave them: with odd names, moved, copied, damaged, and servers that are none."""

import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from gankd.commands.compare import comparison
from gankd.commands.evaluate import evaluate_registered
from gankd.commands.sample import write_samples
from gankd.commands.ui import ui
from gankd.errors import UserError
from gankd.store.events import EventReader, EventWriter
from gankd.tracking import database as databases
from gankd.tracking import model_registry
from gankd.tracking.client import mlflow_client
from gankd.tracking.database import sqlite_file, sqlite_uri
from gankd.tracking.model_registry import load, register
from gankd.tracking.pages import run_tables
from gankd.tracking.sweeps import finished_sweeps
from gankd.tracking.tracker import Tracker
from tests.platform.tracking_fixtures import picture

KEY = "k" * 16


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose the folder, and a version's files need no real export."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(model_registry, "export", lambda network, example, path, meta: path.mkdir())


def project(folder: Path, empty_store: Path) -> Tracker:
    """A finished sweep with a picture and a registered network, in a folder that is worked in."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "mlflow.db").exists():
        shutil.copyfile(empty_store, folder / "mlflow.db")
    tracker = opened(folder)
    tags = {"gankd.method": "rgal", "gankd.dataset": "digits", "gankd.metric": "student/val_accuracy"}
    tracker.open_sweep({}, tags | {"gankd.comparable.student": '{"metric": "val_accuracy"}'})
    events = EventWriter(str(folder / "events"), "driver", 1e6)
    events.emit("image", key=KEY, name="student/grid", step=0, png=picture())
    events.emit("metrics", step=0, values={"objective": 0.5, "val/student": 0.5})
    events.close()
    tracker.pump()
    files = folder / "files"
    files.mkdir()
    save_file(nn.Linear(2, 2).state_dict(), files / "model.safetensors")
    (files / "recipe.json").write_text('{"name": "tiny"}')
    register(
        tracker.uri, "digits-student", lambda: (nn.Linear(2, 2), (torch.zeros(2, 2),)), lambda: files, key=KEY,
        metrics={"val/acc": 0.5}, metric="val/acc", mode="max", facts={"data": "d"}, run_id=tracker.run_of(key=KEY),
        shown_by=[tracker.run_of()], tags={"gankd.method": "rgal"},
    )  # fmt: skip
    tracker.finish()
    return tracker


def opened(folder: Path) -> Tracker:
    reader, cursor = EventReader(str(folder / "events")), folder / "mlruns" / ".sent" / "s1.json"
    return Tracker(Tracker.default_uri(folder), "rgal/digits", folder / "mlruns", "s1", reader, cursor)


def forget_places() -> None:
    """What a process knows of MLflow's artifact folders; users move a folder between two processes."""
    from mlflow.tracking._tracking_service import utils

    utils._artifact_repos_cache.clear()


ODD = ["a ?b", "100%41 %", "ha#sh", 'it\'s "so"', "ünï-漢字", "co:lon :b", "back\\slash;&=", "mlruns"]


@pytest.mark.parametrize("name", ODD)
def test_a_folder_of_any_name_works_and_can_be_moved(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    before, after = tmp_path / name, tmp_path / "new" / f"{name} moved"
    uri = project(before, empty_store).uri
    assert len(finished_sweeps(uri, "digits")) == 1
    assert load(uri, "digits-student").is_relative_to(before)
    assert list(run_tables(uri, "")) == ["rgal/digits"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    after.parent.mkdir()
    before.rename(after)
    forget_places()
    monkeypatch.chdir(after)
    files = load(Tracker.default_uri(Path.cwd()), "digits-student@champion")
    assert files.is_relative_to(after)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "was moved or copied: 6 places" in caplog.text
    tracker = opened(after)
    events = EventWriter(str(after / "events"), "driver", 1e6)
    for step in (0, 1):
        events.emit("image", key=KEY, name="student/grid", step=step, png=picture())
    events.close()
    tracker.pump()
    assert len(list((after / "mlruns").rglob("*.png"))) == 2
    assert not before.exists()


def test_the_tables_are_made_in_a_folder_whose_name_is_no_sql(tmp_path: Path) -> None:
    folder = tmp_path / "a:b'\"?%"
    folder.mkdir()
    uri = sqlite_uri(folder / "mlflow.db")
    assert sqlite_file(uri) == folder / "mlflow.db"
    (default,) = mlflow_client(uri).search_experiments()
    assert default.artifact_location == f"{(folder / 'mlruns').as_uri()}/0"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_copied_folder_leaves_the_one_that_it_was_copied_from_alone(tmp_path: Path, empty_store: Path) -> None:
    project(tmp_path / "one", empty_store)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    forget_places()
    assert load(Tracker.default_uri(tmp_path / "two"), "digits-student").is_relative_to(tmp_path / "two")
    assert load(Tracker.default_uri(tmp_path / "one"), "digits-student").is_relative_to(tmp_path / "one")


def test_a_folder_seen_by_two_names_is_not_moved(tmp_path: Path, empty_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    project(tmp_path / "one", empty_store)
    (tmp_path / "link").symlink_to(tmp_path / "one")
    load(Tracker.default_uri(tmp_path / "link"), "digits-student")
    assert not caplog.records


def test_artifacts_that_were_never_beside_the_database_stay_where_they_are(
    tmp_path: Path, empty_store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    client = mlflow_client(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_experiment("mine", "s3://bucket/mlruns")
    client.create_experiment("other", (tmp_path / "elsewhere").as_uri())
    (tmp_path / "mlruns").mkdir()
    client = mlflow_client(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_experiment_by_name("mine").artifact_location == "s3://bucket/mlruns"
    assert client.get_experiment_by_name("other").artifact_location == (tmp_path / "elsewhere").as_uri()


def test_a_moved_database_that_cannot_be_written_is_said(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "one", empty_store)
    (tmp_path / "one").rename(tmp_path / "two")
    connect = sqlite3.connect
    monkeypatch.setattr(databases, "_connect", lambda file: connect(f"{file.as_uri()}?mode=ro", uri=True, isolation_level=None))
    with pytest.raises(UserError, match=r"was moved.*one/mlruns.*cannot be written"):
        load(Tracker.default_uri(tmp_path / "two"), "digits-student")


# Databases.


def garbage(file: Path) -> None:
    file.write_bytes(b"no database" * 500)


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:60_000])


def holes(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:200_000] = b"\xff" * (200_000 - 4096)
    file.write_bytes(data)


def schema(number: str) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        with sqlite3.connect(file) as database:
            database.execute("UPDATE alembic_version SET version_num = ?", (number,))

    return change


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (garbage, "is no SQLite database.*move it away"),
        (folder, "it is a folder"),
        (cut, "damaged one.*malformed"),
        (holes, "damaged one.*malformed"),
        (schema("ffffffffffff"), "newer MLflow.*ffffffffffff"),
        (schema("f5a4f2784254"), "older MLflow.*mlflow db upgrade"),
    ],
    ids=["garbage", "folder", "cut", "holes", "newer", "older"],
)
def test_a_database_that_is_none_is_one_sentence(
    tmp_path: Path, empty_store: Path, damage: Callable[[Path], None], said: str
) -> None:
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, file)
    damage(file)
    refused(f"sqlite:///{file}", tmp_path, said)


def refused(uri: str, folder: Path, said: str) -> None:
    """Every command says it, in one sentence."""
    commands: list[Callable[[], Any]] = [
        lambda: Tracker(uri, "rgal/digits", folder, "s1", EventReader(str(folder / "e")), folder / "c").open_sweep({}, {}),
        lambda: finished_sweeps(uri, "digits"),
        lambda: load(uri, "x@champion"),
        lambda: ui(uri, port=free_port()),
    ]
    for command in commands[: 3 if uri.startswith("http") else 4]:
        with pytest.raises(UserError, match=said) as caught:
            command()
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_locked_database_is_one_sentence(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "LOCKED_S", 0.05)
    file = tmp_path / "mlflow.db"
    shutil.copyfile(empty_store, file)
    holder = sqlite3.connect(file)
    holder.execute("BEGIN EXCLUSIVE")
    refused(f"sqlite:///{file}", tmp_path, "is locked")
    holder.close()


def test_a_database_to_read_from_is_read_and_refuses_a_sweep(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    uri = f"sqlite:///file:{tmp_path}/mlflow.db?mode=ro&uri=true"
    assert finished_sweeps(uri, "digits") == []
    with pytest.raises(UserError, match="attempt to write a readonly database"):
        Tracker(uri, "rgal/digits", tmp_path, "s1", EventReader(str(tmp_path / "e")), tmp_path / "c")


def test_a_cursor_without_a_folder_is_one_sentence(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "mlruns").write_text("a file")
    with pytest.raises(UserError, match=r"mlruns/.sent' cannot be made"):
        opened(tmp_path)


# Servers.


class Answer(BaseHTTPRequestHandler):
    """Gives the server's one answer to everything."""

    def do_GET(self) -> None:
        code, body = self.server.answer  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (500, b"oops\nmore", "too many 500"),
        (403, b'{"error_code": "PERMISSION_DENIED", "message": "not you"}', "not you"),
        (401, b"<html>", "401"),
        (404, b"<h1>not here</h1>", "404"),
        (302, b"", "302"),
        (200, b"<html>\n<body>welcome", "JSON"),
        (200, b"[1]", "JSON"),
        (200, b"{}", "not as MLflow does"),
    ],
)
def test_a_server_that_is_no_mlflow_is_one_sentence(
    tmp_path: Path, web: ThreadingHTTPServer, code: int, body: bytes, said: str
) -> None:
    web.answer = (code, body)  # type: ignore[attr-defined]
    uri = f"http://me:secret@127.0.0.1:{web.server_port}"
    with pytest.raises(UserError, match=said) as caught:
        Tracker(uri, "rgal/digits", tmp_path, "s1", EventReader(str(tmp_path / "e")), tmp_path / "c")
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    if code != 200:
        with pytest.raises(UserError, match=said):
            finished_sweeps(uri, "digits")


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ftp://x/y", "of no kind"),
        ("localhost:5000", "such as http://host:port"),
        ("runs", "of no kind"),
        ("file:///tmp", "of no kind"),
        ("http://127.0.0.1:99999", "Invalid url"),
        ("http://[::1", "."),
        ("sqlite:mlflow.db", "Could not parse"),
        ("postgresql://me:secret@127.0.0.1:1/db", "cannot be opened"),
    ],
)
def test_a_uri_that_is_none_is_one_sentence(tmp_path: Path, uri: str, said: str) -> None:
    refused(uri, tmp_path, said)


# What others have done in MLflow.


@pytest.fixture
def used(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.chdir(tmp_path)
    forget_places()
    return project(tmp_path, empty_store)


def shown(dataset: str) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(comparison(dataset))
    return captured.get()


@pytest.mark.parametrize("text", ["", "{", "[1]", "7", "null", "[" * 2000])
def test_a_damaged_tag_does_not_keep_sweeps_from_being_compared(used: Tracker, text: str) -> None:
    client, run = used.runs.client, used.run_of()
    client.set_tag(run, "gankd.comparable.student", text)
    assert "0.5" in shown("digits")
    (sweep,) = finished_sweeps(used.uri, "digits")
    assert sweep.facts["student"] == {"unreadable tag of run": run}
    for tag in ("gankd.sweep", "gankd.method", "gankd.metric"):
        client.delete_tag(run, tag)
    client.update_run(run, name="[/red] mine")
    text = shown("digits")
    assert "unknown" in text
    assert "[/red] mine" in text


def test_a_data_set_of_any_name_is_looked_for(used: Tracker) -> None:
    for name in ("a'b", 'a"b', "a`b", "a%b", "[b]"):
        used.runs.client.set_tag(used.run_of(), "gankd.dataset", name)
        assert len(finished_sweeps(used.uri, name)) == 1
    assert finished_sweeps(used.uri, "digits") == []
    with pytest.raises(UserError, match="both kinds of quotes"):
        finished_sweeps(used.uri, "'\"")


def test_a_deleted_experiment_is_one_sentence(used: Tracker) -> None:
    used.runs.client.delete_experiment(used.runs.experiment_id)
    with pytest.raises(UserError, match=r"'rgal/digits' was deleted.*mlflow experiments restore"):
        opened(Path.cwd())
    assert finished_sweeps(used.uri, "digits") == []


def of_others(used: Tracker) -> str:
    used.runs.client.create_registered_model("theirs")
    used.runs.client.create_model_version("theirs", "file:///nowhere")
    return "was not registered by a sweep"


def without_files(used: Tracker) -> str:
    shutil.rmtree(load(used.uri, "digits-student"))
    return "cannot be fetched from .*put them back"


def without_weights(used: Tracker) -> str:
    (load(used.uri, "digits-student") / "model.safetensors").unlink()
    return "has no 'model.safetensors'"


def deleted(used: Tracker) -> str:
    used.runs.client.delete_model_version("digits-student", "1")
    return "it has no version at all"


@pytest.mark.parametrize("change", [of_others, without_files, without_weights, deleted])
def test_a_version_that_is_not_as_it_was_is_one_sentence(used: Tracker, tmp_path: Path, change: Callable[[Tracker], str]) -> None:
    model = "theirs/1" if change is of_others else "digits-student/1"
    said = change(used)
    with pytest.raises(UserError, match=said):
        write_samples(model, tmp_path / "grid.png", 1, 0)
    with pytest.raises(UserError, match=said):
        evaluate_registered(model, str(tmp_path / "runs"), {})


@pytest.mark.parametrize("text", [None, "{", "[]", '{"name": 7}', '{"nme": "digits"}'])
def test_a_damaged_data_tag_is_one_sentence(
    used: Tracker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    monkeypatch.setattr("gankd.models.load", lambda folder: nn.Linear(1, 1))
    if text:
        used.runs.client.set_model_version_tag("digits-student", "1", "gankd.data_config", text)
    with pytest.raises(UserError, match=r"gankd\.data_config"):
        evaluate_registered("digits-student", str(tmp_path / "runs"), {})


def test_the_registry_goes_on_after_a_champion_whose_tags_are_damaged(used: Tracker) -> None:
    from gankd.tracking.champion import give_alias

    client = used.runs.client
    made = client.create_model_version("digits-student", "file:///x", used.run_of())
    for tag, text in {"gankd.comparable": "{", "gankd.value": "high"}.items():
        client.set_model_version_tag("digits-student", "1", tag, text)
    assert "not comparable with the champion, version 1" in give_alias(client, "digits-student", made, 1.0, {"data": "d"}, "max")


# The pages.


@pytest.mark.parametrize(
    ("host", "said"),
    [("nosuch.invalid", "no address"), ("203.0.113.7", "no address"), ("a..b", "not the name of a host")],
)
def test_a_host_that_is_not_this_machine_is_said(used: Tracker, host: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        ui(used.uri, host, free_port())


def test_the_last_port_in_use_is_said_with_a_free_one(used: Tracker) -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 65535))
        except OSError:
            pytest.skip("another program has that port")
        taken.listen()
        with pytest.raises(UserError, match=r"port 65535 of 127.0.0.1 is in use.*--port \d+"):
            ui(used.uri, "127.0.0.1", 65535)


def test_compare_runs_in_an_odd_folder_as_a_user_runs_it(tmp_path: Path, empty_store: Path) -> None:
    from tests.conftest import Workplace

    folder = tmp_path / "what? 100%"
    project(folder, empty_store)
    place = Workplace(folder)
    done = place.gankd("compare", "--dataset", "digits")
    assert (done.returncode, done.stderr) == (0, "")
    assert "rgal" in done.stdout
