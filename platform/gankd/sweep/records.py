"""What a sweep leaves behind, as plain JSON under `<storage>/sweeps/<name>`, so that it can be resumed and traced.

sweep.json             how it was asked for
trials/<trial>.json    knobs, status, metrics, artifact keys of each trial
keys/, failed/         the artifacts it refers to, and those that cannot be made (see store.py)
events/                what the tracker reads (see events.py)
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from gankd.config import nearest
from gankd.errors import UserError
from gankd.store.root import open_root, sweep_events, sweep_folder
from gankd.store.storage import Storage

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")  # of a sweep
ENDED = ("finished", "stopped", "failed")


@dataclass
class TrialRecord:
    """One trial. `status`: "running", then "finished", "stopped" (by the scheduler) or "failed" (with its reason)."""

    trial: str
    knobs: dict[str, Any]
    status: str = "running"
    metrics: dict[str, float] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    started: float = field(default_factory=time.time)

    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True)
class SweepRecords:
    """The records of the sweep `name` under a storage root."""

    storage: str
    name: str

    @cached_property
    def _files(self) -> Storage:
        return open_root(self.storage)

    @property
    def folder(self) -> str:
        """The sweep's folder as a path or URI of its own."""
        return sweep_folder(self.storage, self.name)

    @property
    def events(self) -> str:
        return sweep_events(self.storage, self.name)

    def _path(self, *parts: str) -> str:
        return "/".join(("sweeps", self.name, *parts))

    def _read(self, *parts: str) -> Any:
        return json.loads(self._files.read_bytes(self._path(*parts)))

    def _write(self, content: Any, *parts: str) -> None:
        self._files.write_bytes(self._path(*parts), json.dumps(content, indent=1).encode())

    def check_name(self) -> None:
        """Raises UserError for a name that cannot be a folder or a run everywhere."""
        if not NAME.fullmatch(self.name):
            raise UserError(
                f"a sweep cannot be named {self.name!r}: allowed are up to 100 letters, digits, '.', '_' and '-', no '.' first"
            )

    def save_request(self, request: dict[str, Any]) -> None:
        self._write(request, "sweep.json")

    def request(self) -> dict[str, Any]:
        """What was asked for. Raises UserError for a sweep that is not there or whose file is damaged."""
        self.check_name()
        try:
            content = self._read("sweep.json")
        except FileNotFoundError:
            known = sweep_names(self.storage)
            listed = f"known: {', '.join(known[-8:])}" if known else "there is none yet"
            raise UserError(f"no sweep {self.name!r} in {self.storage}{nearest(self.name, known)} ({listed})") from None
        except ValueError as error:
            content = error
        if not isinstance(content, dict):
            raise UserError(
                f"sweep.json of the sweep {self.name!r} in {self.storage} is damaged; start a new sweep with another --name: "
                "what this one finished is taken from the store"
            )
        return content

    def exists(self) -> bool:
        return self._files.exists(self._path("sweep.json"))

    def save_trial(self, record: TrialRecord) -> None:
        self._write(asdict(record), "trials", f"{record.trial}.json")

    def trials(self) -> Iterator[TrialRecord]:
        """All trials that have started."""
        for info in self._files.list(self._path("trials")):
            yield TrialRecord(**json.loads(self._files.read_bytes(info.name)))

    def of_the_same_request(self, request: dict[str, Any]) -> Iterator[list[TrialRecord]]:
        """The trials of every other sweep here that asked for the same, the latest last."""
        found = []
        for name in sweep_names(self.storage):
            other = SweepRecords(self.storage, name)
            if name != self.name and other.request() == request:
                trials = list(other.trials())
                found.append((max((record.started for record in trials), default=0.0), trials))
        for _, trials in sorted(found, key=lambda pair: pair[0]):
            yield trials

    def forget_failures(self) -> None:
        """Let everything be tried again: a resumed sweep may meet a mended world."""
        self._files.delete_folder(self._path("failed"))
        for record in list(self.trials()):
            if record.status == "failed":
                self._files.delete(self._path("trials", f"{record.trial}.json"))


def sweep_names(storage: str) -> list[str]:
    """Names of all sweeps under a storage root, sorted."""
    return sorted(info.name.split("/")[1] for info in open_root(storage).list("sweeps") if info.name.endswith("/sweep.json"))
