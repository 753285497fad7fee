"""One pass of an extractor over images, and what it leaves of them for the metrics."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gankd.errors import StageFailed
from gankd.metrics.extractors import Extractor
from gankd.metrics.frechet import covariance_factor
from gankd.metrics.inception_score import InceptionScore
from gankd.metrics.moments import Moments
from gankd.metrics.pairs import Pairs

if TYPE_CHECKING:
    from gankd.context import Context

KEEP = 10_000
SPLITS = 10
UNLABELLED = -1  # in place of a label, of images that belong to no class
# Images uint8 or in [-1, 1] (B, C, H, W); labels (B,): classes, int64, or numbers in the data's unit.
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Features:
    """What one pass leaves of a set of images.

    Attributes:
        moments: of all features. score: of all logits; None where the extractor has none.
        rows: features (m, d) of the first m = min(count, keep) images, as the network gave them; labels: theirs (m,), classes,
            int64, or numbers in the data's unit.
        right: how many images the extractor classifies as labelled; None where its classes are not the data's.
        off: sum of how far its answers are from the labels, in the data's unit; None where it tells no numbers.
    """

    moments: Moments
    score: InceptionScore | None
    rows: Tensor
    labels: Tensor
    right: int | None = None
    off: float | None = None

    @property
    def count(self) -> int:
        return self.moments.count

    @property
    def unlabelled(self) -> bool:
        """Whether the images belong to no class."""
        return not self.continuous and bool((self.labels == UNLABELLED).all())

    @property
    def continuous(self) -> bool:
        """Whether the labels are numbers, not classes."""
        return self.labels.is_floating_point()

    @cached_property
    def covariance_factor(self) -> Tensor:
        return covariance_factor(self.moments.covariance)

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(self.rows)

    def class_counts(self) -> dict[int, int]:
        """Class -> number among the rows."""
        labels, counts = self.labels.unique(return_counts=True)
        return dict(zip(labels.tolist(), counts.tolist()))

    def of_classes(self, classes: Iterable[int]) -> Features:
        """The kept images of these classes alone, without a score."""
        mine = torch.isin(self.labels, torch.tensor(list(classes), device=self.labels.device))
        return Features(Moments.of(self.rows[mine]), None, self.rows[mine], self.labels[mine])

    def to(self, device: torch.device | str) -> Features:
        m, s = self.moments, self.score
        moments = Moments(m.count, m.mean.to(device), m.scatter.to(device))
        score = s and InceptionScore(s.size, s.probabilities.to(device), s.negentropies.to(device))
        return Features(moments, score, self.rows.to(device), self.labels.to(device), self.right, self.off)

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        m, s = self.moments, self.score
        right = -1 if self.right is None else self.right
        tensors = {"mean": m.mean, "scatter": m.scatter, "rows": self.rows, "labels": self.labels}
        if s:
            tensors |= {"probabilities": s.probabilities, "negentropies": s.negentropies}
        if self.off is not None:
            tensors["off"] = torch.tensor(self.off, dtype=torch.float64)
        tensors["counts"] = torch.tensor([m.count, s.size if s else 0, right])
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)

    @classmethod
    def load(cls, file: Path) -> Features:
        from safetensors.torch import load_file

        tensors = load_file(file)
        count, size, right = tensors["counts"].tolist()
        score = InceptionScore(size, tensors["probabilities"], tensors["negentropies"]) if size else None
        moments = Moments(count, tensors["mean"], tensors["scatter"])
        off = float(tensors["off"]) if "off" in tensors else None
        return cls(moments, score, tensors["rows"], tensors["labels"], None if right < 0 else right, off)


@torch.no_grad()
def measure(
    extractor: Extractor,
    images: Batches,
    count: int,
    *,
    keep: int = KEEP,
    splits: int = SPLITS,
    ctx: Context | None = None,
) -> Features:
    """One pass over exactly `count` images; what comes after is not used.

    With several workers (`ctx`), each gives every `world_size`-th batch of one global sequence, all batches but the last of
    one size (`Resident.in_order` does); every worker gets the same result. Images in random order of class, for the score.

    Raises StageFailed, on all workers, naming the first image whose pixels or features are not finite.
    """
    device = extractor.device
    moments = Moments.empty(extractor.feature_dim, device)
    score = InceptionScore.empty(count, extractor.classes, splits, device) if extractor.classes else None
    kept: list[tuple[int, Tensor, Tensor]] = []
    right, first_bad, seen = 0, math.inf, 0
    off = torch.zeros((), dtype=torch.float64, device=device)
    for start, batch, labels in _numbered(images, count, ctx):
        features, logits = extractor(batch.to(device))
        labels = labels.to(device)
        seen += len(labels)
        if (bad := _first_not_finite(batch, features)) is not None:
            first_bad = min(first_bad, start + bad)
            continue
        moments.update(features)
        if logits is not None and score is not None:
            score.update(logits, start)
            right += int((logits.argmax(1) == labels).sum())
        if extractor.answers is not None and logits is not None:
            off += (extractor.answers(logits).double() - labels).abs().sum()
        if start < keep:
            kept.append((start, features[: keep - start], labels[: keep - start]))
    if ctx:
        first_bad = min(ctx.gather(first_bad))
    if math.isfinite(first_bad):
        where = f"{ctx.stage}: " if ctx else ""
        raise StageFailed(f"{where}image {first_bad} has pixels or {extractor.name} features that are not finite numbers")
    return _collected(extractor, count, Features(moments, score, *_rows(kept, extractor, ctx), right, float(off)), seen, ctx)


def _numbered(images: Batches, count: int, ctx: Context | None) -> Iterator[tuple[int, Tensor, Tensor]]:
    """This worker's batches with the place of their first image in the global sequence, cut to `count`."""
    rank, world = (ctx.rank, ctx.world_size) if ctx else (0, 1)
    batches = iter(images)
    first = next(batches, None)
    size = len(first[1]) if first else 0
    if ctx and world > 1:
        size = max(ctx.gather(size))  # a worker may have the last, smaller batch only
    place = rank * size
    for batch, labels in itertools.chain([first] if first else [], batches):
        if place >= count:
            return
        yield place, batch[: count - place], labels[: count - place]
        place += len(labels) + (world - 1) * size


def _first_not_finite(images: Tensor, features: Tensor) -> int | None:
    """Index in the batch of the first image with a pixel or a feature that is NaN or infinite."""
    fine = features.isfinite().all(1)
    if images.is_floating_point():
        fine &= images.to(fine.device).isfinite().flatten(1).all(1)
    return None if bool(fine.all()) else int((~fine).nonzero()[0])


def _rows(kept: list[tuple[int, Tensor, Tensor]], extractor: Extractor, ctx: Context | None) -> tuple[Tensor, Tensor]:
    """The kept features and labels of all workers, in the order of the global sequence."""
    if ctx and ctx.world_size > 1:
        parts = ctx.gather([(start, rows.cpu(), labels.cpu()) for start, rows, labels in kept])
        kept = sorted(itertools.chain(*parts), key=lambda part: part[0])
    if not kept:
        none = torch.zeros(0, extractor.feature_dim, device=extractor.device)
        return none, none[:, 0].long()
    rows, labels = torch.cat([rows for _, rows, _ in kept]), torch.cat([labels for _, _, labels in kept])
    return rows.to(extractor.device), labels.to(extractor.device)


def _collected(extractor: Extractor, count: int, own: Features, seen: int, ctx: Context | None) -> Features:
    """What all workers have seen together. ValueError when that is less than was promised."""
    numbers = torch.tensor([seen, own.right or 0, own.off or 0.0], dtype=torch.float64, device=extractor.device)
    if ctx:
        own.moments.reduce(ctx.sum)
        if own.score:
            own.score.reduce(ctx.sum)
        ctx.sum(numbers)
    if numbers[0] != count:
        raise ValueError(f"{int(numbers[0])} images came where {count} were to come")
    right, off = (int(numbers[1]) if extractor.knows_labels else None), (float(numbers[2]) if extractor.answers else None)
    return replace(own, right=right, off=off)
