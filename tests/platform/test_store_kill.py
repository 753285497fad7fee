"""Processes that die at any moment: nothing half-written is ever seen, and another process finishes the work."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gankd.store import Store
from gankd.store.lease import Lease, machine, process_start

KEY = "biggan-3f2a91"
ENV = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def start(code: str, *arguments: object) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], env=ENV, text=True, stdout=subprocess.PIPE)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@contextmanager
def process(code: str, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
    child = start(code, *arguments)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


# Publishes once per fork and is killed at the n-th file operation, for n = 1, 2, ... until it comes to its end.
KILLED_PUBLISHERS = """
import os, signal, sys, warnings
from pathlib import Path
from gankd.store import Store

warnings.simplefilter("error")                  # a half-written artifact would be reported as damaged
store = Store(sys.argv[1])

def publish(key, die_at):
    count = 0
    def hook(event, _):
        nonlocal count
        count += event.split(".")[0] in ("open", "os", "shutil")
        if count == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
    folder = store.scratch(key)
    (folder / "sub").mkdir()
    for name in ("model.bin", "sub/images.npy", "empty"):
        (folder / name).write_bytes(os.urandom(5000) if name != "empty" else b"")
    store.save_checkpoint(key, b"state")
    sys.addaudithook(hook)
    store.publish(key, folder, {"stage": "gan", "metrics": {"fid": 1.0}})
    os._exit(0)

seen = {True: 0, False: 0}
for die_at in range(1, 1000):
    key = f"gan-{die_at}"
    child = os.fork()
    if child == 0:
        publish(key, die_at)
    status = os.waitpid(child, 0)[1]
    has = store.has(key)
    artifact = store.get(key)
    assert has == (artifact is not None)
    assert artifact or store.load_checkpoint(key).read_bytes() == b"state", "the way on is lost"
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0 and has
        break
    seen[has] += 1
else:
    raise AssertionError("never ran to its end")
assert not (Path(sys.argv[1]) / "damaged").exists()
print(seen[False], seen[True])
"""


def test_publisher_killed_at_every_file_operation(tmp_path: Path) -> None:
    with process(KILLED_PUBLISHERS, tmp_path) as child:
        out, _ = child.communicate(timeout=60)
    assert child.returncode == 0
    before, after = map(int, out.split())
    assert before >= 15, "killed before the rename, at many points"
    assert after >= 2, "and after it"
    Store(tmp_path).gc()
    assert not [p for p in (tmp_path / "scratch").iterdir() if not p.name.startswith(".tmp-")]


PUBLISH_FOR_EVER = """
import sys
from gankd.store import Store
store = Store(sys.argv[1])
print("ready", flush=True)
for n in range(10**6):
    folder = store.scratch(f"gan-{n}")
    for name in "abcdef":
        (folder / name).write_bytes(name.encode() * 200_000)
    store.publish(f"gan-{n}", folder, {"stage": "gan"})
"""


@pytest.mark.parametrize("count", [1, 3, 6])
def test_publisher_killed_at_any_time(tmp_path: Path, count: int) -> None:
    """The moment within a publication is the scheduler's choice."""
    with process(PUBLISH_FOR_EVER, tmp_path) as child:
        until(lambda: (tmp_path / "artifacts" / f"gan-{count}").exists())
        child.kill()
        child.wait()
    store = Store(tmp_path)
    published = [path.name for path in (tmp_path / "artifacts").iterdir()]
    assert len(published) > count
    assert all(store.get(key) for key in published)


COMPUTE_ONCE = """
import os, sys, time
from pathlib import Path
from gankd.store import Store

root, key, others = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
store = Store(root / "store")

def waiting(holder, seconds):
    (root / f"waiting-{os.getpid()}").touch()

artifact = store.get(key)
if artifact is None:
    with store.lease(key, on_wait=waiting):
        artifact = store.get(key)
        if artifact is None:
            with open(root / "computed", "a") as file:
                file.write(f"{os.getpid()}\\n")
            deadline = time.monotonic() + 60
            while len(list(root.glob("waiting-*"))) < others and time.monotonic() < deadline:
                time.sleep(0.01)
            folder = store.scratch(key)
            (folder / "weights").write_text(str(os.getpid()))
            artifact = store.publish(key, folder, {"stage": "gan"})
print(artifact.file("weights").read_text())
"""


def test_eight_processes_compute_once(tmp_path: Path) -> None:
    children = [start(COMPUTE_ONCE, tmp_path, KEY, 7) for _ in range(8)]
    try:
        results = {child.communicate(timeout=100)[0] for child in children}
    finally:
        for child in children:
            child.kill()
            child.wait()
    computed = (tmp_path / "computed").read_text().split()
    assert len(computed) == 1
    assert results == {computed[0] + "\n"}
    assert not Store(tmp_path / "store").storage.list("leases")


def test_dead_holder_is_replaced_by_exactly_one_waiter_at_once(tmp_path: Path) -> None:
    """The holder waits for more waiters than there are; killed, it stays a zombie until the test reaps it."""
    with process(COMPUTE_ONCE, tmp_path, KEY, 99) as holder:
        until((tmp_path / "computed").exists)
        waiters = [start(COMPUTE_ONCE, tmp_path, KEY, 0) for _ in range(3)]
        try:
            until(lambda: len(list(tmp_path.glob("waiting-*"))) == 3)
            began = time.monotonic()
            os.kill(holder.pid, signal.SIGKILL)
            results = {waiter.communicate(timeout=60)[0] for waiter in waiters}
        finally:
            for waiter in waiters:
                waiter.kill()
                waiter.wait()
    assert time.monotonic() - began < 8, "sooner than the lease of 10 s runs out"
    computed = (tmp_path / "computed").read_text().split()
    assert computed[0] == str(holder.pid)
    assert len(computed) == 2
    assert results == {computed[1] + "\n"}


# ---- leases, one by one


def foreign(store: Store, generation: int = 1, beat: int = 0) -> Path:
    path = Path(store.storage.uri, "leases", f"{KEY}.{generation}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"host": "node7", "machine": "node7/boot/pid:[1]", "pid": 1, "start": "5", "nonce": "n", "beat": beat})
    )
    return path


def test_silent_holder_on_another_machine_is_replaced_after_its_time_to_live(tmp_path: Path) -> None:
    store, beats = Store(tmp_path, lease_ttl_s=1.0), 0
    path = foreign(store)
    last_beat = 0.0

    def on_wait(holder: str, seconds: float) -> None:
        nonlocal beats, last_beat
        assert holder == "node7, process 1"
        if beats < 4:  # it lives for a while
            beats += 1
            foreign(store, beat=beats)
            last_beat = time.monotonic()

    with store.lease(KEY, on_wait=on_wait) as lease:
        assert time.monotonic() - last_beat >= 1.0
        assert lease.held
        assert beats == 4
        assert not path.exists()
    assert not store.storage.list("leases")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff"])
def test_unreadable_lease_runs_out(tmp_path: Path, content: bytes) -> None:
    store = Store(tmp_path, lease_ttl_s=0.3)
    foreign(store).write_bytes(content)
    with store.lease(KEY) as lease:
        assert lease.held


def test_process_id_that_was_used_again_is_another_process(tmp_path: Path) -> None:
    store = Store(tmp_path, lease_ttl_s=1000)
    path = foreign(store)
    path.write_text(json.dumps({"machine": machine(), "pid": os.getpid(), "start": "an earlier one", "nonce": "n"}))
    with store.lease(KEY) as lease:
        assert lease.held


def test_holder_that_slept_knows_that_its_lease_is_lost(tmp_path: Path) -> None:
    store = Store(tmp_path, lease_ttl_s=0.5)
    with store.lease(KEY) as lease:
        until(lambda: lease._beat > 1)
        successor = foreign(store, generation=lease._generation + 1)
        until(lambda: lease.lost)
    assert successor.exists(), "releasing a lost lease leaves the successor's alone"


def test_takeover_judged_by_an_old_look_is_given_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    foreign(store, generation=5)
    late = Lease(store.storage, KEY, 10.0)
    assert not late._claim(3)
    assert [info.name for info in store.storage.list("leases")] == [f"leases/{KEY}.5.json"]


def test_forked_child_neither_beats_nor_releases(tmp_path: Path) -> None:
    code = """
import os, sys, threading
from gankd.store import Store
store = Store(sys.argv[1], lease_ttl_s=1.0)
with store.lease("gan-1") as lease:
    child = os.fork()
    if child == 0:
        assert threading.active_count() == 1
    else:
        assert os.waitpid(child, 0)[1] == 0
        assert lease.held and store.storage.list("leases")
if child:
    assert not store.storage.list("leases")
"""
    with process(code, tmp_path) as child:
        assert child.wait(60) == 0


def test_gc_spares_a_living_lease_elsewhere_and_removes_a_dead_one(tmp_path: Path) -> None:
    store = Store(tmp_path, lease_ttl_s=0.5)
    folder = store.scratch(KEY)
    code = """
import json, pathlib, sys, time
path = pathlib.Path(sys.argv[1])
for beat in range(10**6):
    path.with_suffix(".new").write_text(json.dumps({"machine": "elsewhere", "pid": 1, "nonce": "n", "beat": beat}))
    path.with_suffix(".new").replace(path)
    time.sleep(0.02)
"""
    with process(code, foreign(store)):
        until(lambda: b"elsewhere" in store.storage.read_bytes(f"leases/{KEY}.1.json"))
        assert store.gc() == []
    assert {(e.kind, e.key) for e in store.gc()} == {("scratch", KEY), ("lease", KEY)}
    assert not folder.exists()
    assert not store.storage.list("leases")


def test_process_start_tells_the_living_from_the_dead() -> None:
    assert process_start(os.getpid()) == process_start(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid)
    child.kill()
    until(lambda: process_start(child.pid) is None)  # a zombie: nobody has reaped it
    child.wait()
    assert process_start(child.pid) is None
