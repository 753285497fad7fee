"""Tables of a paper: what their files may hold, what rows share, and how they are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gankd.config import build_config, read_preset, with_knobs
from gankd.errors import UserError
from gankd.method import Method
from gankd.registry import find_method, method_names
from gankd.sweep.filled import Filled, FilledTable, filled_table
from gankd.sweep.plan import prepare, request_of
from gankd.sweep.records import Outcome
from gankd.sweep.report import table_dots
from gankd.sweep.space import space_of_table
from gankd.sweep.table import Row, TableSpec, load_table, table_names

GOOD = """
title: what helps
columns: [what]
metrics: {error: test_gan/test_fid_classifier}
reference: [none]
rows:
  - {labels: [none], knobs: {gan.steps: 5}}
  - {labels: [more], knobs: {gan.steps: 9, gan.batch: 8}, paper: {CIFAR-10: 1.5}}
"""


@pytest.fixture
def method() -> Method:
    return find_method("squeeze_span")


def written(folder: Path, text: str) -> str:
    file = folder / "mine.yaml"
    file.write_text(text)
    return str(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("title: what helps\n", ""), "title"),
        (("[what]", "[what, why]"), "'none' has not 2 labels"),
        (("reference: [none]", "reference: [nothing]"), "['nothing'] is none of the rows"),
        (("labels: [more]", "reference: [some], labels: [more]"), "['some'] is none of the rows"),
        (("labels: [more]", "reference: [more], labels: [more]"), "'more' is its own reference"),
        (("labels: [more]", "labels: [none]"), "two rows have the same labels"),
        (("test_gan/test_fid_classifier", "test_gna/x"), "did you mean 'test_gan'"),
        (("test_gan/test_fid_classifier", "fid"), "must be <stage>/<metric>"),
        (("reference", "referrence"), "referrence"),
        (("rows:", "plot: {x: error, y: nothing}\nrows:"), "'nothing' is none of the headings"),
        ((GOOD, "- a list\n"), "must hold title, columns, metrics and rows"),
        ((GOOD, "{"), "mine.yaml"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_is_no_table(method: Method, tmp_path: Path, change: tuple[str, str], says: str) -> None:
    with pytest.raises(UserError, match=r"(?s).*") as error:
        load_table(method, written(tmp_path, GOOD.replace(*change)))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_table(method: Method) -> None:
    with pytest.raises(UserError, match="unknown table 'table9'; did you mean 'table3'"):
        load_table(method, "table9")


@pytest.mark.parametrize("name", method_names())
def test_the_tables_of_every_method_are_whole_and_their_rows_are_configs(name: str) -> None:
    method = find_method(name)
    for table in table_names(method):
        spec = load_table(method, table)
        for row in spec.rows:
            build_config(
                method.config, with_knobs(read_preset(method.presets, "digits"), row.knobs), source=f"{table}, {row.name}"
            )


def test_what_rows_share_is_what_none_of_them_sets(method: Method, tmp_path: Path) -> None:
    spec = load_table(method, written(tmp_path, GOOD))
    assert spec.values_by_knob() == {"gan.steps": ["5", "9"], "gan.batch": ["8"]}  # texts, as in presets
    space = space_of_table(method, spec, "mine.yaml")
    shared = {stage.name for stage in method.shared(space.samplers)}
    assert {"feature_classifier", "real_statistics", "control"} <= shared
    assert not shared & {"gan", "pool", "encoder"}
    again = space_of_table(method, load_table(method, written(tmp_path, GOOD.replace("9", "7"))), "mine.yaml")
    assert space.digest != again.digest


def test_what_is_made_beforehand_is_what_a_row_needs(tmp_path: Path) -> None:
    def shared(table: str) -> set[str]:
        request = request_of({"method": "squeeze_span", "preset": "smoke", "table": table})
        return set(prepare(request, str(tmp_path / "runs"), "x").shared())

    assert shared("table1") == {"feature_classifier", "gan", "pool"}
    assert shared("figure4") == {"feature_classifier", "real_statistics"}


def test_a_column_that_no_stage_reports(tmp_path: Path) -> None:
    table = written(tmp_path, GOOD.replace("test_fid_classifier", "test_fid_clasifier"))
    request = request_of({"method": "squeeze_span", "preset": "smoke", "table": table})
    with pytest.raises(UserError, match=r"'error' of row 'none' .* did you mean 'test_fid_classifier'"):
        prepare(request, str(tmp_path / "runs"), "x")


def test_a_row_that_no_config_takes_is_refused_before_anything_starts(tmp_path: Path) -> None:
    table = written(tmp_path, GOOD.replace("gan.steps: 9", "gan.steps: -9"))
    request = request_of({"method": "squeeze_span", "preset": "smoke", "table": table})
    with pytest.raises(UserError, match=r"'gan.steps' cannot be .*-9.*row 'more' of table"):
        prepare(request, str(tmp_path / "runs"), "x")
    table = written(tmp_path, GOOD.replace("gan.batch: 8", "gan.batch: 800"))
    with pytest.raises(UserError, match=r"gan.batch = 800"):
        prepare(request.model_copy(update={"table": table}), str(tmp_path / "runs"), "x")


def spec_of(**changes: Any) -> TableSpec:
    rows = (Row(labels=("none",)), Row(labels=("more",), paper={"CIFAR-10": 1.5}))
    return TableSpec.model_validate(
        {"title": "what helps", "columns": ("what",), "metrics": {"error": "test_gan/test_fid"}, "rows": rows} | changes
    )


METRIC = "test_gan/test_fid"


def test_differences_are_by_seed_and_positive_where_it_is_better() -> None:
    spec = spec_of(reference=("none",))
    values = ({1: 3.0, 2: 4.0, 3: 5.0}, {1: 2.0, 2: 3.1, 3: 3.9})
    filled = filled_table(spec, [{seed: Outcome({METRIC: value}) for seed, value in row.items()} for row in values], {})
    assert filled.rows[0].difference is None
    difference = filled.rows[1].difference
    assert difference is not None
    assert (difference.count, round(difference.mean, 6)) == (3, 1.0)  # FID: less is better
    assert filled.headings() == ["what", "error", "difference, 95 % interval", "", "paper: CIFAR-10"]
    assert filled.cells(filled.rows[0]) == ["none", "4.00 ± 1.00", "the reference", "", ""]
    assert filled.cells(filled.rows[1]) == ["more", "3.00 ± 0.95", "+1.00 [+0.75, +1.25]", "better", "1.50"]


def test_a_row_may_be_compared_with_another_than_the_others_are() -> None:
    rows = (Row(labels=("a",)), Row(labels=("b",)), Row(labels=("b, more",), reference=("b",)))
    values = ({1: 3.0, 2: 4.0}, {1: 2.0, 2: 3.1}, {1: 1.0, 2: 1.9})
    of_rows = [{seed: Outcome({METRIC: value}) for seed, value in row.items()} for row in values]
    filled = filled_table(spec_of(reference=("a",), rows=rows), of_rows, {})
    cells = [filled.cells(each)[2:4] for each in filled.rows]
    assert cells[0] == ["the reference", ""]
    assert cells[1] == ["+0.95 [+0.31, +1.59]", "better alone, not among 2"]
    assert cells[2] == ["+1.10 [-0.17, +2.37]", "not distinguishable; against b"]
    one_seed = filled_table(spec_of(reference=("a",), rows=rows), [{1: row[1]} for row in of_rows], {})
    assert one_seed.cells(one_seed.rows[2])[2:4] == ["+1.00", "against b"]
    assert [values.name for values in table_dots(filled)[0].rows] == ["a", "b", "b, more; against b"]
    alone = filled_table(spec_of(rows=(*rows, Row(labels=("c",)))), [*of_rows, of_rows[0]], {})  # the table itself names none
    assert [alone.cells(each)[2] for each in alone.rows] == ["", "the reference", "+1.10 [-0.17, +2.37]", ""]


def test_a_table_that_was_filled_before_rows_had_references_is_still_the_same(method: Method, tmp_path: Path) -> None:
    assert load_table(method, written(tmp_path, GOOD)).digest == "28b384a14b5f4ba501c1"
    named = GOOD.replace("labels: [more]", "reference: [none], labels: [more]")
    assert load_table(method, written(tmp_path, named)).digest != "28b384a14b5f4ba501c1"


def test_a_difference_of_nothing_has_no_minus() -> None:
    values = ({1: 3.0, 2: 4.0}, {1: 3.1, 2: 3.9001})
    of_rows = [{seed: Outcome({METRIC: value}) for seed, value in row.items()} for row in values]
    filled = filled_table(spec_of(reference=("none",)), of_rows, {})
    assert filled.cells(filled.rows[1])[2] == "+0.00 [-1.27, +1.27]"


def test_a_seed_that_failed_is_told_and_left_out() -> None:
    spec = spec_of(reference=("none",))
    filled = filled_table(spec, [{1: Outcome({METRIC: 3.0}), 2: Outcome(failure="NaN")}] * 2, {})
    assert filled.rows[1].values == {"error": {1: 3.0}}
    assert filled.cells(filled.rows[1])[1:4] == ["3.00", "+0.00", "seed 2: NaN"]
    nothing = filled_table(spec, [{1: Outcome(failure="NaN")}] * 2, {})
    assert nothing.cells(nothing.rows[1])[1:3] == ["", ""]


def manifest(**changes: Any) -> dict[str, Any]:
    basis = {"": {"network": "small"}, "fid": {"extractor": "classifier@1"}}
    return {"fingerprint": "d1", "basis": basis, "seconds": 2.0, "workers": 1} | changes


def measured(*manifests: dict[str, Any]) -> FilledTable:
    """A table whose rows share a GAN and were measured as these manifests say, with the seeds 1 and 2."""
    by_key, rows = {"gan-0": manifest(seconds=60.0)}, []
    for number, of_row in enumerate(manifests):
        keys = {"gan": "gan-0", "test_gan": f"test_gan-{number}"}
        by_key[keys["test_gan"]] = of_row
        rows.append({seed: Outcome({METRIC: 3.0 - number + seed}, keys=keys) for seed in (1, 2)})
    return filled_table(spec_of(reference=("none",)), rows, by_key)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"fingerprint": "d2"}, "data"),
        ({"basis": {"fid": {"extractor": "inception"}}}, "extractor"),
        ({"basis": {}}, "extractor"),
    ],
)
def test_rows_of_other_data_or_by_another_judge_are_marked_and_not_compared(changes: dict[str, Any], differs: str) -> None:
    filled = measured(manifest(), manifest(**changes))
    assert [each.mark for each in filled.rows] == ["a", "b"]
    assert filled.rows[1].difference is None
    assert filled.cells(filled.rows[1])[1:5] == ["b", "3.50 ± 0.71", "", "not comparable with the reference"]
    assert filled.notes[0] == f"Only rows of the same letter compare; they differ in: {differs}."


def test_another_network_is_what_a_row_may_be_about() -> None:
    filled = measured(manifest(), manifest(basis={"": {"network": "large"}, "fid": {"extractor": "classifier@1"}}))
    assert [each.mark for each in filled.rows] == ["", ""]
    assert filled.rows[1].difference is not None


def test_a_metric_that_a_row_has_not_does_not_keep_it_from_comparing() -> None:
    rows = (Row(labels=("none",), metrics={"recall": None}), Row(labels=("more",)))
    spec = spec_of(reference=("none",), rows=rows, metrics={"error": METRIC, "recall": "quality/recall"})
    keys = {"test_gan": "test_gan-0", "quality": "quality-0"}
    by_key = {"test_gan-0": manifest(), "quality-0": manifest(basis={"recall": {"images": 500}})}
    made = Outcome({METRIC: 3.0, "quality/recall": 0.5}, keys=keys)
    filled = filled_table(spec, [{1: made, 2: made}] * 2, by_key)
    assert [each.mark for each in filled.rows] == ["", ""]
    assert [each.values["recall"] for each in filled.rows] == [{}, {1: 0.5, 2: 0.5}]
    assert filled.rows[1].difference is not None


def test_a_row_compares_where_its_first_metric_does() -> None:
    """FIDs of different numbers of images do not compare, and are marked; the accuracies beside them do."""
    spec = spec_of(reference=("none",), metrics={"top-1": "test_student/test_accuracy", "FID": "quality/fid"})
    outcomes, by_key = [], {"test_student-0": manifest(basis={})}
    for images in (2000, 3000):
        by_key[f"quality-{images}"] = manifest(basis={"fid": {"images": images}})
        keys = {"test_student": "test_student-0", "quality": f"quality-{images}"}
        outcomes.append({1: Outcome({"test_student/test_accuracy": 90.0, "quality/fid": 1.0}, keys=keys)})
    filled = filled_table(spec, outcomes, by_key)
    assert [each.mark for each in filled.rows] == ["a", "b"]
    assert filled.cells(filled.rows[1])[1:6] == ["b", "90.00", "1.00", "+0.00", ""]


def test_what_rows_share_costs_once() -> None:
    filled = measured(manifest(), manifest(workers=4))
    assert [str(each.cost) for each in filled.rows] == ["2.0 + 60", "8.0 + 60"]
    assert "70 in all, 60 of them in stages that several rows share, counted once; 130 if" in filled.notes[-1]
    assert filled.headings()[-2:] == ["device-seconds, own + shared", "paper: CIFAR-10"]


def test_a_stage_that_was_interrupted_costs_what_it_had_spent_too() -> None:
    filled = measured(manifest(), manifest(workers=2, earlier_device_seconds=3.5))
    assert [str(each.cost) for each in filled.rows] == ["2.0 + 60", "7.5 + 60"]


def test_a_difference_among_many_must_stand_out_more() -> None:
    clear = {seed: Outcome({METRIC: 3.0 + 0.1 * seed}) for seed in (1, 2, 3)}  # one less than the reference
    hardly = {seed: Outcome({METRIC: 3.7 + 0.26 * (seed - 2)}) for seed in (1, 2, 3)}
    reference = {seed: Outcome({METRIC: 4.0 + 0.1 * seed}) for seed in (1, 2, 3)}
    rows = tuple(Row(labels=(name,)) for name in ("none", "clear", "hardly", "equal"))
    spec = spec_of(reference=("none",), rows=rows)
    filled = filled_table(spec, [reference, clear, hardly, hardly], {})
    said = [filled.cells(each)[3] for each in filled.rows]
    assert said == ["", "better", "better alone, not among 3", "better alone, not among 3"]
    assert "of 3 differences one that leaves out 0 may be luck" in filled.notes[0]
    two = filled_table(spec_of(reference=("none",), rows=rows[:2]), [reference, hardly], {})
    assert (two.cells(two.rows[1])[3], two.notes) == ("better", ())  # the only one there is


def test_markdown() -> None:
    filled = filled_table(spec_of(), [{4: Outcome({METRIC: 2.0})}] * 2, {})
    text = filled.markdown("what helps", "digits; seed 4")
    assert "digits; seed 4." in text
    assert "| more | 2.00 | 1.50 |" in text.splitlines()


def test_a_plot_leaves_rows_without_a_value_out() -> None:
    from gankd.sweep.filling import plotted

    spec = spec_of(plot={"x": "error", "y": "error", "log_x": True})
    filled = FilledTable(spec, (Filled(spec.rows[0], {"error": {0: 2.0}}), Filled(spec.rows[1], {"error": {}})))
    picture = plotted(filled)
    assert picture.size[0] > 300
    assert replace(filled.rows[0], values={"error": {0: 2.0, 1: 4.0}}).mean("error") == 3.0
