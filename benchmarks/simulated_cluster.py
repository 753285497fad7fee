"""Ray nodes, an S3 server and an MLflow server on this machine, for the scripts that need a cluster. All listen on loopback.

A node is a raylet with the CPUs that it is told to have, and all that it starts; several share this machine's cores. To lose a
node is to kill all its processes at once with SIGKILL, by their ids.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
STUB = Path(__file__).resolve().parent / "stub"
TUNE = str(ROOT / "tune.py")


def set_environment(folder: Path) -> None:
    """What this process, the nodes and the commands that use them must agree on. To be called before Ray is imported."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    os.environ.update(
        PYTHONPATH=os.pathsep.join([*map(str, (ROOT / "platform", ROOT, STUB)), os.environ.get("PYTHONPATH", "")]),
        PYTHONUNBUFFERED="1",
        OMP_NUM_THREADS="1",
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",  # Ray then listens on loopback alone
        RAY_AUTH_MODE="token",
        RAY_AUTH_TOKEN_PATH=str(token),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_TMPDIR=str(folder),  # where Ray also notes which cluster `ray.init()` joins: not for others on this machine
        GLOO_SOCKET_IFNAME="lo",
        COLUMNS="160",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
        no_proxy="127.0.0.1",
    )


class Nodes:
    """A head that takes no work, and nodes that join and are lost."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(shutdown_at_exit=False)
        self.common: dict[str, Any] = {"temp_dir": os.path.join(os.environ["RAY_TMPDIR"], "ray"), "include_dashboard": False}
        self.nodes: list[Any] = []
        try:
            self.cluster.add_node(num_cpus=0, **self.common)
        except BaseException:  # half of a head is no use, and would stay
            self.close()
            raise

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self, cpus: int = 1, **more: Any) -> Any:
        """A node with so many CPUs; `more`: num_gpus, resources."""
        self.nodes.append(self.cluster.add_node(num_cpus=cpus, **self.common, **more))
        return self.nodes[-1]

    @staticmethod
    def processes(node: Any) -> list[psutil.Process]:
        """All that a node has started, the workers of its raylet included."""
        started = [info.process.pid for each in node.all_processes.values() for info in each]
        found = [psutil.Process(pid) for pid in started if psutil.pid_exists(pid)]
        return [*found, *(child for process in found for child in process.children(recursive=True))]

    def node_of(self, pid: int) -> Any:
        """The node that a process belongs to; None for none of ours."""
        return next((node for node in self.nodes if pid in {process.pid for process in self.processes(node)}), None)

    def lose(self, node: Any) -> None:
        """Kill all processes of a node at once."""
        for process in self.processes(node):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        for node in list(self.nodes):
            self.lose(node)
        head: Any = self.cluster.head_node
        if head is None:
            return
        for process in self.processes(head):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.cluster.remove_node(head, allow_graceful=False)


@contextlib.contextmanager
def nodes(count: int, cpus: int = 1) -> Iterator[Nodes]:
    """A head and so many nodes, gone at the end."""
    cluster = Nodes()
    try:
        for _ in range(count):
            cluster.add(cpus)
        yield cluster
    finally:
        cluster.close()


def until(condition: Callable[[], Any], what: str, seconds: float = 300, alive: subprocess.Popen[bytes] | None = None) -> Any:
    """Wait for a condition; its value. Raises RuntimeError when time is over, or the process that should bring it about ended."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline or (alive is not None and alive.poll() is not None):
            raise RuntimeError(f"waited in vain for {what}")
        time.sleep(0.05)
    return value


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def process(command: Sequence[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command, and at the end it and all that it has started are killed."""
    with log.open("ab") as output:
        started = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
    try:
        yield started
    finally:
        family: list[Any] = [started, *(psutil.Process(started.pid).children(recursive=True) if started.poll() is None else [])]
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        started.wait()


@contextlib.contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[str]:
    """An S3 server with one bucket; its address, which is also AWS_ENDPOINT_URL from here on."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with process([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder / "s3.log") as server:
        until(lambda: answers(f"{url}/moto-api/"), "the S3 server", alive=server)
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT"), timeout=30).close()
        os.environ["AWS_ENDPOINT_URL"] = url
        yield url


def postgresql_programs() -> Path | None:
    """The folder of PostgreSQL's own programs, where it is installed: Debian keeps the server's off the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: folder.parent.name)
    on_path = shutil.which("initdb")
    return debian[-1] if debian else Path(on_path).parent if on_path else None


@contextlib.contextmanager
def database(folder: Path, kind: str) -> Iterator[str]:
    """An empty database for MLflow, `postgresql` or `sqlite`; its URI."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/server.db"
        return
    programs = postgresql_programs()
    if programs is None or importlib.util.find_spec("psycopg") is None:
        raise SystemExit(
            "PostgreSQL needs `apt-get install postgresql` and `pip install 'psycopg[binary]'`; or take --database sqlite"
        )
    place, port = folder / "postgresql", free_port()
    place.mkdir(mode=0o700)
    options: Mapping[str, Any] = {}
    if os.getuid() == 0:  # PostgreSQL does not run as root
        options = {"user": "postgres", "group": "postgres", "extra_groups": []}
        shutil.chown(place, "postgres", "postgres")
        folder.chmod(0o755)
    subprocess.run(
        [str(programs / "initdb"), "-D", str(place), "-U", "mlflow", "--auth=trust", "--no-sync"],
        check=True, stdout=subprocess.DEVNULL, cwd="/", **options,
    )  # fmt: skip
    settings = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={port}", "-c", f"unix_socket_directories={place}"]
    command = [str(programs / "postgres"), "-D", str(place), *settings]
    ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port), "-U", "mlflow"]
    with process(command, folder / "postgresql.log", cwd="/", **options) as server:
        until(lambda: subprocess.run(ready, check=False).returncode == 0, "PostgreSQL", alive=server)
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"


@contextlib.contextmanager
def mlflow_server(folder: Path, kind: str) -> Iterator[str]:
    """`mlflow server` on a database of this kind; its address, which is also MLFLOW_TRACKING_URI from here on."""
    from gankd.commands.ui import server_command

    with database(folder, kind) as uri:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [*server_command(uri, "127.0.0.1", port), "--artifacts-destination", str(folder / "mlflow")]
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with process(command, folder / "mlflow.log", cwd=folder, env=environment) as server:
            until(lambda: answers(f"{url}/health"), "the MLflow server", alive=server)
            os.environ["MLFLOW_TRACKING_URI"] = url
            yield url
