"""One epoch of RGAL, WRN-40-2 -> WRN-16-1 at 32 px: ours against the plainest correct loop, at equal numbers of steps.

    python benchmarks/rgal_epoch.py [--batch 16] [--steps 4] [--rounds 2] [--threads 1] [--repeats 2]

An epoch is `rounds` rounds of `steps` generator steps and as many student steps. The plain loop is written from the same
formulas the way one writes it first: a pool of PNG files that every batch is read from, one crop at a time in Python, hooks
that also fire in distillation, gradients of the frozen networks' weights, a list of triplets, numbers fetched at every step.
The plain loop computes in fp32. Ours is measured in fp32 and with `precision=bf16`, which a CPU with AMX or AVX512-BF16 gains
from: prints the seconds of all, the ratio in fp32, and `ratio: plain / ours` in bf16. No Ray.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.stages.sections import Precision
from gankd.store import Store
from methods.rgal.alternation import Alternation
from methods.rgal.config import StudentConfig, SynthesisConfig
from methods.rgal.networks import InversionGenerator

CLASSES, SIZE, PADDING = 10, 32, 4


class Plain:
    """The plainest correct loop."""

    def __init__(self, folder: Path, batch: int, steps: int, rounds: int, teacher: Any, student: Any) -> None:
        self.folder, self.batch, self.steps, self.rounds = folder, batch, steps, rounds
        self.teacher, self.student = teacher, student
        self.files: list[Path] = []
        self.statistics: list[Tensor] = []
        for layer in teacher.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_hook(self.look)
        widths = [(16, 32), (32, 64), (64, 128)]
        self.adapters = nn.ModuleList(nn.Conv2d(s, t, 1) for s, t in widths)
        parameters = [*student.parameters(), *self.adapters.parameters()]
        self.optimizer = torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4)
        self.losses: list[float] = []

    def look(self, layer: Any, inputs: Any, _: Any) -> None:
        x = inputs[0]
        mean, var = x.mean((0, 2, 3)), x.transpose(0, 1).reshape(x.shape[1], -1).var(1, correction=0)
        self.statistics.append((layer.running_var - var).norm() + (layer.running_mean - mean).norm())

    def epoch(self) -> None:
        for turn in range(self.rounds):
            self.synthesise(turn)
            for _ in range(self.steps):
                self.distil()

    def synthesise(self, turn: int) -> None:
        self.student.eval()
        generator = InversionGenerator(256, 64, SIZE, 3)
        z = torch.randn(2 * self.batch, 256, requires_grad=True)
        labels = torch.randint(CLASSES, (len(z),)).sort().values
        optimizer = torch.optim.Adam([*generator.parameters(), z], 1e-3, betas=(0.5, 0.999))
        best, kept = float("inf"), None
        for _ in range(self.steps):
            self.statistics.clear()
            images = generator(z)
            view = torch.stack([self.crop(image) for image in images])
            teacher, _, _ = self.teacher.outputs(view)
            prior = torch.stack(self.statistics).sum() + F.cross_entropy(teacher, labels)
            student, _, blocks = self.student.outputs(view)
            kl = F.kl_div(F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="none", log_target=True).sum(1)
            adversarial = -(kl * (student.argmax(1) == teacher.argmax(1))).mean()
            total = prior + adversarial + 0.1 * triplets(blocks[2:4], teacher, teacher.argmax(1), (0.5, 1.0), 0.0, -1)
            if prior.item() < best:
                best, kept = prior.item(), images.detach()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            self.losses.append(total.item())
        assert kept is not None
        for i, image in enumerate(kept):
            path = self.folder / f"{turn}-{i}.png"
            Image.fromarray(((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(path)
            self.files.append(path)

    def crop(self, image: Tensor) -> Tensor:
        y, x = random.randint(0, 2 * PADDING), random.randint(0, 2 * PADDING)
        view = F.pad(image, (PADDING,) * 4, value=-1.0)[:, y : y + SIZE, x : x + SIZE]
        return view.flip(-1) if random.random() < 0.5 else view

    def distil(self) -> None:
        self.student.train()
        read = [Image.open(path) for path in random.sample(self.files, self.batch)]
        images = [torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 127.5 - 1 for image in read]
        view = torch.stack([self.crop(image) for image in images + images])
        self.statistics.clear()
        with torch.no_grad():
            teacher, _, theirs = self.teacher.outputs(view)
        student, features, ours = self.student.outputs(view)
        kd = 400 * F.kl_div(F.log_softmax(student / 20, 1), F.softmax(teacher / 20, 1), reduction="batchmean")
        cd = sum(
            F.mse_loss(adapt(s).mean((2, 3)), t.mean((2, 3))) for adapt, s, t in zip(self.adapters, ours, theirs, strict=True)
        )
        gathered = triplets([features], student, teacher.argmax(1), (-1.0, 1.4), 0.5, 1)
        total = kd + 0.1 * cd + 0.1 * gathered
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        self.losses.append(total.item())


def triplets(
    features: list[Tensor], logits: Tensor, labels: Tensor, window: tuple[float, float], floor: float, sign: int
) -> Tensor:
    """The relation term as a list of triplets, drawn one at a time."""
    unit = F.normalize(logits.detach(), dim=1)
    distance = (unit[:, None] - unit[None]).norm(dim=2).clamp(min=floor)
    log_weight = (2 - CLASSES) * distance.clamp(min=1e-6).log() - (CLASSES - 3) / 2 * (1 - distance**2 / 4).clamp(min=1e-12).log()
    losses = []
    for a in range(len(labels)):
        different = labels != labels[a]
        allowed = different & (distance[a] > window[0]) & (distance[a] < window[1])
        if not different.any():
            continue
        weight = torch.where(allowed, log_weight[a], -torch.inf).softmax(0) if allowed.any() else different.float()
        for q in torch.nonzero(labels == labels[a]).flatten().tolist():
            if q != a:
                losses.append((a, q, int(torch.multinomial(weight, 1))))
    if not losses:
        return torch.zeros(())
    a, q, n = torch.tensor(losses).t()
    total = torch.zeros(())
    for feature in features:
        rows = F.normalize(feature.mean((2, 3)) if feature.dim() == 4 else feature, dim=1)
        total = (
            total + F.relu(sign * (F.pairwise_distance(rows[a], rows[q]) - F.pairwise_distance(rows[a], rows[n])) + 0.2).mean()
        )
    return total


def networks() -> tuple[Any, Any]:
    torch.manual_seed(0)
    return models.build("wrn_40_2", classes=CLASSES).eval(), models.build("wrn_16_1", classes=CLASSES)


def ours(folder: Path, arguments: argparse.Namespace, precision: Precision) -> tuple[float, float]:
    """Seconds of our epoch, and its last loss."""
    store, teacher = Store(folder), networks()[0].requires_grad_(False)
    ctx = Context("student", "student-key", 0, folder, store, torch.device("cpu"))
    part = Split(np.zeros((4, 3, SIZE, SIZE), np.uint8), np.zeros(4, np.int64))
    data = DataSet("none", part, part, part, CLASSES, tuple("0123456789"), "", None, "")
    synthesis = SynthesisConfig(batch=2 * arguments.batch, g_steps=arguments.steps, precision=precision)
    cfg = StudentConfig(batch=arguments.batch, rounds=arguments.rounds, kd_steps=arguments.steps, precision=precision)
    training = Alternation(ctx, cfg, data, teacher, synthesis)
    training.step(0, ctx.rng(0))  # both start warm
    started = time.perf_counter()
    for step in range(training.steps):
        metrics = training.step(step, ctx.rng(step))
    return time.perf_counter() - started, float(metrics["loss_distillation"])


def plain(folder: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Seconds of the plain epoch, and its last loss."""
    loop = Plain(folder, arguments.batch, arguments.steps, arguments.rounds, *networks())
    warm = Plain(folder, 2, 1, 1, *networks())
    warm.synthesise(99)
    started = time.perf_counter()
    loop.epoch()
    return time.perf_counter() - started, loop.losses[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("batch", 16), ("steps", 4), ("rounds", 2), ("threads", 1), ("repeats", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    epochs: dict[str, Any] = {
        "plain": plain,
        "ours, fp32": partial(ours, precision="fp32"),
        "ours, bf16": partial(ours, precision="bf16"),
    }
    seconds: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(arguments.repeats):  # taking turns, so that a busy moment meets all
        for name, epoch in epochs.items():
            with tempfile.TemporaryDirectory() as folder:
                taken, loss = epoch(Path(folder), arguments)
            seconds[name].append(taken)
            print(f"{name}: {taken:.1f} s, last distillation loss {loss:.2f}", flush=True)
    best = {name: min(taken) for name, taken in seconds.items()}
    print(f"in fp32: {best['plain'] / best['ours, fp32']:.2f}")
    print(f"ratio: {best['plain'] / best['ours, bf16']:.2f}")


if __name__ == "__main__":
    main()
