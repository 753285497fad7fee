"""What a sweep leaves behind, as plain JSON under `<storage>/sweeps/<name>`, so that it can be resumed and traced.

sweep.json             how it was asked for
trials/<trial>.json    knobs, status, metrics, artifact keys of each trial
keys/, failed/         the artifacts it refers to, and those that cannot be made (see store.py)
events/                what the tracker reads (see events.py)
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from gankd.config import nearest
from gankd.errors import UserError
from gankd.store.lease import Lease, holder_alive, newest
from gankd.store.root import open_root, sweep_events, sweep_folder
from gankd.store.storage import Storage

NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")  # of a sweep
ENDED = ("finished", "stopped", "failed")

_log = logging.getLogger(__name__)


@dataclass
class TrialRecord:
    """One trial. `status`: "running", then "finished", "stopped" (by the scheduler) or "failed" (with its reason)."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    trial: str
    knobs: dict[str, Any]
    status: Literal["running", "finished", "stopped", "failed"] = "running"
    metrics: dict[str, float] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    reason: str = ""
    started: float = field(default_factory=time.time)

    def ended(self) -> bool:
        return self.status in ENDED


RECORD = TypeAdapter(TrialRecord)


@dataclass(frozen=True)
class Outcome:
    """The metrics of a job's stages, or why there are none; the artifacts that it was to bring about and those they need."""

    metrics: dict[str, float] = field(default_factory=dict)
    failure: str = ""
    keys: dict[str, str] = field(default_factory=dict)


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
        except (ValueError, OSError):
            content = None
        if not isinstance(content, dict):
            raise UserError(
                f"sweep.json of the sweep {self.name!r} in {self.storage} is damaged; start a new sweep with another --name: "
                "what this one finished is taken from the store"
            )
        return content

    def exists(self) -> bool:
        return "sweep.json" in self._files.names(self._path())

    @contextmanager
    def held(self) -> Iterator[None]:
        """One driver at a time works on a sweep. Raises UserError, naming the other one, while that lives."""
        lease = Lease(self._files, f"sweep-{self.name}", self._files.lease_ttl_s)

        def refuse(holder: str, seconds: float) -> None:
            alive = holder_alive(newest(self._files, lease.key)[1])
            if alive or (alive is None and seconds > 2 * lease.ttl_s):
                raise UserError(
                    f"the sweep {self.name!r} is being run by {holder}; let it end or stop it before going on with it"
                )

        lease.acquire(on_wait=refuse)
        try:
            yield
        finally:
            lease.release()

    def save_trial(self, record: TrialRecord) -> None:
        self._write(asdict(record), "trials", f"{record.trial}.json")

    def trials(self) -> Iterator[TrialRecord]:
        """All trials that have started. A damaged record is set aside with a warning, and its trial is as if it had not."""
        for name in self._files.names(self._path("trials")):
            try:
                raw = self._files.read_bytes(self._path("trials", name))
                record = RECORD.validate_json(raw)
                if name != f"{record.trial}.json":
                    raise ValueError(f"it is of trial {record.trial!r}")
                yield record
            except FileNotFoundError:
                continue
            except (ValueError, OSError) as error:
                self._set_aside(name, error)

    def _set_aside(self, name: str, error: Exception) -> None:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        here, aside = self._path("trials", name), f"{name}-{time.time_ns()}"
        try:
            self._files.write_bytes(self._path("damaged", aside), self._files.read_bytes(here))
            self._files.delete(here)
        except OSError:  # a folder
            self._files.move_folder(here, self._path("damaged", aside))
        _log.warning(
            "the record trials/%s of the sweep %s is damaged (%s): it was moved to damaged/%s and its trial runs again",
            *(name, self.name, reason, aside),
        )

    def of_the_same_request(self, request: dict[str, Any]) -> Iterator[list[TrialRecord]]:
        """The trials of every other sweep here that asked for the same, the latest last. A damaged one asked for nothing."""
        found = []
        for name in sweep_names(self.storage):
            other = SweepRecords(self.storage, name)
            if name != self.name and other._asked_for(request):
                trials = list(other.trials())
                found.append((max((record.started for record in trials), default=0.0), trials))
        for _, trials in sorted(found, key=lambda pair: pair[0]):
            yield trials

    def _asked_for(self, request: dict[str, Any]) -> bool:
        try:
            return self.request() == request
        except (UserError, OSError):
            return False

    def forget_failures(self) -> None:
        """Let everything be tried again: a resumed sweep may meet a mended world."""
        self._files.delete_folder(self._path("failed"))
        for record in list(self.trials()):
            if record.status == "failed":
                self._files.delete(self._path("trials", f"{record.trial}.json"))


def sweep_names(storage: str) -> list[str]:
    """Names of all sweeps under a storage root, sorted."""
    files = open_root(storage)
    return sorted(name for name in files.names("sweeps") if _has_request(files, name))


def _has_request(files: Storage, sweep: str) -> bool:
    try:
        return "sweep.json" in files.names(f"sweeps/{sweep}")
    except OSError:  # another user's
        return False
