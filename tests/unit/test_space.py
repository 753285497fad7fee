"""A search space is checked before anything starts."""

import os
import sys
from pathlib import Path

import pytest

from gankd.config import build_config, read_preset
from gankd.errors import UserError
from gankd.registry import find_method
from gankd.sweep.space import check_space, load_space

METHOD = find_method("cgan_kd")
TREE = build_config(METHOD.config, read_preset(METHOD.presets, "digits")).model_dump(mode="json")


def check(folder: Path, content: str) -> None:
    file = folder / "space.py"
    file.write_text(f"from ray import tune\n{content}\n")
    check_space(load_space(METHOD, str(file)), METHOD, TREE)


def test_the_methods_own_space_is_good_for_every_preset() -> None:
    for preset in METHOD.presets.glob("*.yaml"):
        tree = build_config(METHOD.config, read_preset(METHOD.presets, preset.stem)).model_dump(mode="json")
        check_space(load_space(METHOD, None), METHOD, tree)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("SPACE = {'student.learning_rate': tune.uniform(0.1, 1)}", r"unknown knob 'student\.learning_rate'.*space\.py"),
        ("SPACE = {'student.lr': tune.choice([])}", r"the choice for 'student\.lr' .* is empty"),
        ("SPACE = {'student.lr': {'grid_search': []}}", r"the choice for 'student\.lr' .* is empty"),
        ("SPACE = {'student.lr': tune.uniform(0.1, 20)}", r"'student\.lr' cannot be 20"),
        ("SPACE = {'student.start': tune.choice(['baseline', 'teacher'])}", r"'student\.start' cannot be 'teacher'"),
        ("SPACE = {'student.fakes': tune.randint(-5, 5)}", r"'student\.fakes' cannot be -5"),
        ("SPACE = {'student.lr': 0.1}", r"must be a ray\.tune sampler"),
        ("SPACE = {}", r"must define SPACE"),
        ("x = 1", r"must define SPACE"),
        ("SPACE = {'student.lr': tune.uniform(0.1, 1)}\nMODE = 'best'", r"MODE in .* must be 'max' or 'min', not 'best'"),
        ("SPACE = {'student.lr': tune.uniform(0.1, 1)}\nMETRIC = 'accuracy'", r"METRIC 'accuracy' .* <stage>/<metric>"),
        ("1 / 0", r"fails: ZeroDivisionError"),
    ],
)
def test_a_wrong_space_is_refused_in_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check(tmp_path, content)


def test_an_integer_range_excludes_its_end_as_in_ray(tmp_path: Path) -> None:
    check(tmp_path, "SPACE = {'biggan.width': tune.randint(1, 257)}")
    with pytest.raises(UserError, match=r"'biggan\.width' cannot be 257"):
        check(tmp_path, "SPACE = {'biggan.width': tune.randint(1, 258)}")


def test_a_space_edited_within_a_second_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    file = tmp_path / "mine.py"
    for knob in ("teacher.lr", "student.lr"):
        file.write_text(f"from ray import tune\nSPACE = {{{knob!r}: tune.uniform(0.1, 1)}}\n".ljust(100))
        os.utime(file, (1e9, 1e9))
        assert list(load_space(METHOD, str(file)).samplers) == [knob]
