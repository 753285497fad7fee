"""`gankd ui` in a real browser: the table of runs, and the page that compares the trials of a sweep."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import dom
from tests.conftest import GANKD, until
from tests.end_to_end.conftest import Here, SmokeSweep


@pytest.fixture(scope="module")
def server(smoke: SmokeSweep) -> Iterator[str]:
    """`gankd ui` on the sweep's folder; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return bool(urllib.request.urlopen(f"{address}/health", timeout=5).read() == b"OK")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    with smoke.place.started([*GANKD, "ui", "--port", str(port)]) as process:
        until(answers, seconds=90, alive=process)
        yield address


@pytest.fixture(scope="module")
def table(smoke: SmokeSweep, server: str) -> str:
    """The address of the table of runs, as `gankd ui` has printed it."""
    printed = re.search(r"cgan_kd/digits: (\S+)", (smoke.place.folder / "output.txt").read_text())
    assert printed
    assert printed[1].startswith(server)
    return printed[1]


def columns(page: str) -> dict[str, list[str]]:
    """Column -> the texts of its cells, from the top row down; trials and stages are folded away below their sweep."""
    parts = re.split(r'<div[^>]*role="gridcell"[^>]*col-id="([^"]*)"[^>]*>', page)
    found: dict[str, list[str]] = {}
    for column, cell in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(column.removeprefix("attributes.").strip("`"), []).append(re.sub("<[^>]*>", " ", cell))
    return found


def test_the_table_of_runs_is_that_of_training_and_shows_data_source_and_models(
    smoke: SmokeSweep, table: str, tmp_path: Path
) -> None:
    from gankd.tracking.runs import mlflow_client

    page = dom(table, tmp_path)
    assert "/judges" not in page  # a link beside the pages for GenAI
    client = mlflow_client(smoke.place.tracking)
    experiment = client.get_experiment_by_name("cgan_kd/digits").experiment_id
    sweep = client.search_runs([experiment], "tags.`gankd.kind` = 'sweep' AND tags.`gankd.sweep` = 'first'")[0]
    shown = columns(page)
    row = next(place for place, name in enumerate(shown["Run Name"]) if name.split()[-1] == "first")
    assert f"digits ({sweep.data.tags['gankd.data'][:16]})" in shown["Dataset"][row]
    assert "tune.py" in shown["Source"][row]
    # The other of the two stands behind "+1", for want of room.
    assert re.search(r"digits-(generator|student)\s+v1\s+\+1", shown["Models"][row])


def test_the_browser_compares_the_trials(smoke: SmokeSweep, server: str, tmp_path: Path) -> None:
    from gankd.tracking.runs import mlflow_client

    client = mlflow_client(smoke.place.tracking)
    experiment = client.get_experiment_by_name("cgan_kd/digits").experiment_id
    trials = client.search_runs([experiment], "tags.`gankd.kind` = 'trial' AND tags.`gankd.sweep` = 'first'")
    ids = json.dumps([run.info.run_id for run in trials], separators=(",", ":"))
    page = dom(f'{server}/#/compare-runs?runs={ids}&experiments=["{experiment}"]', tmp_path)
    for run in trials:
        assert run.info.run_name in page
        assert run.data.params["student.lr"] in page
    assert "student.lr" in page
    assert "student/val_accuracy" in page


def test_a_port_in_use_is_refused(smoke: SmokeSweep, server: str, here: Here) -> None:
    port = server.rpartition(":")[2]
    done = here(smoke.place, "ui", "--port", port)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: port {port} of 127.0.0.1 is in use; choose a free one")
