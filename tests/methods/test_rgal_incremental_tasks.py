"""Class-incremental RGAL: which classes come when, which step is of which task, what a network grows by, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from gankd import models
from gankd.config import build_config, read_preset, with_knobs
from gankd.data import DataSet, load
from gankd.errors import UserError
from gankd.models.classifier import OwnNormalisation
from gankd.registry import find_method
from methods.rgal_incremental.accuracy import summary
from methods.rgal_incremental.config import IncrementalConfig
from methods.rgal_incremental.growing import OldAnswers, head, put_in_order, widened
from methods.rgal_incremental.loop import Phase, phases
from methods.rgal_incremental.tasks import images_of, task_data, tasks_of

METHOD = find_method("rgal_incremental")


def smoke(**knobs: Any) -> IncrementalConfig:
    return build_config(IncrementalConfig, with_knobs(read_preset(METHOD.presets, "smoke"), knobs))


@pytest.fixture(scope="module")
def data() -> DataSet:
    return load(smoke().data)


def test_tasks_are_equal_parts_in_the_datas_order_or_as_they_are_listed(data: DataSet) -> None:
    assert tasks_of(5, data) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert tasks_of((("7", "1", "3", "5"), ("9", "0"), ("2", "4", "6", "8")), data) == [[7, 1, 3, 5], [9, 0], [2, 4, 6, 8]]
    config = smoke(**{"student.tasks": "[[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]", "student.task_steps": 7})
    assert config.student.task_count == 2
    assert config.student.steps == 7
    assert smoke().student.steps == 4 * 8


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        (3, r"cannot be 3: the 10 classes of data set 'digits' cannot be divided .* choose one of 2, 5, or list"),
        (10, r"cannot be 10: .* of equally many classes, 2 at least"),
        ((("0", "1", "2", "3", "4"), ("5", "6", "7", "8", "9", "3")), "class '3' is listed twice"),
        ((("0", "1", "2", "3", "4"), ("5", "6", "7", "9")), "class '8' of data set 'digits' is in none of student.tasks"),
        ((tuple("01234567"), ("8",), ("9",)), "task 2 of student.tasks has 1 classes; each needs 2"),
        ((("0", "1"), ("2", "ten")), "no class 'ten'"),
    ],
)
def test_tasks_that_do_not_divide_the_classes_or_overlap_are_refused(data: DataSet, tasks: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        tasks_of(tasks, data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tasks", [1, 0, -5, 1001, True, "five", [[0, 1, 2]], [0, 1], None])
def test_what_is_no_number_of_tasks_and_no_list_is_refused(tasks: Any) -> None:
    with pytest.raises(UserError, match=r"knob 'student.tasks' cannot be .*: it is a number of tasks from 2 to 1000, or a list"):
        smoke(**{"student.tasks": tasks})


def test_labels_of_a_task_are_places_in_the_order(data: DataSet) -> None:
    order = [7, 1, 3, 5, 9, 0]
    new = images_of(data.val, order, start=4)
    assert set(new.labels) == {4, 5}
    assert np.array_equal(new.images[new.labels == 5], data.val.images[data.val.labels == 0])
    first = task_data(data, order[:4], 1)
    assert (first.classes, first.class_names) == (4, ("7", "1", "3", "5"))
    assert np.array_equal(first.train.images[first.train.labels == 2], data.train.images[data.train.labels == 3])


def test_a_task_synthesises_and_trains_in_turn() -> None:
    assert list(phases(tasks=3, task_steps=5, refresh=3, g_steps=2)) == [
        Phase("synthesis", 1, 0, 0, 2),
        Phase("training", 1, 0, 2, 3),
        Phase("synthesis", 1, 3, 5, 2),
        Phase("training", 1, 3, 7, 2),
        Phase("synthesis", 2, 0, 9, 2),
        Phase("training", 2, 0, 11, 3),
        Phase("synthesis", 2, 3, 14, 2),
        Phase("training", 2, 3, 16, 2),
    ]
    assert list(phases(tasks=3, task_steps=5)) == [Phase("training", 1, 0, 0, 5), Phase("training", 2, 0, 5, 5)]


@pytest.mark.parametrize("normalisation", [None, [[0.5], [0.25]]])
def test_a_network_grows_by_new_outputs_and_keeps_its_answers(normalisation: Any) -> None:
    torch.manual_seed(0)
    old = models.build("small_cnn", classes=4, image_channels=1, image_size=8, width=4, normalisation=normalisation).eval()
    assert isinstance(old, OwnNormalisation) == (normalisation is not None)
    images, state = torch.randn(6, 1, 8, 8), torch.get_rng_state()
    wide, again = widened(old, 6, seed=3).eval(), widened(old, 6, seed=3).eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert (wide.recipe["classes"], head(wide).out_features) == (6, 6)
    torch.testing.assert_close(wide(images)[:, :4], old(images))
    assert torch.equal(wide(images), again(images))
    assert not torch.equal(wide(images), widened(old, 6, seed=4).eval()(images))
    logits, features, blocks = OldAnswers(wide, 4).outputs(images)
    torch.testing.assert_close(logits, old(images))
    assert (len(features), len(blocks)) == (6, 3)
    before = wide(images)
    put_in_order(wide, [5, 0, 3, 1, 4, 2])
    torch.testing.assert_close(wide(images)[:, [5, 0, 3, 1, 4, 2]], before)


def test_accuracy_average_and_forgetting() -> None:
    """Three tasks of 10, 10 and 20 images."""
    rows = [[90.0], [50.0, 80.0], [60.0, 20.0, 100.0]]
    found = summary(rows, [10, 10, 20])
    assert found["accuracy"] == pytest.approx((60 * 10 + 20 * 10 + 100 * 20) / 40)
    assert found["average_accuracy"] == pytest.approx((90 + 65 + 70) / 3)
    # The best before the last task was 90 and 80.
    assert found["forgetting"] == pytest.approx(((90 - 60) + (80 - 20)) / 2)
    assert summary(rows[:1], [10, 10, 20]) == {"accuracy": 22.5, "average_accuracy": 90.0, "forgetting": 0.0}
