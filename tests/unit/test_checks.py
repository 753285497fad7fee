"""Knobs that fit each other and the data, stage by stage, before anything trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankd.config import build_config, knobs, read_preset, with_knobs
from gankd.data import DataConfig, load
from gankd.errors import UserError
from gankd.method import named
from gankd.registry import find_method, method_names
from gankd.stages.checks import check_classes
from gankd.stages.sections import GanConfig


def check(name: str, changes: dict[str, Any]) -> None:
    """What is checked of a config before a sweep starts."""
    method = find_method(name)
    config = build_config(method.config, with_knobs(read_preset(method.presets, "smoke"), changes))
    for stage in method.stages:
        if stage.check:
            data = load(config.data).without_test()
            named(stage.check)(stage.section or stage.name, stage.config(config), data, **stage.checked(config))


BATCHES = [(name, knob) for name in method_names() for knob in knobs(find_method(name).config) if knob.endswith(".batch")]


@pytest.mark.parametrize(("name", "knob"), BATCHES)
def test_a_batch_larger_than_what_it_is_drawn_from_is_refused(name: str, knob: str) -> None:
    check(name, {})
    with pytest.raises(UserError, match=rf"knob '?{knob}'? (cannot be|=) 1000000.*\d"):
        check(name, {knob: 1_000_000})


def test_every_stage_that_shares_a_batch_is_checked() -> None:
    for name in method_names():
        assert [stage.name for stage in find_method(name).stages if stage.shares and not stage.check] == []


def test_all_batches_that_are_too_large_are_named_at_once(tmp_path: Path) -> None:
    from gankd.sweep.plan import prepare
    from gankd.sweep.request import request_of

    asked = request_of({"method": "cgan_kd", "preset": "smoke", "overrides": {"data.train_images": 30}})
    with pytest.raises(UserError) as error:
        prepare(asked, str(tmp_path / "store"))
    assert str(error.value) == (
        "knobs teacher.batch = 50, baseline.batch = 50, feature_classifier.batch = 50, extractor.batch = 50, "
        "density_ratio.batch = 50, student.batch = 50 are more than the 30 training images of data set 'digits': "
        "set them to 30 or less"
    )


def test_a_checkpoint_needs_no_batch() -> None:
    from gankd.stages.checks import check_batch
    from methods.cgan_transfer.config import PretrainConfig

    files = {"checkpoint": "G.pth", "discriminator_checkpoint": "D.pth"}
    check_batch("pretrain", PretrainConfig(batch=100_000, **files), load(DataConfig()))
    with pytest.raises(UserError, match=r"pretrain.batch = 100000 is more than the 1078 training images of data set 'digits'"):
        check_batch("pretrain", PretrainConfig(batch=100_000), load(DataConfig()))


@pytest.mark.parametrize(
    ("name", "knob", "value", "words"),
    [
        ("cgan_kd", "density_ratio.widths", [], "or a list of 1 to 16 widths"),
        ("cgan_kd", "density_ratio.widths", [30], "multiple of 8 up to 8192"),
        ("cgan_kd", "density_ratio.widths", [8] * 17, "1 to 16 widths"),
        ("cgan_kd", "density_ratio.widths", [10**12], "up to 8192"),
        ("cgan_kd", "density_ratio.widths", ["wide"], "a list of"),
        ("cgan_kd", "density_ratio.widths", "MLP4", "MLP3, MLP5, MLP7, MLP9"),
        ("cgan_kd", "density_ratio.widths", None, "MLP3"),
        ("cgan_kd", "student.milestones", [0.9, 0.1], "larger than the one before"),
        ("cgan_kd", "teacher.milestones", [0.5, 0.5], "larger than the one before"),
        ("cgan_kd", "extractor.milestones", [1.0], "less than 1"),
        ("cgan_kd", "student.milestones", [(i + 1) / 200 for i in range(150)], "at most 100 items"),
        ("cgan_kd", "density_ratio.milestones", [0.9, 0.1], "larger than the one before"),
        ("cgan_kd", "biggan.attention", [8, 8], "no entry may stand twice"),
        ("cgan_kd", "biggan.diffaugment", ["color", "color"], "no entry may stand twice"),
        ("cgan_kd", "teacher.normalisation", [[123.7, 116.3, 103.5], [58.4, 57.1, 57.4]], "less than or equal to 1"),
        ("cgan_kd", "teacher.normalisation", [[], []], "needs 1 means"),
        ("cgan_transfer", "training.diffaugment", ["cutout", "cutout"], "no entry may stand twice"),
        ("cgan_transfer", "task.new_classes", [7, 7], "twice"),
        ("rgal", "student.striplet_feature", [], "at least 1 item"),
        ("rgal", "student.striplet_feature", ["global", "global"], "no entry may stand twice"),
    ],
)
def test_lists_without_sense_are_refused(name: str, knob: str, value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        check(name, {knob: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 2000


def test_empty_lists_that_mean_none_are_allowed() -> None:
    check("cgan_kd", {"student.milestones": [], "biggan.diffaugment": [], "biggan.attention": []})


def test_floating_point_classes_are_told_how_to_become_classes(tmp_path: Path) -> None:
    images = np.zeros((20, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "signs.npz", images=images, labels=np.arange(20) % 4.0)
    data = load(DataConfig(name="npz", path=str(tmp_path / "signs.npz")))
    words = r"'biggan' needs class labels, but data set 'signs' has floating-point labels: store them as integers"
    with pytest.raises(UserError, match=words):
        check_classes("biggan", GanConfig(), data)
