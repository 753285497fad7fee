"""A lease: among all threads, processes and nodes that share a storage, one at a time works on a key.

Each lease is a file `leases/<key>.<generation>.json` that only its holder writes, with a beat that counts on while
the holder lives. Releasing deletes it. To take over from a dead holder is to create the next generation; the newest
generation holds. So a takeover needs no rename and no file lock, and a holder that only slept can never overwrite its
successor: it finds the newer file and knows that its lease is lost. Two holders at once are possible when a holder
sleeps longer than the time to live. That is harmless: the store keeps the artifact of one of them.

No two clocks are ever compared: whoever waits measures by its own clock how long the beat stands still.
"""

import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from gankd.errors import UserError
from gankd.store.storage import Storage

FOLDER = "leases"
LEASE_FILE = re.compile(rf"{FOLDER}/(.+)\.(\d+)\.json")
BEATS = 10  # beats in one time to live


@cache
def machine() -> str:
    """Names the running kernel, the PID namespace and the user: where it is equal, equal process ids mean one process.

    Containers on one host have their own process ids, and one user may not see the processes of another.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}/{os.getuid()}"
    except OSError:  # no Linux
        return f"{socket.gethostname()}/{int(psutil.boot_time())}/{os.getuid()}"


def process_start(pid: int) -> str | None:
    """When a process of this machine started, None if it is dead. Kernel ticks on Linux: a clock that is set moves
    psutil's answer, and a living holder must not look like another process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.0f}"
    except psutil.NoSuchProcess:
        return None


def _parse(raw: bytes) -> dict[str, Any]:
    """The content of a lease file; empty if it is being created, half gone or damaged."""
    with suppress(ValueError):
        record = json.loads(raw)
        if isinstance(record, dict):
            return record
    return {}


def holder_alive(raw: bytes) -> bool | None:
    """Whether the process that wrote a lease lives; None if that cannot be seen from this machine."""
    record = _parse(raw)
    if record.get("machine") != machine():
        return None
    return isinstance(record.get("pid"), int) and process_start(record["pid"]) == record.get("start")


def holder(raw: bytes) -> str:
    """Host and process that wrote a lease, in words; empty for no lease, and for a process of this machine that is dead."""
    record = _parse(raw)
    return "" if not record or holder_alive(raw) is False else _named(record)


def _named(record: dict[str, Any]) -> str:
    return f"{record.get('host', '?')}, process {record.get('pid', '?')}"


class Pulse:
    """Tells from the beat of one key's lease whether its holder is dead: seen at once on this machine, else by its silence."""

    def __init__(self, ttl_s: float) -> None:
        self.ttl_s = ttl_s
        self.beating = False  # the lease has changed since the first look
        self._last: tuple[int, bytes] | None = None
        self._looked, self._still_s = time.monotonic(), 0.0

    def dead(self, generation: int, raw: bytes) -> bool:
        """Call at each look, with what was read."""
        now = time.monotonic()
        if (generation, raw) == self._last:
            # One look counts for a part of the time to live at most: whoever was itself asleep has seen nothing.
            self._still_s += min(now - self._looked, self.ttl_s / 5)
        else:
            self.beating, self._still_s = self._last is not None, 0.0
        self._last, self._looked = (generation, raw), now
        return holder_alive(raw) is False or self._still_s >= self.ttl_s


class Lease:
    """The lease on one key, held between `acquire` and `release`; see the module's text."""

    def __init__(self, storage: Storage, key: str, ttl_s: float) -> None:
        self.storage, self.key, self.ttl_s = storage, key, ttl_s
        self.held = False
        self.lost = False  # someone took over: this process slept for longer than the time to live
        self._generation, self._pid, self._beat = 0, 0, 0
        self._nonce = uuid.uuid4().hex
        self._stop, self._writing = threading.Event(), threading.Lock()

    def acquire(self, done: Callable[[], bool] = lambda: False, on_wait: Callable[[str, float], None] | None = None) -> bool:
        """Waits until the lease is held (True), or until `done()` while another holds it (False).

        `on_wait(holder, seconds)` is called at each look while waiting: to show it, or to raise and give up.
        """
        pulse, started = Pulse(self.ttl_s), time.monotonic()
        while True:
            generation, raw = newest(self.storage, self.key)
            if (generation == 0 or pulse.dead(generation, raw)) and self._claim(generation + 1):
                return True
            if generation and done():
                return False
            if generation and on_wait is not None:
                on_wait(_named(_parse(raw)), time.monotonic() - started)
            self.storage.pause()

    def _claim(self, generation: int) -> bool:
        self._generation, self._pid = generation, os.getpid()
        if not self.storage.create(self._name, self._record()):
            return False
        all_of_key = generations(self.storage, self.key)
        if max(all_of_key, default=generation) > generation:  # we judged by an old look: a later holder is at work
            self.storage.delete(self._name)
            return False
        for name in (n for g, n in all_of_key.items() if g < generation):
            self.storage.delete(name)
        self.held, self.lost = True, False
        threading.Thread(target=self._keep_beating, name=f"lease-{self.key}", daemon=True).start()
        return True

    @property
    def _name(self) -> str:
        return f"{FOLDER}/{self.key}.{self._generation}.json"

    def _record(self) -> bytes:
        return json.dumps(
            {
                "host": socket.gethostname(),
                "machine": machine(),
                "pid": self._pid,
                "start": process_start(self._pid),
                "nonce": self._nonce,
                "beat": self._beat,
            }
        ).encode()

    def _ours(self) -> bool:
        generation, raw = newest(self.storage, self.key)
        return generation == self._generation and _parse(raw).get("nonce") == self._nonce

    def _keep_beating(self) -> None:
        """The heartbeat. A fork copies no threads, so a forked child never beats for its parent."""
        while not self._stop.wait(self.ttl_s / BEATS):
            with self._writing:
                if self._stop.is_set():
                    return
                with suppress(OSError, UserError):  # a full disk, a network that stalls: the next beat may succeed
                    if not self._ours():
                        self.lost = True
                        return
                    self._beat += 1
                    self.storage.write_bytes(self._name, self._record(), sync=False)

    def release(self) -> None:
        """Lets the next waiter in. Does nothing in a forked child, nor for a lease that was not obtained or is lost."""
        if not self.held or self._pid != os.getpid():
            return
        self.held = False
        self._stop.set()
        with self._writing, suppress(OSError, UserError):  # must not hide the error that ends the work
            if self._ours():
                self.storage.delete(self._name)
            else:
                self.lost = True


def generations(storage: Storage, key: str) -> dict[int, str]:
    """The lease files of a key by generation."""
    matches = (LEASE_FILE.fullmatch(info.name) for info in storage.list(FOLDER))
    return {int(match[2]): match[0] for match in matches if match and match[1] == key}


def newest(storage: Storage, key: str) -> tuple[int, bytes]:
    """The generation and content of the lease that counts; (0, b"") if nobody holds the key."""
    found = generations(storage, key)
    if not found:
        return 0, b""
    try:
        return max(found), storage.read_bytes(found[max(found)])
    except FileNotFoundError:  # released since it was listed; the next look will see that
        return max(found), b""


def living(storage: Storage, ttl_s: float) -> set[str]:
    """The keys whose lease is held by a living process; waits up to `ttl_s` for a sign of those on other machines."""
    matches = (LEASE_FILE.fullmatch(info.name) for info in storage.list(FOLDER))
    unknown = {match[1]: Pulse(ttl_s) for match in matches if match}
    alive: set[str] = set()
    while unknown:
        for key, pulse in list(unknown.items()):
            generation, raw = newest(storage, key)
            dead = generation == 0 or pulse.dead(generation, raw)
            if pulse.beating or holder_alive(raw):
                alive.add(key)
            if dead or key in alive:
                del unknown[key]
        if unknown:
            storage.pause()
    return alive
