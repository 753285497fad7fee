"""What RGAL trains: the student, by rounds of synthesis and distillation, and the control on images of noise."""

from __future__ import annotations

import numpy as np
import torch

from gankd.context import Context
from gankd.data import DataSet
from gankd.engine import train
from gankd.stages.classifier import keep_classifier, load_network
from gankd.store.artifact import Artifact
from methods.rgal.alternation import Alternation, NoiseTraining, RoundTraining
from methods.rgal.config import StudentConfig, SynthesisConfig
from methods.rgal.pool import Pool
from methods.rgal.teacher_check import check_teacher

KEPT_IMAGES = 10_000  # of the pool, in the artifact


def train_student(
    ctx: Context, cfg: StudentConfig, data: DataSet, synthesis: SynthesisConfig, teacher: Artifact
) -> dict[str, float]:
    """RGAL, or with other weights CMI. Makes the student, and a part of the pool: images.npy uint8, labels.npy.

    No training image is read: `data` gives the shape of images, the number of classes, and validation images to evaluate on.
    """
    network = load_network(teacher, ctx.device)
    teacher_val_accuracy = check_teacher(ctx, network, data, cfg.teacher_floor)
    training = Alternation(ctx, cfg, data, network, synthesis)
    metrics = fit(ctx, training, data)
    keep_images(ctx, training.pool)
    return metrics | {"teacher_val_accuracy": teacher_val_accuracy}


def train_on_noise(ctx: Context, cfg: StudentConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """The control: the same student, the same number of updates, images of uniform noise. Makes the student."""
    network = load_network(teacher, ctx.device)
    teacher_val_accuracy = check_teacher(ctx, network, data, cfg.teacher_floor)
    metrics = fit(ctx, NoiseTraining(ctx, cfg, data, network), data)
    return metrics | {"teacher_val_accuracy": teacher_val_accuracy}


def fit(ctx: Context, training: RoundTraining, data: DataSet) -> dict[str, float]:
    """Train to the end and save the student; its last validation metrics and its number of parameters."""
    metrics = train(ctx, training, steps=training.steps, batch=training.cfg.batch)
    keep_classifier(ctx, training.student, data)
    return metrics | {"parameters": float(sum(p.numel() for p in training.student.parameters()))}


def keep_images(ctx: Context, pool: Pool) -> None:
    """Save images of the pool, evenly over its age."""
    chosen = torch.linspace(0, len(pool) - 1, min(len(pool), KEPT_IMAGES)).round().long()
    np.save(ctx.out / "images.npy", pool.images.cpu()[chosen].numpy())
    np.save(ctx.out / "labels.npy", pool.labels.cpu()[chosen].numpy())
