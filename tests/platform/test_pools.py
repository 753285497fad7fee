"""A sweep on simulated nodes of two kinds: the shared stages on one, the trials on parts of a GPU of the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, Workplace, until

pytestmark = pytest.mark.timeout(600)
# In a process of its own: Ray is told to listen on loopback when it is first imported.
NODES = """
import json, sys
from pathlib import Path
from benchmarks.simulated_cluster import Nodes, set_environment
folder = Path(sys.argv[1])
set_environment(folder)
cluster = Nodes()
try:
    nodes = {"big": cluster.add(1, resources={"big": 1}), "small": cluster.add(1, num_gpus=1, resources={"small": 1})}
    raylets = {name: node.all_processes["raylet"][0].process.pid for name, node in nodes.items()}
    (folder / "ready").write_text(json.dumps({"address": cluster.address, "raylets": raylets}))
    sys.stdin.read()
finally:
    cluster.close()
"""


@pytest.fixture(scope="module")
def cluster(plugin: Path) -> Iterator[dict[str, Any]]:
    """The address of a cluster, the raylet of each kind of node, and where its token lies."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"gk{os.getpid()}"  # short, for Ray's sockets
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(plugin)])}
    process = subprocess.Popen([sys.executable, "-c", NODES, str(folder)], stdin=subprocess.PIPE, text=True, env=environment)
    assert process.stdin is not None
    try:
        until((folder / "ready").exists, 120, process)
        yield {**json.loads((folder / "ready").read_text()), "token": str(folder / "token")}
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plugin: Path, empty_store: Path, cluster: dict[str, Any]) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("pools"), plugin, database=empty_store)
    del place.environment["RAY_OVERRIDE_RESOURCES"]
    place.environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "GLOO_SOCKET_IFNAME": "lo"}
    place.environment["RAY_AUTH_TOKEN_PATH"] = cluster["token"]
    return place


@pytest.mark.long  # the counting of nodes has tests of its own
def test_shared_stages_and_trials_go_to_their_pools(place: Workplace, cluster: dict[str, Any]) -> None:
    pools = ("--pool", "small", "--shared-pool", "big")
    part = ("--cpus-per-worker", "0.5", "--gpus-per-worker", "0.25")
    shared = ("--shared-cpus-per-worker", "1", "--shared-gpus-per-worker", "0")
    done = place.tune("--method", "placed", "--trials", "2", "--address", cluster["address"], *pools, *part, *shared, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    told: dict[str, list[Any]] = {"first": [], "second": []}
    for file in place.storage.glob("artifacts/*/place.json"):
        told[file.parent.name.partition("-")[0]].append(json.loads(file.read_text()))
    raylets = cluster["raylets"]
    assert [each["raylet"] for each in told["first"]] == [raylets["big"]]
    assert told["second"] == [{"raylet": raylets["small"], "gpus": "0"}] * 2


@pytest.mark.long
def test_a_pool_that_no_node_belongs_to_is_refused(place: Workplace, cluster: dict[str, Any]) -> None:
    flags = ("--method", "placed", "--trials", "1", "--set", "first.number=7")
    done = place.tune(*flags, "--address", cluster["address"], "--shared-pool", "huge")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: the shared stages ask for nodes of the pool 'huge', but no node" in done.stderr
