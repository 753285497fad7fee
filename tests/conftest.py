"""What tests share: the real command line, in processes of its own and in a folder of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from gankd.config import build_config, read_preset, with_knobs
from gankd.pipeline import Job, run
from gankd.registry import find_method
from gankd.store.events import EventReader
from gankd.store.lease import process_start
from gankd.sweep.records import SweepRecords
from gankd.tracking.database import prepare

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no fault of the code, and the same code is given the same examples.
settings.register_profile("gankd", deadline=None, derandomize=True)
settings.load_profile("gankd")
ROOT = Path(__file__).parents[1]
SMOKE_FILES = ("tests/end_to_end/test_cgan_kd.py", "tests/end_to_end/test_mlflow_ui.py")
GANKD = [sys.executable, "-c", "from gankd.cli import main; main()"]

Done = subprocess.CompletedProcess[str]


class ByFile(LoadScopeScheduling):
    """A file stays in one process, and so do all files that look at the sweep of the fixture `smoke`: it is run once.

    Not by marks `xdist_group`: pytest-xdist 3.8 writes them where pytest 9.2 no longer looks.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "smoke" if file in SMOKE_FILES else file


@pytest.hookimpl(optionalhook=True)  # tests can be run without pytest-xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """The order of work of the test processes."""
    return ByFile(config, log)


class Workplace:
    """A folder in which commands run as a user runs them: single-threaded, with their own storage and tracking.

    `path` holds further folders to import from, for methods of outside packages; `database` a tracking database to begin with;
    `cores` is what Ray takes the machine for: with one, a single process runs the trials, and another what is measured.
    """

    def __init__(self, folder: Path, *path: Path, database: Path | None = None, cores: int = 1) -> None:
        self.folder = folder
        self.storage = folder / "runs"
        self.tracking = f"sqlite:///{folder / 'mlflow.db'}"
        if database:
            shutil.copyfile(database, folder / "mlflow.db")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "RAY_"))}
        places = os.pathsep.join(map(str, (ROOT / "platform", ROOT, *path)))
        self.environment = kept | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "COLUMNS": "200", "PYTHONPATH": places}
        self.environment["RAY_OVERRIDE_RESOURCES"] = json.dumps({"CPU": cores})

    def tune(self, *arguments: str, timeout: float = 280) -> Done:
        """`python tune.py ...` to its end."""
        return self._run([sys.executable, str(ROOT / "tune.py"), *arguments], timeout)

    def gankd(self, *arguments: str, timeout: float = 120) -> Done:
        """`gankd ...` to its end."""
        return self._run([*GANKD, *arguments], timeout)

    def make(
        self, method: str, stages: Sequence[str], knobs: Mapping[str, object], preset: str = "smoke", sweep: str = ""
    ) -> None:
        """Fill the storage with stages of a preset, in this process: quicker than shared stages on Ray Train."""
        spec = find_method(method)
        config = build_config(spec.config, with_knobs(read_preset(spec.presets, preset), knobs))
        run(Job(method, config.model_dump(mode="json"), str(self.storage), stages=tuple(stages), sweep=sweep, threads=1))

    def _run(self, command: list[str], timeout: float) -> Done:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    @contextlib.contextmanager
    def started(self, command: list[str]) -> Iterator[subprocess.Popen[str]]:
        """A command in a process group of its own; what is left of the group at the end is killed."""
        with open(self.folder / "output.txt", "w") as output:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=output,
                text=True,
                start_new_session=True,
                # A shell's background job ignores Ctrl-C, and so would all its children.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def output(self) -> str:
        """What the last started command has said."""
        return (self.folder / "output.txt").read_text()

    def events(self, sweep: str, kind: str) -> list[dict[str, Any]]:
        """All events of a kind that a sweep has left."""
        reader, cursor, found = EventReader(SweepRecords(str(self.storage), sweep).events), {}, []
        while True:
            events, after = reader.read(cursor)
            if after == cursor:
                return [event for event in found if event["kind"] == kind]
            cursor, found = after, found + events

    def trials(self, sweep: str) -> list[dict[str, Any]]:
        """The records of a sweep's trials."""
        return [json.loads(file.read_text()) for file in (self.storage / "sweeps" / sweep / "trials").glob("*.json")]


def until(condition: Callable[[], Any], seconds: float = 400, alive: subprocess.Popen[str] | None = None) -> Any:
    """Wait for a condition; its value. Gives up when time is over or the process that should bring it about has ended."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        assert alive is None or alive.poll() is None, "the process ended before"
        time.sleep(0.02)
    return value


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


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test, or a library under it, makes without a word of where is not made in the checkout."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    yield
    os.chdir(before)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite store with its tables made: making them takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    prepare(f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def workplace(tmp_path: Path, empty_store: Path) -> Workplace:
    return Workplace(tmp_path, database=empty_store)
