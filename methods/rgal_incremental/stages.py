"""What is trained: the first task, and from there on four ways of going on, which are one loop; and the test of each."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np

from gankd import models
from gankd.config import Section, Selection
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.stages.classifier import build_classifier, fit_classifier, keep_classifier, load_network
from gankd.stages.sections import ClassifierConfig
from gankd.store.artifact import Artifact
from methods.rgal.config import SynthesisConfig
from methods.rgal_incremental.accuracy import accuracies, picture, summary
from methods.rgal_incremental.config import StudentConfig
from methods.rgal_incremental.growing import put_in_order
from methods.rgal_incremental.loop import RealImages, TaskLoop
from methods.rgal_incremental.replay import Replay
from methods.rgal_incremental.tasks import images_of, task_data, tasks_of

CLASSES = "classes.json"  # of an artifact: the data's number of each output


def train_first(ctx: Context, cfg: ClassifierConfig, data: DataSet, student: Selection) -> dict[str, float]:
    """A classifier of the first task's classes, which knows of no others. Makes a saved network and classes.json."""
    classes = tasks_of(student.tasks, data)[0]
    seen = task_data(data, classes, 1)
    metrics = fit_classifier(ctx, cfg, seen, build_classifier(cfg, seen))
    (ctx.out / CLASSES).write_text(json.dumps(classes))
    return metrics


def train_finetuning(ctx: Context, cfg: StudentConfig, data: DataSet, first: Artifact) -> dict[str, float]:
    """The floor: the new classes' images and nothing else. As `train_student`."""
    return fit(ctx, RealImages(ctx, cfg, data, load_network(first, ctx.device), joint=False))


def train_joint(ctx: Context, cfg: StudentConfig, data: DataSet, first: Artifact) -> dict[str, float]:
    """The bound: the real images of all classes so far. As `train_student`."""
    return fit(ctx, RealImages(ctx, cfg, data, load_network(first, ctx.device), joint=True))


def train_host(ctx: Context, cfg: StudentConfig, data: DataSet, synthesis: Selection, first: Artifact) -> dict[str, float]:
    """The control: the host's losses on synthetic images, without RGAL's relations. As `train_student`."""
    making = SynthesisConfig(**synthesis.model_dump(), triplet=0.0, relation_mode="off")
    return fit(ctx, Replay(ctx, cfg, data, load_network(first, ctx.device), making, relate=False))


def train_student(
    ctx: Context, cfg: StudentConfig, data: DataSet, synthesis: SynthesisConfig, first: Artifact
) -> dict[str, float]:
    """The host with RGAL's relations. Makes a network of all classes, in the data's order; after_task_2, ... are the networks
    before, each with its classes.json; accuracies.npy float64 (T, T): row t, after task t; of tasks to come 0."""
    return fit(ctx, Replay(ctx, cfg, data, load_network(first, ctx.device), synthesis, relate=True))


def fit(ctx: Context, training: TaskLoop) -> dict[str, float]:
    """Train to the end and save what is there after each task; the last validation metrics and the number of parameters."""
    metrics = train(ctx, training, steps=training.steps, batch=2 * training.cfg.batch)
    for task in range(1, len(training.tasks) - 1):
        folder = ctx.out / f"after_task_{task + 1}"
        models.save(training.after(task), folder)
        (folder / CLASSES).write_text(json.dumps(training.order[: training.classes_after(task)]))
    matrix = np.zeros((len(training.tasks),) * 2)
    for place, row in enumerate(training.matrix):
        matrix[place, : len(row)] = row
    np.save(ctx.out / "accuracies.npy", matrix)
    put_in_order(training.network, training.order)
    keep_classifier(ctx, training.network, training.data)
    ctx.basis[""]["tasks"] = [sorted(task) for task in training.tasks]
    return metrics | {"parameters": float(sum(p.numel() for p in training.network.parameters()))}


def test_tasks(ctx: Context, cfg: Section, data: DataSet, first: Artifact, **trained: Artifact) -> dict[str, float]:
    """A test stage: accuracy after the last task, its average over tasks, and forgetting, on the test part."""
    (made,) = trained.values()
    folders = [first.path, *sorted(made.path.glob("after_task_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))]
    known = [json.loads((folder / CLASSES).read_text()) for folder in folders] + [list(range(data.classes or 0))]
    tasks = [sorted(set(now) - set(before)) for before, now in pairwise([[], *known])]
    task_of = {number: place for place, task in enumerate(tasks) for number in task}
    rows = []
    for folder, classes in zip([*folders, made.path], known, strict=True):
        network = models.load(folder).to(ctx.device)
        images = Resident(images_of(data.test, classes), ctx.device)
        rows.append(accuracies(ctx, network, images, [task_of[number] for number in classes]))
    ctx.basis[""] = {"network": network.recipe, "tasks": tasks}
    ctx.image("accuracy_matrix", picture(rows, len(rows)))
    counts = [int(np.isin(data.test.labels, task).sum()) for task in tasks]
    return {f"test_{name}": value for name, value in summary(rows, counts).items()}
