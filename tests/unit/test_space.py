"""A search space is checked before anything starts."""

import os
import sys
from pathlib import Path

import pytest
from ray import tune

from gankd.config import build_config, preset_names, read_preset, with_knobs
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


@pytest.mark.parametrize(
    "name", ["cgan_kd", "cgan_kd_regression", "cgan_transfer", "five_teachers", "rgal", "rgal_incremental", "rgal_quantization"]
)
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
        (
            "SPACE = {'student.lr': tune.uniform(0.1, 1)}\nMODE = 'best'",
            r"must be 'max', as .* better that way, not 'best'",
        ),
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


@pytest.mark.parametrize(
    "sampler", ["tune.qrandint(100, 2000, 0)", "tune.qrandint(1, 10, 2.5)", "tune.randint('1', '5')", "tune.randint(None, 5)"]
)
def test_what_ray_itself_does_not_check_is_refused(tmp_path: Path, sampler: str) -> None:
    with pytest.raises(UserError, match=r"'?student\.fakes'?"):
        check(tmp_path, f"SPACE = {{'student.fakes': {sampler}}}")


def test_an_objective_is_searched_the_way_it_is_better(tmp_path: Path) -> None:
    metric = f"{ANY}METRIC = 'quality/fid_classifier'\n"
    assert space_of(tmp_path, metric).mode == "min"
    with pytest.raises(UserError, match=r"MODE in .* must be 'min', as quality/fid_classifier is better that way, not 'max'"):
        space_of(tmp_path, f"{metric}MODE = 'max'\n")


def test_choices_are_as_the_knobs_type_has_them(tmp_path: Path) -> None:
    space = space_of(
        tmp_path, "SPACE = {'student.real_per_fake': tune.choice([1, 2]), 'samples.subsampling': tune.choice([0, 1])}"
    )
    assert [type(value) for value in space.samplers["student.real_per_fake"].categories] == [float, float]
    assert space.samplers["samples.subsampling"].categories == [False, True]


def test_a_range_with_steps_holds_its_steps() -> None:
    sampler = tune.quniform(0.5, 1.0, 0.1)
    assert [holds(sampler, value) for value in (0.5, 0.7, 1.0, 0.95, 1.1)] == [True, True, True, False, False]


@pytest.mark.parametrize("fakes", [0, 3, 4, 2000])
def test_few_fakes_are_not_halved_to_none(fakes: int) -> None:
    config = build_config(METHOD.config, with_knobs(read_preset(METHOD.presets, "digits"), {"student.fakes": fakes}))
    sampler = load_space(METHOD, None, config).samplers.get("student.fakes")
    assert sampler is None if fakes < 4 else 0 not in sampler.categories
