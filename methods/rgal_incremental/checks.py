"""What can be known to be wrong before anything is trained. No torch."""

from __future__ import annotations

import numpy as np

from gankd.config import Section, Selection
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages.checks import check_classes, check_network
from gankd.stages.sections import ClassifierConfig
from methods.rgal.checks import check_image_size, check_layers, check_pool
from methods.rgal.config import SynthesisConfig
from methods.rgal_incremental.config import StudentConfig
from methods.rgal_incremental.tasks import task_data, tasks_of


def check_first(name: str, cfg: ClassifierConfig, data: DataSet, student: Selection) -> None:
    """The tasks are there; the network exists and fits the first one."""
    check_classes(name, cfg, data)
    task = task_data(data, tasks_of(student.tasks, data)[0], 1)
    check_network(name, cfg, task)
    if not cfg.checkpoint:
        check_images(name, cfg.batch, task)


def check_tasks(name: str, cfg: StudentConfig, data: DataSet, **reads: Section) -> None:
    """Every task has images enough for a batch, and some to be measured on."""
    check_classes(name, cfg, data)
    for number, classes in enumerate(tasks_of(cfg.tasks, data), start=1):
        if not np.isin(data.val.labels, classes).any():
            raise UserError(f"task {number} has no validation image to be measured on; raise data.val_fraction")
        if number > 1:
            check_images("student", cfg.batch, task_data(data, classes, number))


def check_images(section: str, batch: int, task: DataSet) -> None:
    """A batch holds no more images than the task has."""
    if batch > len(task.train):
        raise UserError(
            f"knob '{section}.batch' cannot be {batch}: {task.name} (classes {', '.join(task.class_names[:10])}) has "
            f"{len(task.train)} training images; set it to {len(task.train)} or less"
        )


def check_host(name: str, cfg: StudentConfig, data: DataSet, synthesis: Section | Selection, **looks: Section) -> None:
    """As `check_tasks`; images of this size can be made, and the pool fits."""
    check_tasks(name, cfg, data)
    check_image_size(data)
    check_pool("student", cfg, data)


def check_student(name: str, cfg: StudentConfig, data: DataSet, synthesis: SynthesisConfig, first: ClassifierConfig) -> None:
    """As `check_host`; the blocks that are related exist."""
    check_host(name, cfg, data, synthesis)
    if synthesis.relates:
        check_layers("synthesis", synthesis.start_layer, first.network, data)
