"""The comparison's own parts: generators joined by class, lessons and what they read, one student and one budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gankd import models
from gankd.config import build_config, read_preset, with_knobs
from gankd.data import load
from gankd.errors import UserError
from gankd.naming import stage_keys
from gankd.registry import find_method
from gankd.store.artifact import Artifact
from methods.five_teachers.by_class import ByClass
from methods.five_teachers.stages import as_classifier

METHOD = find_method("five_teachers")
PART = {"name": "biggan", "image_size": 8, "image_channels": 1, "width": 4, "dim_z": 6}


def config_of(**knobs: Any) -> Any:
    dotted = {name.replace("__", "."): value for name, value in knobs.items()}
    return build_config(METHOD.config, with_knobs(read_preset(METHOD.presets, "smoke"), dotted))


def changed(**knobs: Any) -> set[str]:
    """The stages that are made anew with these knobs, of all that a row could ask for."""
    keys, other = (stage_keys(METHOD, config, "data") for config in (config_of(), config_of(**knobs)))
    return {stage.name for stage in METHOD.stages if not stage.test and keys[stage.name] != other[stage.name]}


def test_each_class_comes_from_the_generator_that_knows_it() -> None:
    torch.manual_seed(0)
    whole = models.build("by_class", parts=[PART | {"classes": 2}, PART | {"classes": 3}], numbers=[[3, 0], [1, 4, 2]]).eval()
    z, labels = torch.randn(6, 6), torch.tensor([0, 1, 2, 3, 4, 0])
    images = whole(z, labels)
    assert isinstance(whole, ByClass)
    assert (whole.classes, whole.dim_z, images.shape) == (5, 6, (6, 1, 8, 8))
    for row, (part, own) in enumerate([(0, 1), (1, 0), (1, 2), (0, 0), (1, 1), (0, 1)]):
        alone = whole.parts[part](z[row : row + 1], torch.tensor([own]))
        torch.testing.assert_close(images[row : row + 1], alone)


def test_joined_generators_are_kept_as_one(tmp_path: Path) -> None:
    whole = models.build("by_class", parts=[PART | {"classes": 1}, PART | {"classes": 1}], numbers=[[1], [0]]).eval()
    models.save(whole, tmp_path)
    z, labels = torch.randn(2, 6), torch.tensor([0, 1])
    torch.testing.assert_close(models.load(tmp_path)(z, labels), whole(z, labels))


def test_an_encoder_becomes_a_classifier_with_its_weights(tmp_path: Path) -> None:
    encoder = models.build("encoder", network="small_cnn", width=4, image_channels=1, image_size=8).eval()
    models.save(encoder, tmp_path)
    data = load(config_of().data)
    network = as_classifier(data, Artifact("encoder-0", "encoder", tmp_path, {"files": {}})).eval()
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network.features(images), encoder(images))
    assert network(images).shape == (3, 10)


def test_a_lesson_changes_the_student_alone() -> None:
    assert changed(student__lesson="features") == {"student"}
    assert changed(student__kd="blkd") == {"student", "control"}
    assert changed(sampler__kind="taught") == {"sampler", "quality", "density_ratio", "samples", "student"}


@pytest.mark.parametrize(
    ("lesson", "kind", "read", "unread"),
    [
        ("samples", "plain", {"gan", "samples", "baseline"}, {"ft", "taught_gan", "inversion", "encoder"}),
        ("samples", "transferred", {"pretrain", "bn", "ft"}, {"gan", "taught_gan", "inversion", "encoder"}),
        ("samples", "taught", {"taught_gan", "text_teacher", "embeddings"}, {"gan", "ft", "inversion", "encoder"}),
        ("inverted", "plain", {"inversion", "baseline", "teacher"}, {"samples", "gan", "extractor", "encoder"}),
        ("features", "plain", {"encoder", "pool", "gan"}, {"samples", "inversion", "baseline", "teacher"}),
    ],
)
def test_a_row_needs_its_teachers_stages_and_no_others(lesson: str, kind: str, read: set[str], unread: set[str]) -> None:
    needed = METHOD.needed(["test_student"], config_of(student__lesson=lesson, sampler__kind=kind))
    assert read <= needed
    assert not unread & needed


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"inversion__width": 8}, "inversion is small_cnn of width 8 but baseline is small_cnn of width 4"),
        ({"encoder__width": 8}, "encoder is small_cnn of width 8 but baseline is small_cnn of width 4"),
        ({"student__kd": "takd"}, "takd learns from an assistant, which this comparison has not"),
        ({"student__steps": 21}, r"4 rounds of 5 steps, but student\.steps is 21"),
    ],
)
def test_another_student_budget_or_teacher_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config_of(**knobs)
