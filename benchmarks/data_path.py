"""Training batches: gankd's Resident against torchvision transforms on Pillow images in a DataLoader.

Both make batches of 128 CIFAR-sized images with a random crop (4 pixels of black border), a random flip and
normalisation to [-1, 1]. The figure is images per CPU-second, over this process and its workers; the baseline is the
better of 0 and 2 workers, their start-up not counted. Prints `ratio: X`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import numpy as np
import psutil
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from gankd.data.augment import Resident
from gankd.data.dataset import Split

IMAGES, BATCH, SIZE, PADDING = 20_000, 128, 32, 4
WARM_UP, REPEATS = 10, 3


def cpu_seconds() -> float:
    """CPU time used so far by this process and its living children (loader workers), user and system."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def images_per_cpu_second(batches: Iterator[tuple[torch.Tensor, torch.Tensor]], count: int) -> float:
    for images, _ in islice(batches, WARM_UP):
        assert images.shape == (BATCH, 3, SIZE, SIZE)
        assert images.dtype == torch.float32
    start = cpu_seconds()
    made = sum(len(images) for images, _ in islice(batches, count))
    return made / (cpu_seconds() - start)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """As torchvision's CIFAR10: an array of images, each made a Pillow image and transformed when asked for."""

    def __init__(self, split: Split) -> None:
        self.images, self.labels = np.ascontiguousarray(split.images.transpose(0, 2, 3, 1)), split.labels.tolist()
        half = (0.5, 0.5, 0.5)
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIZE, PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(half, half, inplace=True),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), self.labels[i]


def ours(split: Split) -> float:
    data = Resident(split, flip=True, crop_padding=PADDING)

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        step = 0
        while True:  # as a stage does: one generator a step
            rng = torch.Generator().manual_seed(step)
            yield data.epoch_batch(step, BATCH, rng, seed=0)
            step += 1

    return images_per_cpu_second(batches(), 1000)


def loader(split: Split, workers: int) -> float:
    made = iter(DataLoader(Pictures(split), BATCH, shuffle=True, drop_last=True, num_workers=workers))
    return images_per_cpu_second(made, 60)


def main() -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (IMAGES, 3, SIZE, SIZE), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, IMAGES))
    fast = max(ours(split) for _ in range(REPEATS))
    slow = {workers: max(loader(split, workers) for _ in range(REPEATS)) for workers in (0, 2)}
    print(f"Resident: {fast:,.0f} images per CPU-second (1 thread of {os.cpu_count()} cores)")
    for workers, rate in slow.items():
        print(f"torchvision + DataLoader, {workers} workers: {rate:,.0f} images per CPU-second")
    print(f"ratio: {fast / max(slow.values()):.1f}")


if __name__ == "__main__":
    main()
