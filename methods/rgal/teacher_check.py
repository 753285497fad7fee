"""Whether a teacher is worth inverting: synthesis trusts its answers and its batch norm statistics, good or bad."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.errors import StageFailed
from gankd.stages.task import task_of


def check_teacher(ctx: Context, teacher: Any, data: DataSet, floor: float | None) -> float:
    """The teacher's validation accuracy in percent. StageFailed when it is below `floor` (None: twice chance) or its
    batch norm layers have never been trained."""
    layers = [module for module in teacher.modules() if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None]
    if layers and all(_untouched(layer) for layer in layers):
        raise StageFailed(
            f"the teacher was never trained: the statistics of its {len(layers)} batch norm layers are those of a new network "
            "(mean 0, variance 1); train it, or give a checkpoint of a trained one"
        )
    val_accuracy = task_of(data).measure(teacher, Resident(data.val, ctx.device), ctx)
    least = 200 / (data.classes or 1) if floor is None else floor
    if val_accuracy < least:
        raise StageFailed(
            f"the teacher's validation accuracy is {val_accuracy:.1f} %, below the floor of {least:.1f} %, so that its images "
            "would teach nothing; train it longer, or lower student.teacher_floor"
        )
    return val_accuracy


def _untouched(layer: nn.BatchNorm2d) -> bool:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return not bool(layer.running_mean.any()) and torch.equal(layer.running_var, torch.ones_like(layer.running_var))
