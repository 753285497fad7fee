"""One step of Squeeze & Span from the pool, against generating anew for each step, and against the plainest correct loop.

    PYTHONPATH=platform:. python benchmarks/squeeze_span_step.py [--recipe squeeze_span] [--batch 32] [--threads 1] [--repeats 3]

The paper's networks at 32 px: StyleGAN2's "cifar" configuration (45 % of the work of a step of squeeze and span, 71 % of one of
the squeeze alone), ResNet-18, 2048 numbers; random weights and images, which cost the same. The plain loop generates anew, keeps
the generator's maps and averages them afterwards, augments one image after the other with torchvision, and cuts the diagonal out
of a covariance matrix by a mask. All take turns from the same weights. Prints medians of seconds and the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from gankd import models
from gankd.config import build_config
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.registry import find_method
from gankd.store import Store
from methods.squeeze_span.config import SqueezeSpanConfig, form
from methods.squeeze_span.pool import Pool, Rows, fill
from methods.squeeze_span.pretraining import Pretraining, Source
from methods.squeeze_span.stages import build_encoder, pretraining
from methods.squeeze_span.teacher import Generated, Teacher

SIZE, POOL = 32, 256


def random_data(images: int = 256) -> DataSet:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 3, SIZE, SIZE), np.uint8)
    part = Split(pixels, np.arange(images) % 10)
    return DataSet("random", part, part, part, 10, tuple("0123456789"), "", None, "random")


def ours(ctx: Context, cfg: Any, data: DataSet, teacher: Teacher, source: Source) -> Pretraining:
    torch.manual_seed(0)
    return pretraining(ctx, cfg, data, build_encoder(cfg, data), teacher, source, None)


class PlainLoop:
    """The same algorithm as one would write it first."""

    def __init__(self, training: Pretraining, generator: Any, data: DataSet) -> None:
        self.cfg, self.student, self.squeeze = training.cfg, training.student, training.modules["squeeze"]
        self.generator, self.data, self.optimizer = generator, data, training.sgd()
        self.maps: list[Tensor] = []
        for block in generator.teaching_blocks():
            block.register_forward_hook(lambda module, inputs, output: self.maps.append(output[0]))
        jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        crop = v2.RandomResizedCrop(SIZE, scale=(0.2, 1.0), antialias=True)
        self.view = v2.Compose([crop, jitter, v2.RandomGrayscale(0.2), v2.RandomHorizontalFlip()])

    def augmented(self, images: Tensor) -> Tensor:
        return torch.stack([self.view(image) for image in images]) * 2 - 1

    def step(self, step: int) -> None:
        cfg, alpha = self.cfg, form(self.cfg, "alpha")
        n = cfg.generated
        self.maps = []
        with torch.no_grad():
            generated = self.generator(torch.randn(n, self.generator.dim_z), noise="random").clamp(-1, 1) / 2 + 0.5
        features = [maps.mean((2, 3)) for maps in self.maps]
        z, target = self.student(self.augmented(generated)), self.squeeze(features)
        loss = self.terms(z, target, [z])
        if real := cfg.batch - n:
            index = np.random.default_rng(step).integers(0, len(self.data.train), real)
            images = torch.from_numpy(self.data.train.images[index]) / 255
            one, other = self.student(self.augmented(images)), self.student(self.augmented(images))
            loss = alpha * loss + (1 - alpha) * self.terms(one, other, [one, other])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @staticmethod
    def terms(one: Tensor, other: Tensor, regularised: list[Tensor]) -> Tensor:
        loss = 25 * F.mse_loss(one, other)
        for z in regularised:
            loss = loss + 25 * F.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
            centred = z - z.mean(0)
            covariance = centred.T @ centred / (len(z) - 1)
            loss = loss + covariance[~torch.eye(z.shape[1], dtype=torch.bool)].square().sum() / z.shape[1]
        return loss


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe", default="squeeze_span")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    find_method("squeeze_span")  # names its networks
    knobs = {"recipe": args.recipe, "batch": args.batch, "precision": "fp32"}
    cfg, data = build_config(SqueezeSpanConfig, {"encoder": knobs}).encoder, random_data()
    generator = models.build("stylegan2", image_size=SIZE)
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context("encoder", "key", 0, Path(folder), Store(folder), torch.device("cpu"))
        teacher = Teacher(generator)
        fill(ctx, teacher, POOL, 32)
        rows = Rows(*(np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in ("images", "features", "latents")))
        pooled = ours(ctx, cfg, data, teacher, Pool(ctx, rows, teacher.widths).draw)

        def anew(n: int, step: int) -> Generated:
            return teacher.generate(n, ctx.rng(step, "fresh"))

        fresh = ours(ctx, cfg, data, teacher, anew)
        plain_generator: nn.Module = models.build("stylegan2", image_size=SIZE).eval()
        plain = PlainLoop(ours(ctx, cfg, data, teacher, anew), plain_generator, data)
        sides: dict[str, Callable[[int], object]] = {
            "pool": lambda step: pooled.step(step, ctx.rng(step)),
            "anew": lambda step: fresh.step(step, ctx.rng(step)),
            "plain": plain.step,
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for step in range(args.repeats + 1):
            for name, work in sides.items():
                start = time.perf_counter()
                work(step)
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(taken[1:]) for name, taken in seconds.items()}
    print(f"{args.recipe}, batch {args.batch}, {args.threads} threads")
    print(f"from the pool {median['pool']:.2f} s, generating anew {median['anew']:.2f} s, plain loop {median['plain']:.2f} s")
    print(f"ratio: anew / pool {median['anew'] / median['pool']:.2f}, plain / pool {median['plain'] / median['pool']:.2f}")


if __name__ == "__main__":
    main()
