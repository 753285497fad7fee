"""A sweep's records: what it was made from, who works on it, and what becomes of damaged ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from gankd.data import load
from gankd.errors import UserError
from gankd.models import build
from gankd.sweep.plan import Sweep, prepare, request_of, resume
from gankd.sweep.records import SweepRecords, TrialRecord
from tests.conftest import ROOT

SPACE = "from ray import tune\nSPACE = {'student.lr': tune.uniform(0.1, 0.2)}\n"
PRESET = "data: {name: npz, path: pictures.npz}\nteacher: {epochs: 1}\n"


def write_pictures(file: Path, shift: int = 0) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (900, 8, 8), np.uint8), (np.arange(900) + shift) % 3
    np.savez(file, images_train=images, labels_train=labels, images_test=images, labels_test=labels)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """A sweep as it was made in a folder, all its files by relative names."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_pictures(folder / "pictures.npz")
    (folder / "space.py").write_text(SPACE)
    (folder / "mine.yaml").write_text(PRESET)
    save_file(build("small_cnn", classes=3, image_size=8, image_channels=1, width=8).state_dict(), folder / "teacher.safetensors")
    flags = {"method": "cgan_kd", "preset": str(folder / "mine.yaml"), "space": str(folder / "space.py")}
    knobs = {"teacher.checkpoint": "teacher.safetensors", "teacher.network": "small_cnn", "teacher.width": "8"}
    sweep = prepare(request_of(flags | {"overrides": knobs | {"data.image_size": "8"}}), str(tmp_path / "runs"), "mine")
    sweep.records.save_request(sweep.request.model_dump(mode="json"))
    return sweep


def test_it_is_gone_on_with_from_any_folder(asked: Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    write_pictures(Path("pictures.npz"), shift=1)  # other data under the same relative name
    again = resume(asked.storage, "mine")
    assert (again.tree, again.fingerprint, again.request) == (asked.tree, asked.fingerprint, asked.request)
    assert again.tree["data"]["path"] == str(tmp_path / "project" / "pictures.npz")
    assert again.tree["teacher"]["checkpoint"] == str(tmp_path / "project" / "teacher.safetensors")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda: write_pictures(Path("pictures.npz"), shift=1), "data"),
        (lambda: Path("space.py").write_text(SPACE.replace("0.2", "0.3")), "space"),
        (lambda: Path("mine.yaml").write_text(PRESET.replace("1", "2")), "preset"),
        (lambda: _other_teacher(), "knob 'teacher.checkpoint'"),
    ],
)
def test_what_it_was_made_from_must_not_change(asked: Sweep, change: Callable[[], object], what: str) -> None:
    change()
    load.cache_clear()  # as in another process
    with pytest.raises(UserError, match=rf"the {what}.* of the sweep 'mine' is not what it was made with") as caught:
        resume(asked.storage, "mine")
    assert "\n" not in str(caught.value)


def _other_teacher() -> None:
    network = build("small_cnn", classes=3, image_size=8, image_channels=1, width=8)
    save_file({name: 2 * value for name, value in network.state_dict().items()}, "teacher.safetensors")


def test_a_comment_in_preset_or_space_changes_nothing(asked: Sweep) -> None:
    Path("space.py").write_text(SPACE + "# why\n")
    Path("mine.yaml").write_text("# mine\n" + PRESET)
    assert resume(asked.storage, "mine").request == asked.request


HOLD = """
import sys
from gankd.sweep.records import SweepRecords
with SweepRecords(*sys.argv[1:]).held():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    records = SweepRecords(str(tmp_path), "mine")
    command = [sys.executable, "-c", HOLD, str(tmp_path), "mine"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=f"'mine' is being run by .*process {other.pid}"), records.held():
                pass
            with SweepRecords(str(tmp_path), "yours").held():
                pass
        finally:
            other.kill()
    with records.held():  # the dead hold nothing
        pass


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00\xff garbage",
        b"[]",
        b"null",
        b'{"trial": "bad"}',
        b'{"trial": "other", "knobs": {}}',
        b'{"trial": "bad", "knobs": {}, "status": "lost"}',
        b'{"trial": "bad", "knobs": {}, "surprise": 1}',
        b'{"trial": "bad", "knobs": {}, "metrics": {"a": "b"}}',
        b"[" * 100_000,
        None,
    ],
)
def test_a_damaged_record_is_set_aside_with_a_warning(
    tmp_path: Path, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    records = SweepRecords(str(tmp_path), "mine")
    good = TrialRecord("good", {"student.lr": 0.1}, "finished", {"student/val_accuracy": 3.0})
    records.save_trial(good)
    file = tmp_path / "sweeps" / "mine" / "trials" / "bad.json"
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    assert list(records.trials()) == [good]
    assert "bad.json" in caplog.text
    assert "runs again" in caplog.text
    assert not file.exists()
    assert len(list((tmp_path / "sweeps" / "mine" / "damaged").iterdir())) == 1
    assert list(records.trials()) == [good]


@pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"\xff", None])
def test_a_damaged_request_of_another_sweep_stops_none(tmp_path: Path, content: bytes | None) -> None:
    for name in ("damaged", "twin"):
        other = SweepRecords(str(tmp_path), name)
        other.save_request({"method": "cgan_kd"})
        other.save_trial(TrialRecord("one", {}))
    file = tmp_path / "sweeps" / "damaged" / "sweep.json"
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    (found,) = SweepRecords(str(tmp_path), "mine").of_the_same_request({"method": "cgan_kd"})
    assert [record.trial for record in found] == ["one"]
    with pytest.raises(UserError, match=r"sweep\.json of the sweep 'damaged' .* is damaged"):
        SweepRecords(str(tmp_path), "damaged").request()
    assert SweepRecords(str(tmp_path), "damaged").exists()


def test_a_request_of_another_version_is_refused_in_a_sentence(asked: Sweep) -> None:
    file = Path(asked.storage) / "sweeps" / "mine" / "sweep.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"speed": 3}))
    with pytest.raises(UserError, match=r"--speed cannot be 3.*sweep\.json of mine"):
        resume(asked.storage, "mine")
