"""The loop over the tasks after the first: in each, a network that knows the old classes is widened and learns the new ones.

`phases` is that loop. One step of the engine is one optimiser step, of training or of synthesis, so a run can be stopped and
resumed anywhere in a task.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import Algorithm, autocast, update
from gankd.stages.classifier import EVALUATIONS, rate_of
from methods.rgal_incremental.accuracy import accuracies, picture, summary
from methods.rgal_incremental.config import StudentConfig
from methods.rgal_incremental.growing import widened
from methods.rgal_incremental.tasks import images_of, tasks_of


class Phase(NamedTuple):
    """`steps` optimiser steps of one kind in task `task` (from 0; the first was learnt before).

    done: training steps of the task before them. start: the engine's number of the first one.
    """

    kind: Literal["synthesis", "training"]
    task: int
    done: int
    start: int
    steps: int


def phases(tasks: int, task_steps: int, refresh: int = 0, g_steps: int = 0) -> Iterator[Phase]:
    """For every task but the first: synthesise (g_steps) and train (refresh) in turn, task_steps of training in all."""
    start, refresh = 0, refresh or task_steps
    for task in range(1, tasks):
        for done in range(0, task_steps, refresh):
            if g_steps:
                yield Phase("synthesis", task, done, start, g_steps)
                start += g_steps
            steps = min(refresh, task_steps - done)
            yield Phase("training", task, done, start, steps)
            start += steps


class TaskLoop(Algorithm):
    """What all four ways of learning task after task share: whose turn it is, growing, and looking at what is left of old tasks.

    `first` is the network that has learnt the first task. Inside, output i is of class `order[i]`: tasks one after another.
    """

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, first: Any, phases: Iterator[Phase]) -> None:
        self.ctx, self.cfg, self.data, self.recipe = ctx, cfg, data, first.recipe
        share = ctx.share(cfg.batch, "knob 'student.batch'")
        self.rows = slice(ctx.rank * share, (ctx.rank + 1) * share)
        self.phases = list(phases)
        self.steps = self.phases[-1].start + self.phases[-1].steps
        self.tasks = tasks_of(cfg.tasks, data)
        self.order = [number for task in self.tasks for number in task]
        self.task_of = [place for place, task in enumerate(self.tasks) for _ in task]
        labels = torch.from_numpy(images_of(data.val, self.order).labels)
        self.counts = torch.tensor(self.task_of)[labels].bincount().tolist()
        self.rate = rate_of(cfg, cfg.task_steps - cfg.head_steps)
        self.networks = [first.state_dict()]  # after each task that is over
        self.matrix = [self.row(first, 0, self.seen(data.val, 0))]  # a row for each of them
        self.begin(1)

    def seen(self, part: Any, task: int, start: int = 0, **view: Any) -> Resident:
        """The images of the classes of tasks 0 to `task`, from class number `start` in `order` on."""
        return Resident(images_of(part, self.order[: self.classes_after(task)], start), self.ctx.device, **view)

    def classes_after(self, task: int) -> int:
        return sum(map(len, self.tasks[: task + 1]))

    def after(self, task: int) -> Any:
        """The network after a task that is over, frozen."""
        network = models.build(**{**self.recipe, "classes": self.classes_after(task)})
        network.load_state_dict(self.networks[task])
        return network.to(self.ctx.device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    def begin(self, task: int) -> None:
        """M_old is the network after the task before; M_new its copy with outputs for the new classes."""
        self.task, self.old_classes, self.classes = task, self.classes_after(task - 1), self.classes_after(task)
        self.old = self.after(task - 1)
        # Not by the stage: the controls begin with the same weights.
        self.network = widened(self.old, self.classes, self.ctx.seed + task).to(self.ctx.device)
        self.network.to(memory_format=torch.channels_last)
        cfg = self.cfg
        optimizer = torch.optim.SGD(
            self.network.parameters(), cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay, fused=True
        )
        self.images, self.walk = self.real_images(), self.ctx.seed_for(task, "order")
        self.validation = self.seen(self.data.val, task)
        self.modules, self.optimizers = {"network": self.network}, {"network": optimizer}

    def real_images(self) -> Resident:
        """The training images of the task's new classes."""
        return self.seen(self.data.train, self.task, self.old_classes, flip=self.cfg.flip, crop_padding=self.cfg.crop_padding)

    def phase(self, step: int) -> tuple[Phase, int]:
        """The phase of the engine's step number `step`, and the number of that step in it."""
        phase = self.phases[bisect(self.phases, step, key=attrgetter("start")) - 1]
        return phase, step - phase.start

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        phase, index = self.phase(step)
        if phase.task != self.task:
            self.networks.append(self.network.state_dict())
            self.begin(phase.task)
        return self.learn(phase, index, rng)

    def learn(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Step number `index` of a phase."""
        raise NotImplementedError

    def update(self, loss: Tensor, index: int, lr: float | None = None) -> None:
        """A step of SGD down `loss`, number `index` of the task."""
        rate = self.cfg.lr * self.rate(index) if lr is None else lr
        update(self.ctx, loss, self.optimizers["network"], self.network, lr=rate)

    def clock(self, step: int) -> int:
        """Training steps done, which trials with more or less synthesis have in common."""
        phase, index = self.phase(step)
        return (phase.task - 1) * self.cfg.task_steps + phase.done + (index if phase.kind == "training" else 0)

    def due(self, step: int) -> bool:
        """Some times in a task, and at its end."""
        phase, index = self.phase(step - 1)
        every = max(1, self.cfg.task_steps * (len(self.tasks) - 1) // EVALUATIONS)
        done = phase.done + index + 1
        return phase.kind == "training" and (done % every == 0 or done == self.cfg.task_steps)

    def row(self, network: Any, task: int, validation: Resident) -> list[float]:
        """Accuracies on the tasks 0 to `task`."""
        return accuracies(self.ctx, network, validation, self.task_of[: self.classes_after(task)])

    def evaluate(self, step: int) -> dict[str, float]:
        rows = [*self.matrix[: self.task], self.row(self.network, self.task, self.validation)]
        if self.clock(step) == self.task * self.cfg.task_steps:  # the task is over
            self.matrix = rows
            self.show(self.clock(step))
        return {f"val_{name}": value for name, value in summary(rows, self.counts).items()}

    def show(self, clock: int) -> None:
        """Pictures at the end of a task."""
        self.ctx.image("accuracy_matrix", picture(self.matrix, len(self.tasks)), clock)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "task": self.task, "networks": self.networks, "accuracies": self.matrix}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.networks, self.matrix = state["networks"], state["accuracies"]
        self.begin(state["task"])
        super().load_state_dict(state)


class RealImages(TaskLoop):
    """Cross-entropy over all classes seen, on real images: of the new classes alone, or of all.

    joint: of all, and twice as many in a step, which is what a host sees.
    """

    def __init__(self, ctx: Context, cfg: StudentConfig, data: DataSet, first: Any, *, joint: bool) -> None:
        self.joint, self.batch = joint, cfg.batch * (2 if joint else 1)
        super().__init__(ctx, cfg, data, first, phases(cfg.task_count, cfg.task_steps))

    def real_images(self) -> Resident:
        if not self.joint:
            return super().real_images()
        return self.seen(self.data.train, self.task, flip=self.cfg.flip, crop_padding=self.cfg.crop_padding)

    def learn(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min CE(z(x), y)."""
        number = phase.done + index
        images, labels = self.images.epoch_batch(number, self.batch, rng, self.walk, self.ctx.rank, self.ctx.world_size)
        self.network.train()
        with autocast(self.ctx.device, self.cfg.precision):
            loss = torch.nn.functional.cross_entropy(self.network(images.contiguous(memory_format=torch.channels_last)), labels)
        self.update(loss, number)
        return {"loss": loss.detach()}
