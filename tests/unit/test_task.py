"""What the labels are decides what is trained, measured and shown; one stage function serves classes and numbers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.data import DataConfig, DataSet, Split, load
from gankd.data.augment import Resident
from gankd.errors import UserError
from gankd.pictures import axis
from gankd.stages.checks import check_classes, check_classifier
from gankd.stages.classifier import test_network as measure_on_test
from gankd.stages.classifier import train_classifier
from gankd.stages.sections import ClassifierConfig
from gankd.stages.task import Classes, Continuous, task_of
from gankd.store import Artifact, Store

ANGLES = DataConfig(name="digits_angle")


def context(folder: Path) -> Context:
    store = Store(folder)
    ctx = Context("teacher", "teacher-key", 0, store.scratch("teacher-key"), store, torch.device("cpu"), checkpoint_seconds=1e9)
    ctx.seed_layers(-1)
    return ctx


class Fixed(nn.Module):
    """Answers with the brightness of the first pixel, in [-1, 1], as each output times a weight."""

    def __init__(self, *weights: float) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1, 0, 0] * self.weights


def grey(levels: list[int], labels: np.ndarray) -> Resident:
    return Resident(Split(np.array(levels, np.uint8).reshape(-1, 1, 1, 1).repeat(2, 2).repeat(2, 3), labels))


def test_the_labels_say_which_task_it_is() -> None:
    classes, angles = task_of(load(DataConfig())), task_of(load(ANGLES))
    assert (classes.metric, classes.mode, classes.unit, classes.outputs) == ("accuracy", "max", "%", 10)
    assert (angles.metric, angles.mode, angles.unit, angles.outputs) == ("mae", "min", "degree", 1)


def test_a_worked_classification() -> None:
    images = grey([0, 255, 255, 0], np.array([0, 1, 0, 0]))  # the answers are 0 for black, 1 for white
    assert Classes(2).measure(Fixed(-1.0, 1.0), images) == 75
    outputs, labels = torch.tensor([[1.0, 3.0], [0.0, 0.0]]), torch.tensor([1, 0])
    expected = (np.log1p(np.exp(-2)) + np.log(2)) / 2
    assert Classes(2).loss(outputs, labels).item() == pytest.approx(expected)


def test_a_worked_regression() -> None:
    task = Continuous(-90, 90, "degree")
    labels = torch.tensor([-90.0, 0.0, 45.0])
    assert task.place(labels).tolist() == [0, 0.5, 0.75]
    outputs = task.place(labels)[:, None]
    assert task.answers(outputs).tolist() == labels.tolist()
    assert task.loss(outputs + 0.1, labels).item() == pytest.approx(0.01)
    images = grey([0, 255], np.array([-270.0, 0.0], np.float32))  # answers -1 and 1 are -270 and 90 degrees
    assert task.measure(Fixed(1.0), images) == pytest.approx(45)


@pytest.mark.parametrize("name", ["digits", "digits_angle"])
def test_a_picture_of_every_task(name: str) -> None:
    data = load(DataConfig(name=name))
    task = task_of(data)
    network = Fixed(*torch.arange(float(task.outputs)))
    assert task.picture(network, Resident(data.val)).width > 300


def test_a_network_learns_angles_by_the_stage_that_trains_classifiers(tmp_path: Path) -> None:
    data = load(ANGLES)
    cfg = ClassifierConfig(width=8, epochs=4, lr=0.2, flip=False, crop_padding=2)
    ctx = context(tmp_path)
    metrics = train_classifier(ctx, cfg, data.without_test())
    guess = float(np.abs(data.val.labels - data.train.labels.mean()).mean())  # the same answer to every image
    assert guess > 40
    assert metrics["val_mae"] < 0.6 * guess
    made = Artifact("teacher-key", "teacher", ctx.out, {})
    tested = measure_on_test(ctx, cfg, data, teacher=made)
    assert set(tested) == {"test_mae"}
    assert tested["test_mae"] < 0.6 * guess


def unlabelled() -> DataSet:
    part = Split.unlabelled(np.zeros((4, 1, 8, 8), np.uint8))
    return DataSet("images", part, part, part, None, (), "", None, "00000000", unlabelled=True)


def test_a_classifier_stage_takes_classes_and_numbers_and_no_unlabelled_images(caplog: pytest.LogCaptureFixture) -> None:
    plain: dict[str, Any] = {"network": "resnet20", "flip": False}
    check_classifier("teacher", ClassifierConfig(**plain), load(DataConfig()))
    with caplog.at_level(logging.WARNING):
        check_classifier("teacher", ClassifierConfig(**plain), load(ANGLES))
    assert not caplog.text
    check_classifier("teacher", ClassifierConfig(network="resnet20"), load(ANGLES))
    assert "teacher.flip mirrors images and leaves their labels, in degree, as they are" in caplog.text
    with pytest.raises(UserError, match="stage 'gan' needs class labels, but data set 'digits_angle' has labels in degree"):
        check_classes("gan", ClassifierConfig(**plain), load(ANGLES))
    with pytest.raises(UserError, match="stage 'teacher' needs labels, but data set 'images' has none"):
        check_classifier("teacher", ClassifierConfig(**plain), unlabelled())
    with pytest.raises(UserError, match="data set 'images' has no labels"):
        task_of(unlabelled())


def test_rgal_needs_classes() -> None:
    from methods.rgal.checks import check_student
    from methods.rgal.config import StudentConfig, SynthesisConfig

    with pytest.raises(UserError, match="stage 'student' needs class labels"):
        check_student("student", StudentConfig(), load(ANGLES), SynthesisConfig())


def test_an_axis_without_a_unit_ends_with_its_name() -> None:
    assert (axis("label", "degree"), axis("label", "")) == ("label, degree", "label")
