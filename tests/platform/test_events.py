"""Events survive: in order, whole, not-a-numbers included, through an unwritable folder and a killed writer."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from gankd.store import events
from gankd.store.events import CLOSED, EventReader, EventWriter

WITH_PLATFORM = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "platform")}
NEVER = 1e6  # seconds: the thread does not write in these tests, flush() does


def kinds(found: list[events.Event]) -> list[str]:
    return [event["kind"] for event in found]


def test_events_come_back_in_order_and_once(tmp_path: Path) -> None:
    writer, reader = EventWriter(str(tmp_path), "driver", NEVER), EventReader(str(tmp_path))
    writer.emit("a", step=1)
    writer.emit("b", step=2)
    writer.flush()
    found, cursor = reader.read({})
    assert kinds(found) == ["a", "b"]
    assert found[0]["step"] == 1
    assert found[0]["time"] > 1.6e12  # milliseconds
    assert reader.read(cursor) == ([], cursor)
    writer.emit("c")
    writer.close()
    found, cursor = reader.read(cursor)
    assert kinds(found) == ["c", "closed"]
    assert cursor == {writer.source: CLOSED}
    assert reader.read(cursor) == ([], cursor)


def test_the_thread_writes_without_being_asked(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "driver", 0.01)
    written, write = threading.Event(), writer._storage.write_bytes

    def tell(name: str, data: bytes) -> None:
        write(name, data)
        if name.endswith(".jsonl"):
            written.set()

    writer._storage.write_bytes = tell  # type: ignore[method-assign,assignment]
    writer.emit("a")
    assert written.wait(30)
    assert kinds(EventReader(str(tmp_path)).read({})[0]) == ["a"]
    writer.close()


def test_not_a_number_infinity_numpy_and_objects(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    values = {"nan": math.nan, "inf": math.inf, "low": -math.inf, "np": np.float32(0.5), "zero_d": np.ones(())}
    writer.emit("metrics", values=values, place=Path("/x"))
    writer.close()
    event = EventReader(str(tmp_path)).read({})[0][0]
    assert math.isnan(event["values"].pop("nan"))
    assert event["values"] == {"inf": math.inf, "low": -math.inf, "np": 0.5, "zero_d": 1.0}
    assert event["place"] == "/x"


def test_sources_are_merged_by_time_and_keep_their_own_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([1.0, 3.0, 2.5, 2.0, 4.0, 9.0, 9.0])  # the first source's clock is set back between its events
    monkeypatch.setattr(events.time, "time", lambda: next(clock))
    one, two = (EventWriter(str(tmp_path), name, NEVER) for name in ("one", "two"))
    for writer, kind in [(one, "1a"), (one, "1b"), (one, "1c"), (two, "2a"), (two, "2b")]:
        writer.emit(kind)
    one.close()
    two.close()
    found = [kind for kind in kinds(EventReader(str(tmp_path)).read({})[0]) if kind != "closed"]
    assert found == ["1a", "2a", "1b", "1c", "2b"]


def test_two_writers_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    for kind in ("first", "second"):
        writer = EventWriter(str(tmp_path), "trial-0", NEVER)
        writer.emit(kind)
        writer.close()
    found, cursor = EventReader(str(tmp_path)).read({})
    assert {"first", "second"} <= set(kinds(found))
    assert len(cursor) == 2


def test_an_unwritable_folder_loses_nothing(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    write = writer._storage.write_bytes

    def refuse(name: str, data: bytes) -> None:
        raise OSError("no space left")

    writer._storage.write_bytes = refuse  # type: ignore[method-assign,assignment]
    writer.emit("a")
    with pytest.raises(OSError, match="no space"):
        writer.flush()
    writer.emit("b")
    writer._storage.write_bytes = write  # type: ignore[method-assign]
    writer.close()
    assert kinds(EventReader(str(tmp_path)).read({})[0]) == ["a", "b", "closed"]


def test_a_long_absence_is_read_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "CHUNKS_PER_READ", 3)
    writer, reader = EventWriter(str(tmp_path), "driver", NEVER), EventReader(str(tmp_path))
    for step in range(7):
        writer.emit("metrics", step=step, values={})
        writer.flush()
    cursor: events.Cursor = {}
    portions = []
    while True:
        found, after = reader.read(cursor)
        if after == cursor:
            break
        portions.append([event["step"] for event in found])
        cursor = after
    assert portions == [[0, 1, 2], [3, 4, 5], [6]]
    writer.close()


WHOLE = b'{"kind": "metrics", "time": 5, "key": "k", "step": 1, "values": {"loss": 0.5}}'
DAMAGED = [
    b"{", b"\xff\xfe\x00binary", b"[]", b"7", b"null", b"{}", b'{"kind": "metrics"}', b"[" * 100_000, b"9" * 5000,
    b'{"kind": 3, "time": 5}', b'{"kind": "metrics", "time": "now", "values": {}}', b'{"kind": "metrics", "time": 5}',
    b'{"kind": "metrics", "time": 5, "values": {"loss": "low"}}', b'{"kind": "metrics", "time": 5, "values": [1]}',
    b'{"kind": "metrics", "time": 5, "values": {}, "step": 1e400}', b'{"kind": "metrics", "time": 5, "key": {}, "values": {}}',
    b'{"kind": "metrics", "time": 5, "values": {}, "step": ' + b"9" * 40 + b"}", WHOLE[:-9],
    b'{"kind": "stage_end", "time": 5, "key": "k", "stage": "s", "status": null, "metrics": {}}',
    b'{"kind": "trial_end", "time": 5, "trial": "t", "status": "finished", "metrics": {"loss": null}}',
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_line_is_passed_over_and_the_rest_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    writer.emit("a")
    writer.flush()
    writer.emit("b")
    writer.close()
    (tmp_path / writer.source / "00000001.jsonl").write_bytes(b"\n".join([WHOLE, damage, WHOLE]) + b"\n")
    found, cursor = EventReader(str(tmp_path)).read({})
    assert kinds(found) == ["metrics", "metrics", "b", "closed"]
    assert cursor == {writer.source: CLOSED}
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "00000001.jsonl" in caplog.text


def test_a_cut_file_an_empty_one_and_a_folder_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    for kind in "abcd":
        writer.emit(kind)
        writer.flush()
    writer.close()
    chunks = sorted((tmp_path / writer.source).iterdir())
    chunks[0].write_bytes(WHOLE + b"\n" + WHOLE[:30])
    chunks[1].write_bytes(b"")
    chunks[2].unlink()
    chunks[2].mkdir()
    assert kinds(EventReader(str(tmp_path)).read({})[0]) == ["metrics", "d", "closed"]
    assert caplog.text.count("passed over") == 2


def test_what_was_written_after_a_file_that_has_vanished_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    writer, reader = EventWriter(str(tmp_path), "driver", NEVER), EventReader(str(tmp_path))
    for kind in "abcde":
        writer.emit(kind)
        writer.flush()
    for number in (1, 3, 4):
        (tmp_path / writer.source / f"{number:08d}.jsonl").unlink()
    found, cursor = reader.read({})
    assert (kinds(found), cursor) == (["b", "e"], {writer.source: 5})
    assert "files 3 to 4 of driver" in caplog.text
    writer.emit("f")
    writer.close()
    assert kinds(reader.read(cursor)[0]) == ["f", "closed"]


def test_a_source_that_is_a_file_holds_up_nobody(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    writer.emit("a")
    writer.close()
    (tmp_path / "index" / "other").write_bytes(b"")
    (tmp_path / "other").write_bytes(b"garbage")
    assert kinds(EventReader(str(tmp_path)).read({})[0]) == ["a", "closed"]


def test_a_killed_writer_leaves_what_it_had_flushed(tmp_path: Path) -> None:
    code = (
        "import sys, signal; from gankd.store.events import EventWriter; w = EventWriter(sys.argv[1], 'trial-0', 1e6)\n"
        "w.emit('a', step=1); w.flush(); w.emit('a', step=2); print('ready', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, env=WITH_PLATFORM) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == b"ready"
        process.send_signal(signal.SIGKILL)
    found, _ = EventReader(str(tmp_path)).read({})
    assert [event["step"] for event in found] == [1]


def test_an_ordinary_exit_flushes(tmp_path: Path) -> None:
    code = "import sys; from gankd.store.events import EventWriter; EventWriter(sys.argv[1], 'trial-0', 1e6).emit('a')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=WITH_PLATFORM)
    assert kinds(EventReader(str(tmp_path)).read({})[0]) == ["a", "closed"]


def test_training_processes_import_neither_mlflow_nor_torch_nor_ray() -> None:
    code = "import gankd.store.events, sys; assert not {'mlflow', 'torch', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=WITH_PLATFORM)


def test_chunks_are_lines_of_json(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "driver", NEVER)
    writer.emit("metrics", values={"student/loss": 0.25}, note="a\nb")
    writer.close()
    lines = (tmp_path / writer.source / "00000001.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["values"] == {"student/loss": 0.25}
