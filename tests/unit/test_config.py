"""Knobs: presets, overrides, and the one sentence that a wrong value gets."""

import json
from pathlib import Path
from typing import Any

import pytest

from gankd.config import build_config, digest, identity, knobs, nearest, parse_overrides, read_preset, value_of, with_knobs
from gankd.errors import UserError
from gankd.paths import absolute_path
from gankd.registry import find_method

METHOD = find_method("cgan_kd")


def test_every_preset_is_valid_and_sets_only_known_knobs() -> None:
    for file in METHOD.presets.glob("*.yaml"):
        build_config(METHOD.config, read_preset(METHOD.presets, file.stem))


def test_a_knobs_type_decides_how_its_text_is_read() -> None:
    texts = ["student.lr=1e-3", "student.steps=1e3", "biggan.flip=false", "student.real_per_fake=null", "seed=010"]
    lists = ["density_ratio.widths=[64, 3.2e1]", "biggan.diffaugment=[color]", "teacher.normalisation=[[0.5], [0.25]]"]
    config: Any = build_config(METHOD.config, with_knobs({}, parse_overrides([*texts, *lists])))
    assert (config.student.lr, config.student.steps, config.biggan.flip, config.student.real_per_fake) == (
        1e-3,
        1000,
        False,
        None,
    )
    assert (config.seed, config.density_ratio.widths, config.biggan.diffaugment) == (10, (64, 32), ("color",))
    assert config.teacher.normalisation == ((0.5,), (0.25,))
    named: Any = build_config(METHOD.config, with_knobs({}, parse_overrides(["density_ratio.widths=MLP3"])))
    assert named.density_ratio.widths == "MLP3"


@pytest.mark.parametrize(
    "text", ["/data/run #1/pics", "2024", "010", "no", "1e5", "~/x", "2024-01-02", " a ", "[a]", "x: y", "null.d"]
)
def test_text_and_paths_stay_as_they_stand(tmp_path: Path, text: str) -> None:
    assert build_config(METHOD.config, with_knobs({}, parse_overrides([f"data.path={text}"]))).data.path == text
    file = tmp_path / "mine.yaml"
    file.write_text(f"data: {{path: {json.dumps(text)}}}\nteacher:\n  checkpoint: 0777\n")
    config: Any = build_config(METHOD.config, read_preset(METHOD.presets, str(file)))
    assert (config.data.path, config.teacher.checkpoint) == (text, "0777")


@pytest.mark.parametrize(
    ("written", "read"), [("010", 10), ("0x10", None), ("1:30", None), ("1_000", 1000), ("1e3", 1000), ("1.5", None)]
)
def test_a_preset_has_no_octal_and_no_base_60(tmp_path: Path, written: str, read: int | None) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"student:\n  steps: {written}\n")
    if read is None:
        with pytest.raises(UserError, match=r"'student\.steps'"):
            build_config(METHOD.config, read_preset(METHOD.presets, str(file)))
    else:
        config: Any = build_config(METHOD.config, read_preset(METHOD.presets, str(file)))
        assert config.student.steps == read


@pytest.mark.parametrize("text", ["yes", "off", "1", "", "TRUE"])
def test_a_switch_is_true_or_false(text: str) -> None:
    with pytest.raises(UserError, match=r"'biggan\.flip' cannot be .*true or false"):
        build_config(METHOD.config, with_knobs({}, parse_overrides([f"biggan.flip={text}"])))


def test_knobs_replace_only_what_they_name() -> None:
    tree = {"a": {"b": 1, "c": 2}}
    assert with_knobs(tree, {"a.b": 5, "d.e": 6}) == {"a": {"b": 5, "c": 2}, "d": {"e": 6}}
    assert tree == {"a": {"b": 1, "c": 2}}
    assert value_of(tree, "a.c") == 2


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"student.lrr": 1}, ["unknown knob 'student.lrr'", "did you mean 'student.lr'"]),
        ({"studnt.lr": 1}, ["unknown knob 'studnt'", "did you mean 'student'"]),
        ({"student.lr": -1}, ["'student.lr'", "-1", "greater than 0"]),
        ({"student.lr": "fast"}, ["'student.lr'", "'fast'", "number"]),
        ({"student.lr": float("nan")}, ["'student.lr'", "nan", "finite"]),
        ({"samples.filter_quantile": 1.2}, ["'samples.filter_quantile'", "1.2", "less than or equal to 1"]),
        ({"samples.estimator": "mean"}, ["'samples.estimator'", "'mean'", "'max' or 'quantile'"]),
        ({"student": 3}, ["'student' is a section", "3"]),
        ({"data.name": "digit"}, ["unknown data set 'digit'", "did you mean 'digits'"]),
        ({"student.lr": -1, "student.steps": 0}, ["1 more knob is wrong too"]),
        ({"student.steps": 10**23}, ["'student.steps'", "below 2147483648"]),
        ({"student.steps": "1e17"}, ["'student.steps'", "below 2147483648"]),
        ({"seed": "9" * 30}, ["'seed'", "below 2147483648"]),
        ({"seed": "9" * 400}, ["'seed'"]),
        ({"student.lr": "x" * 500}, ["'student.lr'", "(502 characters)"]),
        ({"student.steps": [[[1]]]}, ["'student.steps'", "[[[1]]]"]),
    ],
)
def test_a_wrong_knob_is_named_with_its_value_and_what_is_allowed(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_config(METHOD.config, with_knobs({}, changes))
    assert [part for part in parts if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["student.lr", "=3", ""])
def test_an_assignment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_overrides([text])


@pytest.mark.parametrize("name", ["digits", "zzz"])
def test_no_name_is_proposed_in_place_of_itself_or_of_a_far_one(name: str) -> None:
    assert nearest(name, ["digits", "cifar10"]) == ""


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown preset 'digitz'; did you mean 'digits'"):
        read_preset(METHOD.presets, "digitz")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a: [1", "not readable YAML"),
        (b"- 1\n- 2", "must hold sections"),
        (b"student: {lr: 0.1}\nteacher: {lr: 0.1}\nstudent: {steps: 3}", "gives 'student' twice in line 3"),
        (b"student: {lr: 0.1, lr: 0.2}", "gives 'lr' twice"),
        (b"student: &a {lr: 0.1}\nteacher: *a", "anchor or alias"),
        (b"student: &a [*a]", "anchor or alias"),
        (b"student: !!set {lr}", "the YAML tag"),
        (b"student: !!python/object/apply:os.getcwd []", "the YAML tag"),
        (b"student: {? [a] : 1}", "a key that is no name"),
        (b"a: 1\n---\nb: 2", "not readable YAML"),
        (b"[" * 3000 + b"]" * 3000, "nested deeper than"),
        (b"{a: " * 3000 + b"}" * 3000, "nested deeper than"),
        (b"a: " + b"x" * 2_000_000, "characters"),
        (b"\xff\xfe\x00", "no text"),
        (b"a: \x00", "not readable YAML"),
        (b"%" * 40, "not readable YAML"),
    ],
)
def test_a_broken_preset_file_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        read_preset(METHOD.presets, str(file))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x" * 300, "x" * 5000, "a\0b", "", "nope.yaml", "../../etc/passwd"])
def test_a_preset_that_no_file_can_be_is_unknown(name: str) -> None:
    with pytest.raises(UserError, match="unknown preset") as caught:
        read_preset(METHOD.presets, name)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("text", "reason"), [("", "is empty"), ("  ", "is empty"), ("a\0b", "null character"), ("~nobody-has-this/x", "no user")]
)
def test_a_path_that_cannot_be_is_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=f"--storage .*{reason}"):
        absolute_path(text, "--storage")


def test_every_knob_says_what_it_is_and_where_its_default_comes_from() -> None:
    for name, info in knobs(METHOD.config).items():
        assert info.description, name
        assert (info.json_schema_extra or {}).get("origin"), name


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    file = tmp_path / "teacher.pth"
    file.write_bytes(b"one")
    config = build_config(METHOD.config, {"teacher": {"checkpoint": str(file)}})
    before = digest(identity(config.teacher))
    file.write_bytes(b"two")
    assert digest(identity(config.teacher)) != before
    file.unlink()
    with pytest.raises(UserError, match=r"teacher\.pth"):
        identity(config.teacher)


def test_a_section_given_in_part_keeps_the_methods_own_defaults() -> None:
    config = find_method("rgal").config
    own = config().feature_classifier
    assert build_config(config, {"feature_classifier": {"epochs": 30}}).feature_classifier == own.model_copy(
        update={"epochs": 30}
    )
    assert own.network != type(own)().network


def test_a_class_named_by_digits_stays_a_name() -> None:
    config = build_config(find_method("cgan_transfer").config, {"task": {"new_classes": ["007"]}, "training": {"d_lr": "1e-3"}})
    assert config.task.new_classes == ("007",)
    assert config.training.d_lr == 1e-3
