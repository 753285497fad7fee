"""`gankd report` on recorded sweeps: what a page says of a table, a search, its cost and its origin, and what it refuses."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gankd import cli
from gankd.commands import report as command
from gankd.commands.report import write_report
from gankd.errors import UserError
from gankd.page import Curves, Dots, Facts, Grid, Pictures, Section, Tree
from gankd.store import Store
from gankd.store.events import EventWriter
from gankd.sweep.evidence import PictureBudget, readable
from gankd.sweep.filled import filled_table
from gankd.sweep.records import Outcome, SweepRecords, TrialRecord
from gankd.sweep.report import Reported, command_line, sweep_report, table_dots
from gankd.sweep.request import SweepRequest
from gankd.sweep.table import TableSpec
from gankd.tracking.sweeps import FinishedSweep
from tests.browser import Elements

HOSTILE = "<script>alert(1)</script>\"'&{{ 7 * 7 }}"

TABLE = """
title: what <b>helps</b>
columns: [student]
metrics: {top-1: test_student/test_accuracy}
reference: [control]
rows:
  - {labels: [control], metrics: {top-1: test_control/test_accuracy}}
  - {labels: ["<script>alert(1)</script>"]}
"""
STAGES = {
    "teacher": (),
    "student": ("teacher",),
    "control": ("teacher",),
    "test_student": ("student",),
    "test_control": ("control",),
}


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 200).save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


class Recorded:
    """Writes down sweeps of `cgan_kd` as a finished run leaves them, without training anything."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.storage = folder, str(folder / "runs")
        self.store = Store(self.storage)

    def artifact(self, key: str, inputs: dict[str, str], **changes: Any) -> None:
        """Publish an artifact that took 2 device-seconds."""
        stage = key.rpartition("-")[0]
        manifest = {
            "stage": stage, "inputs": inputs, "metrics": {}, "fingerprint": "f" * 64, "seconds": 2.0, "workers": 1, "seed": 1,
            "basis": {"": {"network": "small"}}, "data_config": {"name": "digits"}, "versions": {"gankd": "0.1.0"},
            "notes": [f"the {stage} was taught by {HOSTILE}"], "device": "cpu x2", "config": {},
        } | changes  # fmt: skip
        if not self.store.has(key):
            self.store.publish(key, self.store.scratch(key), manifest)

    def table(self, name: str, seeds: int = 2, text: str = TABLE, by_other: bool = False, **changes: Any) -> None:
        """A table of two rows over seeds; `changes` are those of what the second row was measured by."""
        file = self.folder / f"{name}.yaml"
        file.write_text(text)
        request = SweepRequest(method="cgan_kd", preset="smoke", table=str(file), seeds=seeds)
        SweepRecords(self.storage, name).save_request(request.model_dump(mode="json"))
        events = EventWriter(SweepRecords(self.storage, name).events, "sweep")
        for seed in range(1, seeds + 1):
            for row, last in ((1, "control"), (2, "student")):
                trial, value = f"seed{seed}-row{row}", 80.0 + 5 * row + seed
                keys = {stage: f"{stage}-{name.replace('.', '')}{seed}" for stage in ("teacher", last, f"test_{last}")}
                events.emit("trial_start", trial=trial, params={}, keys=keys)
                for stage, key in keys.items():
                    inputs = {other: keys[other] for other in STAGES[stage]}
                    self.artifact(key, inputs, **(changes if stage == "test_student" else {}))
                    if row == 1 or stage != "teacher":
                        self.stage(events, stage, key, trial)
                events.emit("trial_end", trial=trial, status="finished", metrics={f"test_{last}/test_accuracy": value}, reason="")
        events.close()

    @staticmethod
    def stage(events: EventWriter, stage: str, key: str, trial: str) -> None:
        events.emit("stage_start", key=key, stage=stage, config={}, inputs={}, trial=trial)
        for step in (10, 20):
            values = {f"{stage}/val_accuracy": 50.0 + step, f"{stage}/loss": 1.0, f"{stage}/rate": 3.0}
            events.emit("metrics", key=key, step=step, values=values)
            events.emit("image", key=key, name=f"{stage}/{HOSTILE}", step=step, png=picture())
        events.emit("stage_end", key=key, stage=stage, trial=trial, status="finished", metrics={}, reason="")


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    return Recorded(tmp_path)


def section(recorded: Recorded, name: str) -> Section:
    return Reported(recorded.storage, name).section(PictureBudget())


def of_kind(section: Section, kind: type) -> list[Any]:
    return [element for element in section.elements if isinstance(element, kind)]


def test_a_table_with_all_that_stands_behind_it(recorded: Recorded) -> None:
    recorded.table("mine")
    found = section(recorded, "mine")
    assert not found.warnings
    (grid,) = of_kind(found, Grid)
    assert [row[0] for row in grid.rows] == ["control", "<script>alert(1)</script>"]
    assert grid.rows[0][1:3] == ("86.50 ± 0.71", "the reference")
    assert grid.rows[1][2] == "+5.00 [+5.00, +5.00]"
    assert [row[-1] for row in grid.rows] == ["8.0 + 4.0", "8.0 + 4.0"]  # two stages of two seeds, and two teachers
    assert "20 in all, 4.0 of them in stages that several rows share, counted once; 24 if" in grid.notes[-1]
    (dots,) = of_kind(found, Dots)
    assert dots.rows[1].differences == (5.0, 5.0)
    assert {curves.title for curves in of_kind(found, Curves)} == {f"{stage}/val_accuracy" for stage in STAGES}
    teacher = next(curves for curves in of_kind(found, Curves) if curves.title.startswith("teacher"))
    assert [line.name for line in teacher.lines] == ["shared", "shared"]
    assert teacher.lines[0].points == ((10, 60.0), (20, 70.0))
    assert [len(each.pictures) for each in of_kind(found, Pictures)] == [2] * len(STAGES)
    facts = dict(of_kind(found, Facts)[0].facts)
    assert facts["data"] == "digits"
    assert facts["fingerprint"] == "f" * 64
    assert "--method cgan_kd --preset smoke --table" in facts["to repeat it"]
    assert facts["to repeat it"].endswith("--seeds 2")


def test_lineage_says_from_what_by_whom_and_what_is_shared(recorded: Recorded) -> None:
    recorded.table("mine")
    (tree,) = of_kind(section(recorded, "mine"), Tree)
    control, other = tree.nodes
    assert [node.text for node in control.below] == ["seed 1", "seed 2"]
    teacher, student, test = other.below[0].below
    assert (teacher.shared, student.shared, test.shared) == (True, False, False)
    assert teacher.beside == "2.0 device-seconds · made by seed1-row1 · also of control"
    assert student.beside == "from teacher mine1 · 2.0 device-seconds · made by seed1-row2"


def test_what_another_sweep_made_is_found_there(recorded: Recorded) -> None:
    recorded.table("mine")
    text = SweepRecords(recorded.storage, "mine").request()
    SweepRecords(recorded.storage, "again").save_request(text)
    events = EventWriter(SweepRecords(recorded.storage, "again").events, "sweep")
    keys = {"teacher": "teacher-mine1", "control": "control-mine1", "test_control": "test_control-mine1"}
    events.emit("trial_start", trial="seed1-row1", params={}, keys=keys)
    events.emit("trial_end", trial="seed1-row1", status="finished", metrics={"test_control/test_accuracy": 1.0}, reason="")
    events.close()
    found = section(recorded, "again")
    assert found.warnings == ("This table is not finished: 1 of 4 trainings have ended.",)
    (tree,) = of_kind(found, Tree)
    assert "made by sweep mine, seed1-row1" in tree.nodes[0].below[0].below[0].beside
    assert len(of_kind(found, Curves)) == 3


@pytest.mark.parametrize(
    ("changes", "differs"), [({"fingerprint": "e" * 64}, "data"), ({"basis": {"accuracy": {"extractor": "other"}}}, "extractor")]
)
def test_rows_that_do_not_compare_are_marked_and_drawn_apart(recorded: Recorded, changes: dict[str, Any], differs: str) -> None:
    recorded.table("mine", **changes)
    found = section(recorded, "mine")
    (grid,) = of_kind(found, Grid)
    assert [row[1] for row in grid.rows] == ["a", "b"]
    assert grid.rows[1][3:5] == ("", "not comparable with the reference")
    assert f"they differ in: {differs}." in grid.notes[0]
    assert [dots.title[-8:] for dots in of_kind(found, Dots)] == ["(rows a)", "(rows b)"]
    assert any("different data" in warning for warning in found.warnings) == (differs == "data")


def test_rows_of_which_one_metric_compares_are_drawn_together_in_that_one() -> None:
    spec = TableSpec.model_validate(
        {"title": "t", "columns": ["row"], "reference": ["one"], "rows": [{"labels": ["one"]}, {"labels": ["two"]}]}
        | {"metrics": {"top-1": "test/accuracy", "FID": "test/fid"}}
    )
    keys, measured = [{"test": f"test-{row}"} for row in "ab"], {"accuracy": 1.0, "fid": 2.0}
    outcomes = [{0: Outcome({f"test/{name}": value for name, value in measured.items()}, keys=each)} for each in keys]
    manifests = {f"test-{row}": {"fingerprint": "f", "basis": {"fid": {"extractor": row}}} for row in "ab"}
    drawn = table_dots(filled_table(spec, outcomes, manifests))
    assert [(dots.title, len(dots.rows)) for dots in drawn] == [
        ("top-1, seed by seed", 2),
        ("FID, seed by seed (rows a)", 1),
        ("FID, seed by seed (rows b)", 1),
    ]


def test_a_table_that_was_edited_since_is_refused(recorded: Recorded) -> None:
    recorded.table("mine")
    records = SweepRecords(recorded.storage, "mine")
    records.save_request(records.request() | {"made_from": {"space mine.yaml": "0" * 20}})
    with pytest.raises(UserError, match="not what the sweep 'mine' was filled by"):
        section(recorded, "mine")
    (recorded.folder / "mine.yaml").unlink()
    with pytest.raises(UserError, match="unknown table"):
        section(recorded, "mine")


def test_a_search_with_its_trials_and_seeds(recorded: Recorded) -> None:
    records = SweepRecords(recorded.storage, "search")
    records.save_request(SweepRequest(method="cgan_kd", trials=2, seeds=2).model_dump(mode="json"))
    events = EventWriter(records.events, "sweep")
    for trial, lr, value in (("aa", 0.1, 81.0), ("bb", 0.2, 83.5)):
        keys = {"teacher": "teacher-0", "student": f"student-{trial}"}
        for stage, key in keys.items():
            recorded.artifact(key, {other: keys[other] for other in STAGES[stage]})
        records.save_trial(TrialRecord(trial, {"student.lr": lr}, "finished", {"student/val_accuracy": value}, keys))
        events.emit("trial_start", trial=trial, params={}, keys=keys)
        events.emit("trial_end", trial=trial, status="finished", metrics={}, reason="")
    for seed in (1, 2):
        for stage, value in (("student", 80.0 + seed), ("control", 79.0)):
            trial, metrics = f"seed{seed}-tuned-{stage}", {f"test_{stage}/test_accuracy": value}
            events.emit("trial_start", trial=trial, params={}, keys={stage: f"{stage}-{seed}"})
            events.emit("trial_end", trial=trial, status="finished", metrics=metrics, reason="")
    events.emit("metrics", step=0, values={"val/student": 83.5, "gain": 1.5, "seeds/tuned/mean": 2.5, "student/lr": 0.1})
    events.close()
    found = section(recorded, "search")
    trials, figures, seeds = of_kind(found, Grid)
    assert trials.rows == (("bb", "student.lr 0.2", "83.50", "", "2.0 + 2.0"), ("aa", "student.lr 0.1", "81.00", "", "2.0 + 2.0"))
    assert figures.rows == (("val/student", "83.5"), ("gain", "1.5"))
    assert seeds.rows[0][:5] == ("tuned", "test_accuracy", "2", "81.50 ± 0.71", "79.00 ± 0.00")
    (dots,) = of_kind(found, Dots)
    assert dots.rows[0].differences == (2.0, 3.0)
    assert not found.warnings


def test_what_was_never_made_is_said_and_not_counted(recorded: Recorded) -> None:
    recorded.table("mine")
    events = EventWriter(SweepRecords(recorded.storage, "mine").events, "later")
    keys = {"teacher": "teacher-mine2", "student": "student-never"}
    events.emit("trial_start", trial="seed2-row2", params={}, keys=keys)
    events.emit("trial_end", trial="seed2-row2", status="failed", metrics={}, reason=f"NaN {HOSTILE}")
    events.close()
    found = section(recorded, "mine")
    assert found.warnings == (f"<script>alert(1)</script>: seed 2: NaN {HOSTILE}",)
    (grid,) = of_kind(found, Grid)
    assert grid.rows[1][1:3] == ("91.00", "+5.00")
    assert grid.notes[-1].endswith("; 1 artifacts are not in the store and not counted.")
    (tree,) = of_kind(found, Tree)
    assert tree.nodes[1].below[1].below[1].beside == "not in the store"


def test_a_sweep_of_which_nothing_has_ended(recorded: Recorded) -> None:
    SweepRecords(recorded.storage, "begun").save_request(SweepRequest(method="cgan_kd").model_dump(mode="json"))
    assert section(recorded, "begun").warnings == ("This sweep has not come to its end.",)
    assert "has not come to its end" in sweep_report(recorded.storage, "begun")


def test_hostile_names_are_text(recorded: Recorded) -> None:
    recorded.table("mine")
    page = sweep_report(recorded.storage, "mine")
    found = Elements(page)
    found.check_whole()
    assert "<script>alert(1)</script>" in "".join(found.texts)
    assert HOSTILE in "".join(found.texts)  # of a picture's name, and of what a stage says
    assert len(page) < 5_000_000


def test_pictures_that_are_none_are_left_out() -> None:
    assert readable(picture()) == picture()
    assert readable("") == readable("bm90IGEgcGljdHVyZQ==") == readable('"><script>') == ""


def test_pictures_end_where_a_page_would_grow_too_large(recorded: Recorded) -> None:
    recorded.table("mine")
    found = Reported(recorded.storage, "mine").section(PictureBudget(len(picture())))
    shown = of_kind(found, Pictures)
    assert [len(each.pictures) for each in shown] == [1, 0, 0, 0, 0]
    assert shown[1].note.startswith("2 more are with the runs of")


def test_the_command_line_asks_for_the_same() -> None:
    overrides = {"student.lr": 0.05, "data.title": None, "biggan.attention": [4, 8], "samples.subsampling": False}
    request = SweepRequest(
        method="cgan_kd", preset="my preset.yaml", reuse=False, reuse_stale=True, trials=3, overrides=overrides
    )
    assert command_line(request) == (
        "python tune.py --method cgan_kd --preset 'my preset.yaml' --trials 3 --no-reuse --reuse-stale --set student.lr=0.05 "
        "--set data.title=null --set 'biggan.attention=[4, 8]' --set samples.subsampling=false"
    )


# The command.


def refused(recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["gankd", "report", *arguments, "--storage", recorded.storage])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--dataset"),
        (("mien",), "no sweep 'mien'"),
        (("mien",), "did you mean 'mine'"),
        (("../mine",), "cannot be named '../mine'"),
        (("mine", "--out", "nowhere/report.html"), "does not exist"),
        (("mine", "--out", "."), "directory"),
        (("mine", "--out", ""), "--out is empty"),
        (("mine", "--out", f"{'x' * 300}.html"), "cannot be written"),
    ],
)
def test_bad_input(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str
) -> None:
    recorded.table("mine", seeds=1)
    monkeypatch.chdir(recorded.folder)
    assert says in refused(recorded, monkeypatch, capsys, *arguments)
    assert not (recorded.folder / "report.html").exists()


def test_sweeps_of_different_data_are_said_not_to_compare(recorded: Recorded, tmp_path: Path) -> None:
    recorded.table("mine")
    write_report(["mine"], None, tmp_path / "one.html", recorded.storage)
    assert "were made of different data" not in (tmp_path / "one.html").read_text()
    recorded.table("other")
    records = SweepRecords(recorded.storage, "other")
    records.save_request(records.request() | {"made_from": {"data": "e" * 64, "table": digest_of(recorded, "other")}})
    write_report(["mine", "other"], None, tmp_path / "two.html", recorded.storage)
    assert "numbers of one do not compare with those of another" in (tmp_path / "two.html").read_text()


def digest_of(recorded: Recorded, name: str) -> str:
    from gankd.registry import find_method
    from gankd.sweep.table import load_table

    return load_table(find_method("cgan_kd"), str(recorded.folder / f"{name}.yaml")).digest


def test_a_data_set_has_its_comparison_and_the_sweeps_that_are_here(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded.table("mine")

    def finished(name: str, method: str, **facts: str) -> FinishedSweep:
        metrics = {"objective": 1.0, "val/student": 90.0, "test/student": 91.0}
        return FinishedSweep(method, name, name, "student/val_accuracy", metrics, {"student": {"metric": "val_accuracy"} | facts})

    table = FinishedSweep("cgan_kd", "mine", "mine", "student/val_accuracy", {"table/control/top-1": 1.0}, {})
    sweeps = [table, finished("away", "cgan_kd", data="d1"), finished("<i>far</i>", "rgal", data="d2")]
    monkeypatch.setattr(command, "sweeps_on", lambda _: sweeps)
    write_report([], "digits", tmp_path / "report.html", recorded.storage)
    found = Elements((tmp_path / "report.html").read_text())
    found.check_whole()
    text = "".join(found.texts)
    assert "students on digits" in text
    assert "Only rows of the same letter compare; they differ in: data." in text
    assert "The records of away, <i>far</i> are not in this storage" in text
    assert "Sweep mine" in text
