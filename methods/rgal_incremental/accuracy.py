"""How well the classes seen so far are told apart after each task: accuracy, its average, and forgetting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from gankd.context import Context
from gankd.data.augment import Resident
from gankd.engine import evaluating
from gankd.pictures import heat_map
from gankd.stages.task import EVALUATION_BATCH

Rows = Sequence[Sequence[float]]  # row t: accuracy on each of the tasks 0..t after task t, in percent


def accuracies(ctx: Context, network: nn.Module, images: Resident, tasks: Sequence[int]) -> list[float]:
    """Top-1 in percent on the images of each task, the answer being one of all outputs of `network`.

    images: labels are numbers of outputs; of every task there is one at least. tasks: the task of each output, from 0.
    """
    task_of = torch.tensor(tasks, device=images.device)
    right, total = torch.zeros(2, max(tasks) + 1, dtype=torch.float64, device=images.device)
    with evaluating(network):
        for batch, labels in images.in_order(EVALUATION_BATCH, ctx.rank, ctx.world_size):
            hits = (network(batch).argmax(1) == labels).double()
            right.index_add_(0, task_of[labels], hits)
            total.index_add_(0, task_of[labels], torch.ones_like(hits))
    return (100 * ctx.sum(right) / ctx.sum(total)).tolist()  # type: ignore[no-any-return]


def summary(rows: Rows, counts: Sequence[int]) -> dict[str, float]:
    """What the rows come to. counts: images of each task.

    accuracy: after the last row, on the images of all tasks, where those of tasks to come are wrong. average_accuracy: the
    mean of A_1, A_2, ..., A_t being the accuracy after task t on the images of the tasks seen so far.
    forgetting: the mean over the tasks but the last of the best accuracy on it before the last task, less that after it
    (Chaudhry et al. 2018), in points; 0 after the first task.
    """
    right = [sum(a * n for a, n in zip(row, counts)) for row in rows]
    seen = [of_row / sum(counts[: len(row)]) for of_row, row in zip(right, rows)]
    last = rows[-1]
    lost = [max(row[task] for row in rows[task:-1]) - last[task] for task in range(len(last) - 1)]
    return {
        "accuracy": right[-1] / sum(counts),
        "average_accuracy": sum(seen) / len(seen),
        "forgetting": sum(lost) / len(lost) if lost else 0.0,
    }


def picture(rows: Rows, tasks: int) -> Any:
    """The accuracy matrix: row = after which task, column = on which task; dark is 0 %, or not seen yet, bright 100 %."""
    matrix = torch.zeros(tasks, tasks)
    for place, row in enumerate(rows):
        matrix[place, : len(row)] = torch.tensor(row) / 100
    return heat_map(matrix)
