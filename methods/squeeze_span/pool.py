"""A pool of generated images with their features, drawn once and kept, in place of generating anew for each step.

A pooled feature is all that a squeeze module reads, for averaging over space commutes with its linear layers. An image at 32 px
takes 3 KB, its features, in bfloat16, 4 KB.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd.context import Context
from gankd.data.augment import normalise, to_uint8
from gankd.store.artifact import Artifact
from methods.squeeze_span.checks import check_memory
from methods.squeeze_span.teacher import Generated, Teacher

IMAGES, FEATURES, LATENTS = "images.npy", "features.npy", "latents.npy"
LIMIT_BYTES = 8 << 30  # largest pool that is kept on an accelerator
CHUNK = 10_000  # rows at a time, where all are read


@dataclass
class Rows:
    """K images with their features: uint8 (K, C, H, W), and bfloat16 as the int16 of the same bits, (K, sum of C_i) and (K, W).

    numpy's arrays, or tensors on an accelerator.
    """

    images: Any
    features: Any
    latents: Any

    @classmethod
    def empty(cls, folder: Path, count: int, like: Generated) -> Rows:
        """Files of `count` rows in `folder`, to be filled."""

        def array(name: str, dtype: type, *shape: int) -> np.ndarray:
            return np.lib.format.open_memmap(folder / name, "w+", dtype, (count, *shape))

        width = sum(each.shape[1] for each in like.features)
        return cls(
            array(IMAGES, np.uint8, *like.images.shape[1:]),
            array(FEATURES, np.int16, width),
            array(LATENTS, np.int16, like.latent.shape[1]),
        )

    @classmethod
    def of(cls, artifact: Artifact) -> Rows:
        """A pool's files, memory-mapped."""
        return cls(*(artifact.array(name) for name in (IMAGES, FEATURES, LATENTS)))

    def all(self) -> tuple[Any, Any, Any]:
        return self.images, self.features, self.latents

    def put(self, rows: Any, made: Generated) -> None:
        """Write what was made to these rows."""
        new = to_uint8(made.images), bits(torch.cat(made.features, 1)), bits(made.latent)
        for kept, values in zip(self.all(), new, strict=True):
            kept[rows] = values.to(kept.device) if isinstance(kept, Tensor) else values.cpu().numpy()


def bits(values: Tensor) -> Tensor:
    """Numbers as bfloat16, its bits as int16."""
    return values.bfloat16().view(torch.int16)


def numbers(kept: Tensor) -> Tensor:
    """The other way, float32."""
    return kept.view(torch.bfloat16).float()


def fill(ctx: Context, teacher: Teacher, count: int, batch: int) -> None:
    """Draw the pool into files of the stage; the first worker does, whose files are kept."""
    rows = None
    if ctx.rank:
        return
    for number, start in enumerate(range(0, count, batch)):
        made = teacher.generate(min(batch, count - start), ctx.rng(number, "pool"))
        if rows is None:
            check_memory(
                count, made.images[0].numel() + 2 * (sum(each.shape[1] for each in made.features) + made.latent.shape[1])
            )
            rows = Rows.empty(ctx.out, count, made)
        rows.put(slice(start, start + len(made.images)), made)
        ctx.progress(start + len(made.images), count)


class Pool:
    """Batches from a pool, of which a share is renewed each epoch.

    Which rows an epoch renews, and by what, follows from its number, so a resumed run makes again what it had: each row once.

    Args:
        widths: channels of each map, by which the features are cut.
        renew: share of the pool that an epoch of `steps_an_epoch` replaces. teacher: what makes new images; a pool that stays
            needs none.
    """

    def __init__(
        self, ctx: Context, rows: Rows, widths: Sequence[int], renew: float = 0.0, teacher: Teacher | None = None,
        steps_an_epoch: int = 1, batch: int = 256,
    ) -> None:  # fmt: skip
        self.ctx, self.widths, self.teacher, self.batch = ctx, list(widths), teacher, batch
        self.steps_an_epoch = steps_an_epoch
        self.count, self.epoch = len(rows.images), 0
        self.renewed = max(1, round(renew * self.count)) if renew else 0
        size = sum(array.nbytes for array in rows.all())
        if ctx.device.type != "cpu" and size <= LIMIT_BYTES:
            rows = Rows(*(torch.tensor(np.asarray(array), device=ctx.device) for array in rows.all()))
        elif self.renewed:
            rows = Rows(*(np.array(array) for array in rows.all()))
        self.rows = rows

    def at_epoch(self, epoch: int) -> None:
        """Bring the pool to where it is in `epoch`, which never falls."""
        if not self.renewed or epoch <= self.epoch:
            return
        lasting = -(-self.count // self.renewed)  # what was renewed earlier has been replaced since
        for number in range(max(self.epoch, epoch - lasting) + 1, epoch + 1):
            self._renew(number)
        self.epoch = epoch

    def _renew(self, epoch: int) -> None:
        assert self.teacher is not None
        rows, rng = np.arange((epoch - 1) * self.renewed, epoch * self.renewed) % self.count, self.ctx.rng(epoch, "renewal")
        for start in range(0, len(rows), self.batch):
            part = rows[start : start + self.batch]
            self.rows.put(part, self.teacher.generate(len(part), rng))

    def draw(self, n: int, step: int) -> Generated:
        """This worker's part of `n` images drawn from the pool for `step`, on the context's device."""
        ctx = self.ctx
        self.at_epoch(step // self.steps_an_epoch)
        index = torch.randint(self.count, (n,), generator=ctx.rng(step, "from the pool", device="cpu"))
        index = index.chunk(ctx.world_size)[ctx.rank]
        images, features, latents = (self._at(array, index) for array in self.rows.all())
        return Generated(normalise(images), list(numbers(features).split(self.widths, 1)), numbers(latents))

    def _at(self, array: Any, index: Tensor) -> Tensor:
        if isinstance(array, Tensor):
            return array[index.to(array.device, non_blocking=True)]
        return torch.from_numpy(array[index.numpy()]).to(self.ctx.device, non_blocking=True)


def statistics(kept: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and deviation (> 0) of each column of a pool's features or latents, (W,)."""
    total = squares = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(kept), CHUNK):
        part = numbers(torch.from_numpy(np.array(kept[start : start + CHUNK]))).double()
        total, squares = total + part.sum(0), squares + part.square().sum(0)
    mean = total / len(kept)
    deviation = (squares / len(kept) - mean.square()).clamp(min=1e-12).sqrt()
    return mean.float().to(device), deviation.float().to(device)
