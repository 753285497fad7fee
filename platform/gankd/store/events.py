"""What happened, as lines of JSON in small files: how a training process tells the rest, without ever waiting for it.

`emit` appends to a buffer in memory (microseconds); a daemon thread writes the buffer every `flush_s` seconds to the
next chunk `<folder>/<source>/<seq:08d>.jsonl`. Chunks are whole or absent, and are never changed afterwards, so a
reader needs only one number per source to know what it has seen. `<folder>/index/<source>` announces a source: a reader
lists those and asks each source for its next chunk. NaN and infinities are written as Python's json writes them.

Kinds, each with `time` (ms since the epoch):
    stage_start    key, stage, config (flat), inputs {stage: key}, trial
    metrics        key or trial (neither: the sweep itself), step, values {name: float}
    tags           key or trial, tags {name: text}
    image          key or trial, name, step, png (base64)
    progress       key, stage, step, total, rate, trial
    stage_end      key, stage, status ('finished' | 'failed' | 'stopped'), metrics, reason, trial
    trial_start    trial, params (flat), keys {stage: key}
    trial_end      trial, status, metrics, reason
    closed         the last line of a source that ended in order

A reader hands on whole events only: a line that is none (damaged, or without a field that its kind must have) is passed
over with a warning, and so is a chunk that has vanished.
"""

from __future__ import annotations

import atexit
import heapq
import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from gankd.errors import UserError
from gankd.store.root import open_root

Event = dict[str, Any]
Cursor = dict[str, int]  # source -> number of the last chunk seen, or CLOSED

INDEX = "index"
CLOSED = -1  # cursor of a source whose last chunk has been seen
CHUNKS_PER_READ = 500  # bounds the memory of one `read` after a long absence
UNWRITABLE = (OSError, UserError)  # what a storage raises when it is away
INT64 = range(-(2**63), 2**63)  # what databases take

REQUIRED = {
    "stage_start": ("key", "stage", "config"),
    "metrics": ("values",),
    "tags": ("tags",),
    "image": ("name", "png"),
    "progress": ("key", "stage", "step", "total"),
    "stage_end": ("key", "stage", "status", "metrics"),
    "trial_start": ("trial", "params"),
    "trial_end": ("trial", "status", "metrics"),
}
TEXTS = {"kind", "key", "trial", "stage", "status", "reason", "name", "png"}
NUMBERS = {"total", "rate"}
COUNTS = {"time", "step"}
TABLES = {"config", "params", "inputs", "keys", "tags"}
TABLES_OF_NUMBERS = {"values", "metrics"}

_log = logging.getLogger(__name__)


class EventWriter:
    """Appends events of one source under `folder` (a local path or a bucket URI).

    The source's name gets a random ending, so a process that takes over from a killed one never writes into its files.
    """

    def __init__(self, folder: str, source: str, flush_s: float = 2.0) -> None:
        self.source = f"{source}-{uuid.uuid4().hex[:8]}"
        self._storage = open_root(folder)
        self._lines: deque[str] = deque()  # append and popleft are atomic: `emit` takes no lock
        self._unwritten = ""  # what could not be written yet: stays the next chunk until it is
        self._seq = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(flush_s,), name="events", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, kind: str, **fields: Any) -> None:
        """Record an event. Never blocks; numbers of numpy and torch are written as numbers, other objects as text."""
        self._lines.append(json.dumps({"kind": kind, "time": int(time.time() * 1000), **fields}, default=_plain))

    def flush(self) -> None:
        """Write what has been emitted. Raises OSError or UserError while the storage is away; nothing is lost then."""
        with self._lock:
            self._unwritten += "".join(self._lines.popleft() + "\n" for _ in range(len(self._lines)))
            if self._unwritten:
                if not self._seq:
                    self._storage.write_bytes(f"{INDEX}/{self.source}", b"")
                self._storage.write_bytes(_chunk_name(self.source, self._seq + 1), self._unwritten.encode())
                self._seq += 1
                self._unwritten = ""

    def close(self) -> None:
        """Write the rest and stop. Calling it again does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        atexit.unregister(self.close)
        self._thread.join()
        self.emit("closed")
        try:
            self.flush()
        except UNWRITABLE as error:
            _log.warning("the last events of %s could not be written: %s", self.source, error)

    def _run(self, flush_s: float) -> None:
        warned = False
        while not self._closing.wait(flush_s):
            try:
                self.flush()
                warned = False
            except UNWRITABLE as error:
                if not warned:
                    _log.warning("events of %s wait in memory, their folder cannot be written: %s", self.source, error)
                warned = True


class EventReader:
    """Reads what the writers under `folder` have written, each event once per cursor."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._storage = open_root(folder)
        self._complete: set[str] = set()  # sources in which no chunk is missing, as far as they have been written

    def read(self, cursor: Mapping[str, int]) -> tuple[list[Event], Cursor]:
        """The events after `cursor`, and the cursor after them, which rests once all is read (500 chunks a call).

        Events of one source come in their order; sources are merged by time.
        """
        after, streams, budget = dict(cursor), [], CHUNKS_PER_READ
        for source in (file.name.removeprefix(f"{INDEX}/") for file in self._storage.list(INDEX)):
            events: list[Event] = []
            while budget and after.get(source, 0) != CLOSED:
                seq = after.get(source, 0) + 1
                chunk = self._chunk(source, seq)
                if chunk is None and (seq := self._beyond_gap(source, seq)):
                    chunk = self._chunk(source, seq)
                if chunk is None:
                    break
                budget -= 1
                events += chunk
                after[source] = CLOSED if chunk and chunk[-1]["kind"] == "closed" else seq
            streams.append(events)
        return list(heapq.merge(*streams, key=lambda event: event["time"])), after

    def all(self) -> Iterator[Event]:
        """From the first to the last that is written now."""
        cursor: Cursor = {}
        while True:
            events, after = self.read(cursor)
            yield from events
            if after == cursor:
                return
            cursor = after

    def _chunk(self, source: str, seq: int) -> list[Event] | None:
        # Asking for the next number costs the same however long the source has been writing; listing would not.
        name = _chunk_name(source, seq)
        try:
            lines = self._storage.read_bytes(name).splitlines()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except IsADirectoryError:
            lines = [b"a folder"]
        events = [event for event in map(_parsed, lines) if event]
        if damaged := len(lines) - len(events):
            _log.warning("%d of %d events in %s of %s are damaged and passed over", damaged, len(lines), name, self.folder)
        return events

    def _beyond_gap(self, source: str, seq: int) -> int:
        """The first chunk after `seq` where `seq` has vanished, 0 where the source has simply not gone on.

        Looks once: a writer never leaves a gap, so there is one only where somebody deleted what was written before.
        """
        if source in self._complete:
            return 0
        names = [name for name in self._storage.names(source) if name >= _chunk_name("", seq).strip("/")]
        found = next((int(name[:8]) for name in names if name[:8].isdecimal() and name.endswith(".jsonl")), 0)
        if found == seq:  # written a moment ago
            return seq
        if found:
            _log.warning("event files %d to %d of %s in %s are missing and passed over", seq, found - 1, source, self.folder)
        else:
            self._complete.add(source)
        return found


def _chunk_name(source: str, seq: int) -> str:
    return f"{source}/{seq:08d}.jsonl"


def _parsed(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and _is_whole(event) else None


def _is_whole(event: Event) -> bool:
    """Whether every field is of its type, and none is missing: what comes from a file may be anything."""
    required = ("kind", "time", *REQUIRED.get(str(event.get("kind")), ()))
    return all(event.get(name) is not None for name in required) and all(
        value is None or _fits(name, value) for name, value in event.items()
    )


def _fits(name: str, value: Any) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    if name in COUNTS:
        return type(value) is int and value in INT64
    if name in NUMBERS:
        return _is_number(value)
    if name in TABLES_OF_NUMBERS:
        return isinstance(value, dict) and all(map(_is_number, value.values()))
    return name not in TABLES or isinstance(value, dict)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and value in INT64)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
