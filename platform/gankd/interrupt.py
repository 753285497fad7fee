"""Ctrl-C, SIGTERM and the end of the time allowed: at any moment the same sentence, and no process left behind.

The first signal raises KeyboardInterrupt in the main thread; further ones change nothing. Whoever swallows it, or is slow to
clean up, is not waited for: a thread says the sentence and ends the process and all its descendants.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any, NoReturn

SAY_WITHIN_S, END_WITHIN_S = 3.0, 7.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)
WORDS = {signal.SIGTERM: "told to stop", signal.SIGALRM: "the time is up"}
TIME_IS_UP = 124  # as `timeout` exits

_received = 0  # the number of the first signal
_advice = ""
_said = threading.Event()


def install() -> None:
    """Take the two signals; again after whatever installs handlers of its own. Only the main thread may."""
    for number in SIGNALS:
        signal.signal(number, _on_signal)
    sys.excepthook = _on_exception  # while a program's modules are imported, nobody catches
    sys.unraisablehook = _on_unraisable


def allow(seconds: float) -> None:
    """Stop as by Ctrl-C after so many seconds from now."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


def advise(text: str) -> None:
    """What the sentence says after "interrupted"."""
    global _advice
    _advice = text


def say() -> None:
    """The sentence, once."""
    if not _said.is_set():
        _said.set()
        what = WORDS.get(_received, "interrupted")  # type: ignore[call-overload]
        sys.stderr.write(f"\n{what}{f'; {_advice}' if _advice else ''}\n")
        sys.stderr.flush()


def end() -> NoReturn:
    """Say the sentence, kill what was started and exit: 130 after Ctrl-C, 143 after SIGTERM, 124 when the time is up."""
    say()
    _kill_descendants()
    os._exit(TIME_IS_UP if _received == signal.SIGALRM else 128 + (_received or signal.SIGINT))


def _on_exception(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        end()
    sys.__excepthook__(kind, error, trace)


def _on_unraisable(unraisable: Any) -> None:
    """A signal can meet code that lets nothing through (a fork, a destructor): Python drops its KeyboardInterrupt, with a page of
    traceback. The thread that the signal has started ends the process all the same."""
    if not (_received and issubclass(unraisable.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(unraisable)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _received
    if _received:
        return
    _received = number
    threading.Thread(target=_see_to_it, name="interrupt", daemon=True).start()
    raise KeyboardInterrupt


def _see_to_it() -> None:
    time.sleep(SAY_WITHIN_S)
    say()
    time.sleep(END_WITHIN_S - SAY_WITHIN_S)
    end()


def _kill_descendants() -> None:
    """All processes that descend from this one, until there is none."""
    import psutil

    own = psutil.Process()
    while family := own.children(recursive=True):
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        gone, _ = psutil.wait_procs(own.children(), timeout=2)
        if not gone:
            return
