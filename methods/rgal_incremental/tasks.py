"""Which classes come in which task, and the images of some of them. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gankd.data import DataSet, Split
from gankd.errors import UserError
from methods.cgan_transfer.task import class_numbers, renumbered
from methods.rgal_incremental.config import Tasks

LEAST = 2  # classes of a task: among fewer there is nothing to tell apart


def tasks_of(tasks: Tasks, data: DataSet) -> list[list[int]]:
    """The numbers in `data` of each task's classes. UserError unless every class is in one task, of two classes at least."""
    everything = range(data.classes or 0)
    if isinstance(tasks, int):
        size, rest = divmod(len(everything), tasks)
        if rest or size < LEAST:
            fitting = [n for n in range(2, len(everything) // LEAST + 1) if len(everything) % n == 0]
            raise UserError(
                f"knob 'student.tasks' cannot be {tasks}: the {len(everything)} classes of data set {data.name!r} cannot be "
                f"divided into so many tasks of equally many classes, {LEAST} at least; choose one of "
                f"{', '.join(map(str, fitting)) or 'none'}, or list each task's classes"
            )
        return [list(everything[start : start + size]) for start in range(0, len(everything), size)]
    numbers = class_numbers(tuple(name for task in tasks for name in task), data)
    if missing := [data.class_names[number] for number in everything if number not in numbers]:
        raise UserError(f"class {missing[0]!r} of data set {data.name!r} is in none of student.tasks; add it to one of them")
    if small := [place for place, task in enumerate(tasks, start=1) if len(task) < LEAST]:
        raise UserError(f"task {small[0]} of student.tasks has {len(tasks[small[0] - 1])} classes; each needs {LEAST} at least")
    remaining = iter(numbers)
    return [[next(remaining) for _ in task] for task in tasks]


def task_data(data: DataSet, classes: Sequence[int], number: int) -> DataSet:
    """Only the classes of task `number` (from 1), with labels 0, 1, ... in their order."""
    return replace(
        data,
        name=f"{data.name}, task {number}",
        train=renumbered(data.train, classes),
        val=renumbered(data.val, classes),
        classes=len(classes),
        class_names=tuple(data.class_names[number] for number in classes),
    )


def images_of(part: Split, order: Sequence[int], start: int = 0) -> Split:
    """The images of the classes order[start:], labelled with their places in `order`."""
    chosen = renumbered(part, order[start:])
    return replace(chosen, labels=chosen.labels + start)
