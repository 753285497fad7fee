"""Knobs: presets, overrides, and the one sentence that a wrong value gets."""

from pathlib import Path
from typing import Any

import pytest

from gankd.config import build_config, digest, identity, knobs, parse_overrides, read_preset, value_of, with_knobs
from gankd.errors import UserError
from gankd.registry import find_method

METHOD = find_method("cgan_kd")


def test_every_preset_is_valid_and_sets_only_known_knobs() -> None:
    for file in METHOD.presets.glob("*.yaml"):
        build_config(METHOD.config, read_preset(METHOD.presets, file.stem))


def test_overrides_are_read_as_yaml() -> None:
    changes = parse_overrides(["student.lr=1e-3", "biggan.flip=false", "student.real_per_fake=null", "a.b=[1, 2e-1]"])
    assert changes == {"student.lr": 1e-3, "biggan.flip": False, "student.real_per_fake": None, "a.b": [1, 0.2]}


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
    ],
)
def test_a_wrong_knob_is_named_with_its_value_and_what_is_allowed(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        build_config(METHOD.config, with_knobs({}, changes))
    assert [part for part in parts if part not in str(caught.value)] == []
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["student.lr", "=3", "student.lr=[1"])
def test_an_assignment_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--set"):
        parse_overrides([text])


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"unknown preset 'digitz'; did you mean 'digits'"):
        read_preset(METHOD.presets, "digitz")


@pytest.mark.parametrize("content", ["a: [1", "- 1\n- 2"])
def test_a_broken_preset_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        read_preset(METHOD.presets, str(file))


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
