"""`tune --time`: how a time is written, and that a program ends at it as it would by Ctrl-C."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gankd.errors import UserError
from gankd.text import seconds_of

PROGRAM = """
import threading
from gankd import interrupt
interrupt.install()
interrupt.advise("go on with: this")
interrupt.allow(0.05)
threading.Event().wait(60)
"""


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), (" 1m1s ", 61)])
def test_times(text: str, seconds: int) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "2", "h", "-1h", "1.5h", "2h 3m", "1d", "9" * 30 + "h", "30m1h"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="a time cannot be"):
        seconds_of(text)


def test_when_the_time_is_up_it_says_so_and_how_to_go_on() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 124
    assert done.stderr.strip() == "the time is up; go on with: this"
