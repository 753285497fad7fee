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
from collections.abc import Mapping
from typing import Any

from gankd.errors import UserError
from gankd.store.root import open_root

Event = dict[str, Any]
Cursor = dict[str, int]  # source -> number of the last chunk seen, or CLOSED

INDEX = "index"
CLOSED = -1  # cursor of a source whose last chunk has been seen
CHUNKS_PER_READ = 500  # bounds the memory of one `read` after a long absence
UNWRITABLE = (OSError, UserError)  # what a storage raises when it is away

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
                self._storage.write_bytes(f"{self.source}/{self._seq + 1:08d}.jsonl", self._unwritten.encode())
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

    def read(self, cursor: Mapping[str, int]) -> tuple[list[Event], Cursor]:
        """The events after `cursor`, and the cursor after them, which rests once all is read (500 chunks a call).

        Events of one source come in their order; sources are merged by time.
        """
        after, streams, budget = dict(cursor), [], CHUNKS_PER_READ
        for source in (file.name.removeprefix(f"{INDEX}/") for file in self._storage.list(INDEX)):
            events: list[Event] = []
            while budget and after.get(source, 0) != CLOSED:
                chunk = self._chunk(source, after.get(source, 0) + 1)
                if chunk is None:
                    break
                budget -= 1
                events += chunk
                after[source] = CLOSED if chunk and chunk[-1]["kind"] == "closed" else after.get(source, 0) + 1
            streams.append(events)
        return list(heapq.merge(*streams, key=lambda event: event["time"])), after

    def _chunk(self, source: str, seq: int) -> list[Event] | None:
        # Asking for the next number costs the same however long the source has been writing; listing would not.
        name = f"{source}/{seq:08d}.jsonl"
        try:
            data = self._storage.read_bytes(name)
        except FileNotFoundError:
            return None
        try:
            return [json.loads(line) for line in data.decode().splitlines()]
        except ValueError as error:
            _log.warning("the damaged event file %s of %s is passed over: %s", name, self.folder, error)
            return []


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)
