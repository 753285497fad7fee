"""The knobs of class-incremental learning without exemplars; defaults are those of the hosts' CIFAR-100 scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import ClassifierConfig, Milestones, Precision
from gankd.text import shortened
from methods.cgan_transfer.config import Classes
from methods.rgal.config import SynthesisConfig

ABD = "ABD CIFAR-100"
RDFCIL = "R-DFCIL CIFAR-100"
README = "RGAL README command"
MOST_TASKS = 1000

Tasks = int | tuple[Classes, ...]

# Of synthesis, what belongs to RGAL's relation term: a host without it reads none of these.
RELATION = frozenset({
    "triplet", "relation_mode", "triplet_target", "start_layer", "end_layer", "margin",
    "sampler", "low", "high", "sampling_space", "dimension_cap",
})  # fmt: skip
# Of the student, what RGAL adds to the host's losses, and with it all that acts on synthetic images.
RELATING = frozenset({"striplet", "striplet_sampling", "margin", "cd"})
REPLAYING = RELATING | {
    "host", "abd_kd", "rdfcil_ce", "rdfcil_hkd", "rdfcil_rkd", "head_steps", "head_lr", "refresh", "pool",
}  # fmt: skip


class StudentConfig(Section):
    """The loop over the tasks after the first. `finetuning`, `host` and `joint` are the same loop without some of it."""

    tasks: Tasks = knob(5, "tasks of equally many classes, in the data's order; or the classes of each task", origin=ABD)
    task_steps: int = knob(17_500, "optimiser steps per task", unit="steps", origin=f"{ABD}: 250 epochs of 9,000 images", ge=1)
    batch: int = knob(
        128, "real images per step over all workers, and as many synthetic ones", unit="images", origin=ABD, ge=2, le=65_536
    )
    host: Literal["abd", "rdfcil"] = knob("abd", "whose losses keep the old classes", origin="ours")
    abd_kd: float = knob(0.1, "weight of the distilled features (host abd)", origin=ABD, ge=0, le=1000)
    rdfcil_ce: float = knob(0.5, "base weight of the cross-entropy of new classes (host rdfcil)", origin=RDFCIL, ge=0, le=1000)
    rdfcil_hkd: float = knob(0.15, "base weight of the distilled logits (host rdfcil)", origin=RDFCIL, ge=0, le=1000)
    rdfcil_rkd: float = knob(0.5, "base weight of the distilled angles (host rdfcil)", origin=RDFCIL, ge=0, le=1000)
    head_steps: int = knob(
        0, "of a task's steps the last ones, which train the last layer alone", unit="steps", origin=f"{RDFCIL}: 40 epochs", ge=0
    )
    head_lr: float = knob(0.005, "learning rate of these steps", origin=RDFCIL, gt=0, le=10)
    refresh: int = knob(1400, "steps between two rounds of synthesis", unit="steps", origin="ours: 20 epochs", ge=1)
    pool: int = knob(51_200, "synthetic images that are kept, the newest of the task", unit="images", origin="ours", ge=2)
    striplet: float = knob(0.1, "weight of the relation term on synthetic images (lambda_2)", origin=README, ge=0, le=1000)
    striplet_sampling: Literal["student", "teacher"] = knob(
        "student", "by whose logits negatives are drawn: the network's, or that of before the task", origin="RGAL code"
    )
    margin: float = knob(0.2, "margin of the triplets", origin="RGAL code", ge=0, le=2)
    cd: float = knob(0.1, "weight of the squared difference of pooled maps (lambda_3)", origin=README, ge=0, le=1000)
    lr: float = knob(0.1, "learning rate at the start of a task", origin=ABD, gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin=ABD, ge=0, lt=1)
    weight_decay: float = knob(2e-4, "weight decay", origin=ABD, ge=0, lt=1)
    schedule: Literal["multistep", "cosine"] = knob("multistep", "shape of the learning rate in a task", origin=ABD)
    milestones: Milestones = knob(
        (0.4, 0.6, 0.8),
        "where multistep multiplies the rate by 0.1",
        unit="share of a task",
        origin="epochs 100, 150, 200 of 250",
    )
    flip: bool = knob(True, "random horizontal flips", origin=ABD)
    crop_padding: int = knob(4, "black border before a random crop; 0 = no crop", unit="pixels", origin=ABD, ge=0, le=32)
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    def inert(self) -> frozenset[str]:
        """What only the other host has."""
        others = {"rdfcil_ce", "rdfcil_hkd", "rdfcil_rkd"} if self.host == "abd" else {"abd_kd"}
        head = frozenset() if self.head_steps else {"head_lr"}
        relating = frozenset() if self.striplet else {"striplet_sampling", "margin"}
        return frozenset(others | head | relating)

    @property
    def steps(self) -> int:
        """Optimiser steps of all tasks after the first: what a trial's progress is counted in."""
        return (self.task_count - 1) * self.task_steps

    @property
    def task_count(self) -> int:
        return self.tasks if isinstance(self.tasks, int) else len(self.tasks)

    @model_validator(mode="after")
    def _within_a_task(self) -> StudentConfig:
        if self.head_steps >= self.task_steps:
            raise UserError(
                f"knob 'student.head_steps' cannot be {self.head_steps}: it must be below student.task_steps = {self.task_steps}"
            )
        return self


class IncrementalConfig(MethodConfig):
    """All knobs of the method."""

    first: ClassifierConfig = ClassifierConfig(
        network="resnet32",
        epochs=250,
        batch=128,
        lr=0.1,
        weight_decay=2e-4,
        milestones=(0.4, 0.6, 0.8),
    )
    synthesis: SynthesisConfig = SynthesisConfig(g_steps=500)
    student: StudentConfig = StudentConfig()

    @field_validator("student", mode="before")
    @classmethod
    def _tasks(cls, section: Any) -> Any:
        """One sentence for numbers and lists, where the union would complain of each."""
        if not isinstance(section, Mapping) or "tasks" not in section:
            return section
        tasks = section["tasks"]
        listed = isinstance(tasks, list | tuple) and all(isinstance(task, list | tuple) for task in tasks)
        count = len(tasks) if listed else tasks
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= MOST_TASKS:
            raise UserError(
                f"knob 'student.tasks' cannot be {shortened(tasks)}: it is a number of tasks from 2 to {MOST_TASKS}, or a list "
                "of as many lists of classes, e.g. [[0, 1], [2, 3]]"
            )
        return section

    @model_validator(mode="after")
    def _statistics(self) -> IncrementalConfig:
        if self.first.norm != "batch" and self.synthesis.uses_statistics:
            raise UserError(
                f"the network has no batch norm layers (first.norm is {self.first.norm!r}), but synthesis.bn or synthesis.cr is "
                "above 0 and reads their statistics; use first.norm=batch, or set both to 0"
            )
        return self
