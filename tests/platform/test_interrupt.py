"""Ctrl-C and SIGTERM at any moment: the sentence that says how to go on, the exit code, and no process left.

`benchmarks/reliability.py` has more moments.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from gankd import interrupt
from gankd.registry import find_method
from tests.conftest import ROOT, Workplace, members, until

pytestmark = pytest.mark.timeout(900)  # seconds; half a minute each where nothing else runs
LONG = ("--set=biggan.steps=100000", "--set=student.steps=100000")
SAID_WITHIN_S, GONE_WITHIN_S = 5, 10


def listening(root: int) -> set[str]:
    """The addresses on which a process and its descendants listen."""
    family = [psutil.Process(root), *psutil.Process(root).children(recursive=True)]
    found = set()
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= {c.laddr.ip for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    assert found
    return found


def check_stop(place: Workplace, more: tuple[str, ...], moment: str, number: signal.Signals, *, group: bool, twice: bool) -> None:
    """Start a sweep, send the signal once its output holds `moment`, and look at how it ends."""
    command = [sys.executable, str(ROOT / "tune.py"), "--method", "tiny_gan", "--trials", "1", "--name", "mine", *more]
    with place.started(command) as process:
        until(lambda: moment in place.output(), alive=process)
        if "started" in moment:
            assert listening(process.pid) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        elif not moment:
            until(lambda: taken(process.pid), alive=process)
        sent = time.monotonic()
        for _ in range(1 + twice):
            with contextlib.suppress(ProcessLookupError):  # the second may come too late
                (os.killpg if group else os.kill)(process.pid, number)
        until(lambda: "; nothing " in place.output(), seconds=60)
        said = time.monotonic() - sent
        assert process.wait(timeout=60) == 128 + number, place.output()
        until(lambda: not members(process.pid), seconds=60)
        gone = time.monotonic() - sent
    advice = "nothing finished is lost. Go on with: python tune.py --resume " if moment else "nothing had been started\n"
    assert f"; {advice}" in place.output()
    assert "Traceback" not in place.output()
    assert said < SAID_WITHIN_S
    assert gone < GONE_WITHIN_S


def taken(pid: int) -> bool:
    """Whether a process handles SIGINT itself by now."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), 16)
    return bool(mask >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize(("number", "group"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_at_the_start(tmp_path: Path, plugin: Path, number: signal.Signals, group: bool) -> None:
    check_stop(Workplace(tmp_path, plugin), LONG, "", number, group=group, twice=False)


def test_while_ray_starts(tmp_path: Path, plugin: Path, empty_store: Path) -> None:
    check_stop(Workplace(tmp_path, plugin, database=empty_store), LONG, "tracked at", signal.SIGINT, group=True, twice=True)


def test_while_the_shared_stages_train(tmp_path: Path, plugin: Path, empty_store: Path) -> None:
    """Ray Train, which makes them, takes Ctrl-C for itself if it can."""
    place = Workplace(tmp_path, plugin, database=empty_store)
    check_stop(place, LONG, "biggan: started", signal.SIGINT, group=False, twice=True)


@pytest.mark.long
def test_while_the_trials_train(tmp_path: Path, plugin: Path, empty_store: Path) -> None:
    place = Workplace(tmp_path, plugin, database=empty_store)
    place.make("tiny_gan", [stage.name for stage in find_method("tiny_gan").shared(["student.lr"])], {}, preset="digits")
    check_stop(place, LONG[1:], "student: started", signal.SIGTERM, group=True, twice=False)


def test_a_signal_that_meets_code_which_lets_nothing_through(tmp_path: Path) -> None:
    """In a destructor Python drops the KeyboardInterrupt; other errors there are shown as ever."""
    script = (
        "import os, signal, time\nfrom gankd import interrupt\ninterrupt.install()\n"
        "interrupt.SAY_WITHIN_S, interrupt.END_WITHIN_S = 0.2, 0.4\n"
        "class Deaf:\n    def __init__(self, act): self.act = act\n    def __del__(self): self.act()\n"
        "Deaf(lambda: 1 / 0)\nDeaf(lambda: os.kill(os.getpid(), signal.SIGINT))\ntime.sleep(600)\n"
    )
    place = Workplace(tmp_path)
    with place.started([sys.executable, "-c", script]) as process:
        assert process.wait(timeout=30) == 130
    assert "ZeroDivisionError" in place.output()
    assert "KeyboardInterrupt" not in place.output()
    assert place.output().count("interrupted") == 1


def test_a_second_signal_changes_nothing_and_who_hangs_is_not_waited_for(tmp_path: Path) -> None:
    """The main thread swallows Ctrl-C and hangs; so does a child that ignores it."""
    script = (
        "import subprocess, sys, time\nfrom gankd import interrupt\ninterrupt.install()\ninterrupt.SAY_WITHIN_S = 0.2\n"
        "interrupt.END_WITHIN_S = 0.4\ninterrupt.advise('nothing at all')\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(600)'])\n"
        "print('ready', flush=True)\n"
        "while True:\n    try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        pass\n"
    )
    place = Workplace(tmp_path)
    with place.started([sys.executable, "-c", script]) as process:
        until(lambda: "ready" in place.output(), alive=process)
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130
        until(lambda: not members(process.pid), seconds=30)
    assert place.output().count("interrupted; nothing at all") == 1
    assert interrupt.END_WITHIN_S < GONE_WITHIN_S
