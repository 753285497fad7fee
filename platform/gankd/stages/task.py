"""What a data set's labels are decides loss, evaluation, direction and picture of a network that is to tell them.

task = task_of(data)
task.loss(network(images), labels)                 # to train by
task.measure(network, Resident(data.val), ctx)     # task.metric in task.unit; task.mode says which way it is better
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import evaluating
from gankd.errors import UserError
from gankd.metrics.directions import Direction, direction
from gankd.pictures import answers_and_errors, heat_map

EVALUATION_BATCH = 500
LABEL_RANGE = "label_range.json"  # beside a saved network that tells numbers: what its 0 and its 1 stand for


class Task:
    """What a network learns to tell of an image.

    Attributes:
        metric: what its answers are measured by; a part's name stands before it, as in `val_<metric>`. unit: of the metric.
        picture_name: of what `picture` shows.
        outputs: numbers that a network answers with for an image.
    """

    metric: ClassVar[str]
    picture_name: ClassVar[str]
    unit: str
    outputs: int

    @property
    def mode(self) -> Direction:
        """Which way the metric is better."""
        way = direction(self.metric)
        assert way is not None
        return way

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What is minimised in training: a scalar. outputs (N, self.outputs), labels (N,)."""
        raise NotImplementedError

    def tally(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The metric, summed over the images: a scalar. outputs (N, self.outputs), labels (N,)."""
        raise NotImplementedError

    def measure(self, network: nn.Module, images: Resident, ctx: Context | None = None) -> float:
        """The metric over all images. With `ctx`, every worker answers for a part of them."""
        rank, world = (ctx.rank, ctx.world_size) if ctx else (0, 1)
        total = torch.zeros((), device=images.device, dtype=torch.float64)
        with evaluating(network):
            for batch, labels in images.in_order(EVALUATION_BATCH, rank, world):
                total += self.tally(network(batch), labels)
        return float(ctx.sum(total) if ctx else total) / len(images)

    def picture(self, network: nn.Module, images: Resident) -> Any:
        """A PIL picture of answers beside labels."""
        raise NotImplementedError

    def describe(self, folder: Path) -> None:
        """Write beside a saved network what its answers mean, where the network alone does not say."""


class Classes(Task):
    """The class, by cross-entropy; measured by the share of right answers."""

    metric, unit, picture_name = "accuracy", "%", "confusion"

    def __init__(self, classes: int) -> None:
        self.outputs = classes

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(outputs, labels)

    def tally(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return 100 * (outputs.argmax(1) == labels).sum()

    def picture(self, network: nn.Module, images: Resident) -> Any:
        """A row per class, a column per answer: dark is never, bright is always."""
        return heat_map(confusion(network, images, self.outputs))


class Continuous(Task):
    """A number, by the mean squared error of its place in the label's range; measured by the mean absolute error.

    A network answers with the place: 0 at the lower end of the range, 1 at the upper one, as cGAN-KD's do. So learning rates
    do not depend on the unit.

    Args:
        low, high: range of the labels. unit: theirs.
    """

    metric, picture_name, outputs = "mae", "answers", 1

    def __init__(self, low: float, high: float, unit: str) -> None:
        self.low, self.high, self.unit = low, high, unit

    def place(self, labels: Tensor) -> Tensor:
        """Labels in their unit -> places in the range."""
        return (labels - self.low) / (self.high - self.low)

    def answers(self, outputs: Tensor) -> Tensor:
        """Outputs (N, 1) -> labels (N,), in their unit."""
        return outputs[:, 0].float() * (self.high - self.low) + self.low

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return F.mse_loss(outputs[:, 0].float(), self.place(labels))

    def tally(self, outputs: Tensor, labels: Tensor) -> Tensor:
        return (self.answers(outputs) - labels).abs().sum()

    def describe(self, folder: Path) -> None:
        (folder / LABEL_RANGE).write_text(json.dumps([self.low, self.high]))

    def picture(self, network: nn.Module, images: Resident) -> Any:
        """A point per image, its label and the answer above it; and the mean error by label."""
        with evaluating(network):
            pairs = [(labels.cpu(), self.answers(network(batch)).cpu()) for batch, labels in images.in_order(EVALUATION_BATCH)]
        labels, answers = (torch.cat(part) for part in zip(*pairs, strict=True))
        return answers_and_errors(labels, answers, self.unit)


def task_of(data: DataSet) -> Task:
    """The task that a data set's labels set. Raises UserError where they are not known."""
    if data.classes is not None:
        return Classes(data.classes)
    if data.label_range is not None:
        return Continuous(*data.label_range, data.label_unit)
    raise UserError(f"data set {data.name!r} has no labels, so there is nothing to learn to tell")


@torch.no_grad()
def confusion(network: nn.Module, images: Resident, classes: int) -> Tensor:
    """Row: true class, column: answer, value: share of the true class. (classes, classes)."""
    counts = torch.zeros(classes, classes)
    with evaluating(network):
        for batch, labels in images.in_order(EVALUATION_BATCH):
            counts.index_put_((labels.cpu(), network(batch).argmax(1).cpu()), torch.ones(len(labels)), accumulate=True)
    return counts / counts.sum(1, keepdim=True).clamp(min=1)
