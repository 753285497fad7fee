"""A discriminator's update with a teacher against one without: what distilling costs.

    PYTHONPATH=platform:. python benchmarks/kd_cost.py [--preset digits] [--threads 1] [--repeats 40] [--sees clean|augmented]

Both sides start from the same networks and take turns. With `clean` the features of the real images come from the store, with
`augmented` the teacher sees every image. The teacher is the small one of the preset, untrained: its weights cost nothing more.
Random images of the preset's size stand for the data. Prints the medians and `ratio: with / without`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gankd.config import build_config, read_preset, with_knobs
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.registry import find_method
from gankd.stages.generator import build_gan, gan_training
from gankd.store import Store
from methods.kd_dlgan.config import KdDlganConfig, form
from methods.kd_dlgan.distillation import KdTraining, Knowledge
from methods.kd_dlgan.prompts import text_features
from methods.kd_dlgan.stages import build_teacher, kd_head, numbered

SIZES = {"digits": (8, 1), "smoke": (8, 1)}  # px, channels; of all others 32 px in colour


def random_data(size: int, channels: int, images: int = 100) -> DataSet:
    rng = np.random.default_rng(0)
    part = Split(rng.integers(0, 256, (images, channels, size, size), np.uint8), np.arange(images) % 10)
    return DataSet("random", part, part, part, 10, tuple("0123456789"), "", None, "random")


def sides(preset: str, sees: str, ctx: Context) -> tuple[Any, KdTraining]:
    spec = find_method("kd_dlgan")
    tree = with_knobs(read_preset(spec.presets, preset), {"kd.sees": sees, "gan.flip": False, "kd.pd": 0})
    cfg: KdDlganConfig = build_config(KdDlganConfig, tree)
    data = random_data(*SIZES.get(preset, (32, 3)))
    torch.manual_seed(0)
    plain = gan_training(ctx, cfg.gan, cfg.gan.g_lr, *build_gan(cfg.gan, data), data.train)
    torch.manual_seed(0)
    networks = build_gan(cfg.gan, data)
    teacher = build_teacher(ctx, cfg.teacher, data).eval().requires_grad_(False)
    table = teacher.encode_image(torch.tensor(data.train.images).float() / 127.5 - 1)
    known = Knowledge(
        text_features(teacher, cfg.kd, data.class_names),
        table if form(cfg.kd, "sees") == "clean" else None,
        table.mean(0),
        torch.tensor(data.train.labels),
    )
    head = kd_head(ctx, cfg.gan, cfg.kd, networks[1], teacher.embed_dim)
    joined = {"discriminator": {"kd_head": head}}
    distilling: Any = gan_training(ctx, cfg.gan, cfg.gan.g_lr, *networks, data.train, kind=KdTraining, joined=joined)
    distilling.real_batch = numbered(Resident(data.train), False, ctx)
    distilling.distil(cfg.kd, teacher, known, head)
    distilling.gates = distilling.orders = torch.Generator()
    return plain, distilling


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--sees", choices=("clean", "augmented"), default="clean")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        ctx = Context("gan", "key", 0, Path(folder), Store(folder), torch.device("cpu"))
        both = sides(args.preset, args.sees, ctx)
        seconds: tuple[list[float], list[float]] = [], []
        for step in range(args.repeats + 3):
            for training, taken in zip(both, seconds, strict=True):
                start = time.perf_counter()
                training.update_discriminator(step, ctx.rng(step))
                taken.append(time.perf_counter() - start)
    without, with_teacher = (statistics.median(taken[3:]) for taken in seconds)
    print(f"preset {args.preset}, teacher sees {args.sees} images, {args.threads} threads")
    print(f"without {without * 1000:.1f} ms, with {with_teacher * 1000:.1f} ms")
    print(f"ratio: with / without {with_teacher / without:.2f}")


if __name__ == "__main__":
    main()
