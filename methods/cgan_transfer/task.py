"""Which images belong to the old classes, and which few to the new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from gankd.config import nearest
from gankd.data import DataSet, Split
from gankd.data.splits import balanced
from gankd.errors import UserError
from gankd.stages.quality import of_classes
from gankd.text import shortened
from methods.cgan_transfer.config import Classes, TaskConfig


def class_numbers(wanted: Classes, data: DataSet) -> list[int]:
    """The classes' numbers in `data`. A class is called by its name, or by its number where that can only mean one: where no name
    is made of digits, and no class was left out."""
    names, numbers = data.class_names, []
    by_number = not data.renumbered and not any(name.isdecimal() for name in names)
    for called in wanted:
        if called in names:
            numbers.append(names.index(called))
        elif by_number and called.isdecimal() and int(called) < len(names):
            numbers.append(int(called))
        else:
            known = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise UserError(
                f"data set {data.name!r} has no class {shortened(called)}{nearest(called, names)} (it has {len(names)}: {known})"
            )
        if numbers[-1] in numbers[:-1]:
            raise UserError(f"class {names[numbers[-1]]!r} is listed twice, the second time as {called!r}; list it once")
    return numbers


def old_and_new(task: TaskConfig, data: DataSet, pretrained: bool = False) -> tuple[list[int], list[int]]:
    """Numbers of the old and of the new classes in `data`.

    A list that is not given holds all classes that are not in the other one. `pretrained`: the old classes are those of a
    checkpoint; they need not be in the data.
    """
    old, new = class_numbers(task.old_classes, data), class_numbers(task.new_classes, data)
    for number in new:
        if number in old:
            raise UserError(f"class {data.class_names[number]} is old and new at once; a class can be only one of them")
    everything = range(len(data.class_names))
    new = new or [number for number in everything if number not in old]
    if not pretrained:
        old = old or [number for number in everything if number not in new]
        if len(old) < 2:
            raise UserError(
                f"{len(old)} old classes are left to pretrain on, two at least are needed: list them in task.old_classes, fewer "
                "in task.new_classes, or give pretrain.checkpoint"
            )
    if len(new) < 1:
        raise UserError("no class is left to transfer to: list the new ones in task.new_classes")
    return old, new


def renumbered(part: Split, classes: Sequence[int]) -> Split:
    """The images of these classes, in their order, with labels 0 .. M - 1 in the order of `classes`."""
    chosen = of_classes(part, classes)
    place = np.full(max([*classes, *part.labels.tolist()], default=0) + 1, -1, np.int64)
    place[list(classes)] = np.arange(len(classes))
    return replace(chosen, labels=place[chosen.labels])


def few(part: Split, per_class: int, seed: int) -> Split:
    """`per_class` images of every class, drawn by `seed`; 0 = all. A smaller draw is part of every larger one."""
    if not per_class:
        return part
    return part.take(balanced(part.labels, per_class * len(np.unique(part.labels)), seed))


def new_images(task: TaskConfig, data: DataSet) -> tuple[Split, list[int]]:
    """The few training images of the new classes, labels 0 .. M - 1, and these classes' numbers in `data`.

    Another split of the data draws other ones.
    """
    _, new = old_and_new(task, data, pretrained=True)
    return few(renumbered(data.train, new), task.images_per_class, int(data.fingerprint[:8], 16)), new
