"""Batches from a part of a data set: kept as uint8 where it is used, drawn, flipped, cropped and normalised as a batch.

One image at a time in Python costs more than the training step of a small network; here a batch is a handful of array
operations. Every draw is made for the global batch and a worker takes its slice, so their number changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gankd.data.dataset import Split
from gankd.data.views import flip_and_crop, viewed
from gankd.errors import UserError


def normalise(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]; 0 becomes -1 and 255 becomes 1, exactly."""
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Tensor, *, truncate: bool = False) -> Tensor:
    """Images in [-1, 1] -> uint8 0..255, to the nearest level; truncated as references do, half a level too dark."""
    levels = (images * 0.5 + 0.5) * 255
    return (levels if truncate else levels.round()).clamp(0, 255).to(torch.uint8)


class Resident:
    """A part of a data set, ready to draw batches from.

    On an accelerator the uint8 images live on the device, up to `limit_bytes`; beyond that, and on the CPU, they stay
    where they are (in memory or a memory map) and only the rows of a batch are read.

    Args:
        split: images uint8 (N, C, H, W) and labels (N,).
        device: where batches are wanted.
        flip: mirror each image left to right with probability 1/2.
        crop_padding: pixels of black border from which a crop of the original size is cut at random; 0 does not crop.
        limit_bytes: largest array that is kept on an accelerator.
    """

    def __init__(
        self,
        split: Split,
        device: torch.device | str = "cpu",
        *,
        flip: bool = False,
        crop_padding: int = 0,
        limit_bytes: int = 4 << 30,
    ) -> None:
        if not len(split):
            raise UserError("there are no images to draw batches from")
        self.device = torch.device(device)
        self.view = flip_and_crop(flip, crop_padding)
        self.labels = torch.tensor(split.labels, device=self.device)
        self._host = np.asarray(split.images)
        self._resident: Tensor | None = None
        if self.device.type != "cpu" and self._host.nbytes <= limit_bytes:
            self._resident = torch.tensor(self._host, device=self.device)
        self._order: tuple[tuple[int, int], Tensor] | None = None
        self._by_class: tuple[Tensor, Tensor, Tensor, list[int]] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, n: int, rng: torch.Generator, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """This worker's share of a global batch of `n` images, drawn uniformly with replacement.

        Returns:
            images float32 (n / world, C, H, W) in [-1, 1] and labels (n / world,), on the device.
        """
        index = torch.randint(len(self), (n,), generator=rng, device=rng.device)
        return self.take(index, rng, rank, world)

    def batch_for(self, labels: Tensor, rng: torch.Generator, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """One random image for each class in `labels` int64 (n,), the global batch. UserError for an empty class."""
        order, start, count, absent = self._class_index(rng.device)
        wanted = labels.to(rng.device)
        if absent or (wanted.device.type == "cpu" and int(wanted.max()) >= len(count)):
            missing = [label for label in wanted.unique().tolist() if label >= len(count) or label in absent]
            if missing:
                raise UserError(f"class {missing[0]} has no image to draw from")
        # float64: the product stays below count for every class size that fits in memory.
        place = torch.rand(len(wanted), generator=rng, device=rng.device, dtype=torch.float64)
        index = order[start[wanted] + (place * count[wanted]).long()]
        return self.take(index, rng, rank, world)

    def epoch_batch(
        self, step: int, n: int, rng: torch.Generator | None, seed: int, rank: int = 0, world: int = 1
    ) -> tuple[Tensor, Tensor]:
        """Global batch number `step` of a walk through the images in which every pass shows each image exactly once.

        The walk is one random permutation after another, permutation e drawn by (seed, e); a batch takes the next `n`
        images, across the end of a pass where need be. It is a function of `step`, so a resumed run continues it.
        `rng` augments; None leaves the images as they are.
        """
        return self.take(self.walk(step, n, seed), rng, rank, world)

    def walk(self, step: int, n: int, seed: int) -> Tensor:
        """The indices of `epoch_batch`, int64 (n,), of all workers."""
        parts, position, wanted = [], step * n, n
        while wanted:
            epoch, place = divmod(position, len(self))
            parts.append(self._permutation(seed, epoch)[place : place + wanted])
            position, wanted = position + len(parts[-1]), wanted - len(parts[-1])
        return torch.cat(parts)

    def steps_for(self, epochs: float, n: int) -> int:
        """Steps of `n` images after which `epochs` passes are complete."""
        return -int(-epochs * len(self) // n)

    def in_order(self, n: int, rank: int = 0, world: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, as they are, in batches of `n` (the last may be smaller); a worker gets every `world`-th."""
        for start in range(rank * n, len(self), world * n):
            yield self.take(torch.arange(start, min(start + n, len(self))))

    def take(self, index: Tensor, rng: torch.Generator | None = None, rank: int = 0, world: int = 1) -> tuple[Tensor, Tensor]:
        """This worker's share of the images at `index` (int64 (n,), the global batch), augmented if `rng` is given.

        An index that occurs twice gives two independent views. Draws: flips, then crop offsets, for all n.
        """
        n = len(index)
        if n % world:
            raise UserError(f"a batch of {n} cannot be split evenly over {world} workers; choose a multiple of {world}")
        mine = slice(rank * n // world, (rank + 1) * n // world)
        index = index[mine]
        images = self._rows(index)
        if rng is not None:
            images = viewed(self.view, images, rng, mine, n)
        return normalise(images), self.labels[index.to(self.device)]

    def _rows(self, index: Tensor) -> Tensor:
        """uint8 images at `index`, a fresh array on the device."""
        if self._resident is not None:
            return self._resident[index.to(self.device)]
        rows = torch.from_numpy(self._host[index.cpu().numpy()])
        if self.device.type == "cuda":
            return rows.pin_memory().to(self.device, non_blocking=True)
        return rows.to(self.device)

    def _permutation(self, seed: int, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != (seed, epoch):
            hashed = hashlib.blake2b(f"{seed}/{epoch}".encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(hashed, "little") >> 1)
            # Drawn on the CPU: the same order on every device.
            order = torch.randperm(len(self), generator=generator)
            self._order = (seed, epoch), order.to(self.device if self._resident is not None else "cpu")
        return self._order[1]

    def _class_index(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor, list[int]]:
        """Image indices sorted by class, the first place and the number of each class there, and the empty classes."""
        if self._by_class is None or self._by_class[0].device != device:
            labels = self.labels.cpu()
            count = labels.bincount()
            absent = (count == 0).nonzero().flatten().tolist()
            tensors = (labels.argsort(stable=True), count.cumsum(0) - count, count)
            order, start, count = (tensor.to(device) for tensor in tensors)
            self._by_class = order, start, count, absent
        return self._by_class
