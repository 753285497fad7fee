"""What can be known to be wrong before anything trains."""

from __future__ import annotations

import functools
import logging

import numpy as np

from gankd.config import Section
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages.checks import check_gan
from methods.cgan_transfer.config import BnConfig, PretrainConfig, TaskConfig, TrainingConfig
from methods.cgan_transfer.task import new_images, old_and_new, renumbered

log = logging.getLogger(__name__)


def check_pretrain(name: str, cfg: PretrainConfig, data: DataSet, task: TaskConfig) -> None:
    """The classes are there, and the networks exist, or the checkpoints fit."""
    check_gan(name, cfg, data)
    old, _ = old_and_new(task, data, pretrained=cfg.checkpoint is not None)
    if cfg.checkpoint:
        from methods.cgan_transfer.importing import import_networks

        _, _, said = import_networks(cfg, data, old_classes=len(old))
        log.warning("%s: %s", cfg.checkpoint, said)
    else:
        check_validation(data, old, "old")


def check_transfer(
    name: str, cfg: Section, data: DataSet, task: TaskConfig, training: TrainingConfig, **further: Section
) -> None:
    """There are images of the new classes, enough for what is asked, and for measuring."""
    _, new = old_and_new(task, data, pretrained=True)
    check_validation(data, new, "new")
    counts = np.bincount(renumbered(data.train, new).labels, minlength=len(new))
    for number, count in zip(new, counts.tolist(), strict=True):
        if count < max(1, task.images_per_class):
            raise UserError(
                f"class {data.class_names[number]!r} has {count} training images, but task.images_per_class is "
                f"{task.images_per_class}; choose at most {count}, or leave the class out"
            )
    available = len(new_images(task, data)[0])
    if available < training.batch:
        say_once(
            f"the new classes have {available} training images together, fewer than training.batch = {training.batch}: "
            "images repeat within a batch"
        )


def check_bn(name: str, cfg: BnConfig, data: DataSet, **reads: Section) -> None:
    """As `check_transfer`, and there are as many old classes as neighbours are asked for, where the data tells."""
    check_transfer(name, cfg, data, **reads)  # type: ignore[arg-type]
    task = reads["task"]
    if isinstance(task, TaskConfig) and task.old_classes and cfg.neighbours > len(task.old_classes):
        raise UserError(f"knob '{name}.neighbours' cannot be {cfg.neighbours}: there are {len(task.old_classes)} old classes")


@functools.cache
def say_once(warning: str) -> None:
    """Four stages, and every end of a searched range, are checked alike."""
    log.warning(warning)


def check_validation(data: DataSet, classes: list[int], kind: str) -> None:
    """Two validation images of every class at least: a distance needs a spread."""
    counts = np.bincount(data.val.labels, minlength=len(data.class_names))
    for number in classes:
        if counts[number] < 2:
            raise UserError(
                f"the {kind} class {data.class_names[number]!r} has {counts[number]} validation images, two at least are "
                "needed to measure its generator; raise data.val_fraction"
            )
