"""A search space is checked before anything starts."""

import os
import sys
from pathlib import Path

import pytest

from gankd.config import build_config, preset_names, read_preset
from gankd.data import load
from gankd.errors import UserError
from gankd.registry import find_method
from gankd.sweep.extent import holds
from gankd.sweep.space import Space, check_metric, check_search, check_space, load_space

METHOD = find_method("cgan_kd")
CONFIG = build_config(METHOD.config, read_preset(METHOD.presets, "digits"))
TREE = CONFIG.model_dump(mode="json")
ANY = "SPACE = {'student.lr': tune.uniform(0.1, 1)}\n"


def space_of(folder: Path, content: str) -> Space:
    file = folder / "space.py"
    file.write_text(f"from ray import tune\n{content}\n")
    return load_space(METHOD, str(file), CONFIG)


def check(folder: Path, content: str) -> None:
    space = space_of(folder, content)
    check_space(space, METHOD, TREE)
    check_metric(space, METHOD, CONFIG, load(CONFIG.data))


@pytest.mark.parametrize("name", ["cgan_kd", "cgan_transfer", "rgal"])
def test_every_shipped_preset_lies_in_its_methods_own_space(name: str) -> None:
    method = find_method(name)
    for preset in preset_names(method.presets):
        config = build_config(method.config, read_preset(method.presets, preset))
        tree, space = config.model_dump(mode="json"), load_space(method, None, config)
        check_space(space, method, tree)
        point = space.preset_point(tree)
        assert {knob: point[knob] for knob, sampler in space.samplers.items() if not holds(sampler, point[knob])} == {}, preset


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
        (f"{ANY}METRIC = 'student/val_acuracy'", r"reports no 'val_acuracy'; did you mean 'val_accuracy'"),
        (f"{ANY}METRIC = 'student/val_mae'", r"reports no 'val_mae'"),
        (f"{ANY}METRIC = 'quality/fid_clip'", r"reports no 'fid_clip'"),
        (f"{ANY}METRIC = 'test_student/test_accuracy'", r"reads the test part"),
        (f"{ANY}METRIC = 3", r"METRIC 3 .* <stage>/<metric>"),
        ("SPACE = {'student.lr': tune.uniform(0.5, 0.1)}", r"range of 'student\.lr' .* is 0\.5 to 0\.1"),
        ("SPACE = {'student.batch': tune.randint(9, 9)}", r"range of 'student\.batch' .* is 9 to 9"),
        ("SPACE = {'student.lr': tune.randn(0.05, 1)}", r"'student\.lr' cannot be -.* greater than 0"),
        ("SPACE = {'student.lr': tune.sample_from(lambda: 'fast')}", r"'student\.lr' cannot be 'fast'"),
        ("SPACE = {'student.lr': tune.sample_from(lambda c: c['nope'])}", r"fails: "),
        ("def space(config): return {'student.lr': config.student.speed}", r"fails: AttributeError"),
        ("def space(config): return 3", r"must define SPACE"),
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
        assert list(load_space(METHOD, str(file), CONFIG).samplers) == [knob]


@pytest.mark.parametrize("metric", ["student/val_accuracy", "quality/fid_classifier", "teacher/parameters", "samples/acceptance"])
def test_what_a_stage_reports_may_be_the_objective(tmp_path: Path, metric: str) -> None:
    check(tmp_path, f"{ANY}METRIC = {metric!r}")


@pytest.mark.parametrize("sampler", ["{'grid_search': [0.1]}", "tune.sample_from(lambda: 0.1)", "tune.randn(5, 0.01)"])
def test_what_optuna_cannot_draw_is_refused_beforehand(tmp_path: Path, sampler: str) -> None:
    space = space_of(tmp_path, f"SPACE = {{'student.lr': {sampler}}}")
    check_space(space, METHOD, TREE)
    with pytest.raises(UserError, match=r"--search optuna cannot draw 'student\.lr' of .*space\.py"):
        check_search(space)


def test_optuna_draws_from_the_methods_own_space() -> None:
    check_search(load_space(METHOD, None, CONFIG))
