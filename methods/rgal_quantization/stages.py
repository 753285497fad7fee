"""What is made: the quantized teacher, calibrated only, and trained without data, with RGAL's terms and without."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from gankd.config import Section, Selection
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident, normalise
from gankd.engine import evaluating
from gankd.stages.classifier import keep_classifier, load_network
from gankd.stages.task import task_of
from gankd.store.artifact import Artifact
from methods.rgal.config import SynthesisConfig
from methods.rgal.stages import fit, keep_images
from methods.rgal.teacher_check import check_teacher
from methods.rgal_quantization.config import QuantizedConfig, QuantizerConfig
from methods.rgal_quantization.int8 import kernels_here, stored_bytes, with_int8_kernels
from methods.rgal_quantization.networks import fold, following, quantize
from methods.rgal_quantization.training import QuantizedAlternation

TIMED_IMAGES, TIMED_RUNS = 100, 20


def calibrate_on_noise(ctx: Context, cfg: QuantizerConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """Post-training quantization without data: the ranges of the activations are those of uniform noise."""
    shape = (cfg.calibration_images, data.image_channels, data.image_size, data.image_size)
    rng = ctx.rng(0, "noise")
    noise = torch.randint(256, shape, generator=rng, device=rng.device, dtype=torch.uint8)
    return calibrate(ctx, cfg, data, teacher, normalise(noise))


def calibrate_on_images(ctx: Context, cfg: QuantizerConfig, data: DataSet, teacher: Artifact) -> dict[str, float]:
    """Post-training quantization with real training images: a bound for comparison, not data-free."""
    images, rng = Resident(data.train, ctx.device), ctx.rng(0, "images")
    chosen = torch.randperm(len(images), generator=rng, device=rng.device)[: cfg.calibration_images]
    return calibrate(ctx, cfg, data, teacher, images.take(chosen)[0])


def calibrate(ctx: Context, cfg: QuantizerConfig, data: DataSet, teacher: Artifact, images: Tensor) -> dict[str, float]:
    """Quantize the teacher and give its activations the ranges that these images (N, C, H, W) in [-1, 1] have in it."""
    network = quantize(load_network(teacher, ctx.device), cfg)
    with evaluating(network), following(network, 0.0):
        network(images)
    keep_classifier(ctx, network, data)
    task = task_of(data)
    found = {f"val_{task.metric}": task.measure(network, Resident(data.val, ctx.device), ctx)}
    return found | {"parameters": float(sum(p.numel() for p in network.parameters()))}


def train_student(
    ctx: Context, cfg: QuantizedConfig, data: DataSet, synthesis: SynthesisConfig, teacher: Artifact, ptq_noise: Artifact
) -> dict[str, float]:
    """RGAL: rounds of images out of the teacher that confuse the quantized network, and of its training on them."""
    return train(ctx, cfg, data, synthesis, teacher, ptq_noise)


def train_without_relations(
    ctx: Context, cfg: QuantizedConfig, data: DataSet, synthesis: Selection, teacher: Artifact, ptq_noise: Artifact
) -> dict[str, float]:
    """The control, GDFQ's losses: images by their label and the statistics alone; the same rounds, steps and start."""
    alone = SynthesisConfig(**synthesis.model_dump(), adv=0.0, triplet=0.0)
    return train(ctx, cfg.model_copy(update={"custom_share": 0.0}), data, alone, teacher, ptq_noise)


def train(
    ctx: Context, cfg: QuantizedConfig, data: DataSet, synthesis: SynthesisConfig, teacher: Artifact, start: Artifact
) -> dict[str, float]:
    """Makes the quantized network, and a part of the pool: images.npy uint8, labels.npy.

    No training image is read: `data` gives the shape of images, the number of classes, and validation images to evaluate on.
    """
    full: Any = load_network(teacher, ctx.device)
    teacher_val_accuracy = check_teacher(ctx, full, data, cfg.teacher_floor)
    training = QuantizedAlternation(ctx, cfg, data, full, synthesis, load_network(start, ctx.device))
    metrics = fit(ctx, training, data)
    keep_images(ctx, training.pool)
    return metrics | {"teacher_val_accuracy": teacher_val_accuracy}


def measure_int8(ctx: Context, cfg: Section, data: DataSet, teacher: Artifact, student: Artifact) -> dict[str, float]:
    """What the bits save: bytes of student and teacher. Speed on this CPU's int8 kernels, where it has them, is a note."""
    full, network = load_network(teacher), load_network(student)
    sizes = {"bytes": float(stored_bytes(network)), "teacher_bytes": float(stored_bytes(full))}
    ctx.note(f"the quantized student takes {sizes['bytes'] / 1000:,.1f} kB, the teacher {sizes['teacher_bytes'] / 1000:,.1f} kB")
    if not kernels_here():
        ctx.note("this CPU has no int8 kernels of torch's, so that the student's speed was not measured")
        return sizes
    fast, validation = with_int8_kernels(network), Resident(data.val)
    images = validation.take(torch.arange(min(TIMED_IMAGES, len(validation))))[0].contiguous(memory_format=torch.channels_last)
    fold(full)
    seconds = {"fp32": seconds_of(full, images), "int8": seconds_of(fast, images)}
    accuracy = task_of(data).measure(fast, validation)
    ctx.log({f"{name}_seconds": value for name, value in seconds.items()}, 0)
    ctx.note(
        f"{len(images)} images take {1000 * seconds['int8']:.2f} ms on int8 kernels and {1000 * seconds['fp32']:.2f} ms in fp32 "
        f"(the teacher, batch norm folded; {torch.get_num_threads()} threads); validation accuracy on them: {accuracy:.2f} %"
    )
    return sizes


@torch.no_grad()
def seconds_of(network: Any, images: Tensor) -> float:
    """The quickest of `TIMED_RUNS` passes."""
    passes = []
    for _ in range(TIMED_RUNS):
        since = time.perf_counter()
        network(images)
        passes.append(time.perf_counter() - since)
    return min(passes)
