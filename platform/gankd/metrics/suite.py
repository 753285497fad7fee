"""One pass of an extractor over images, then every metric from what it left.

    real = measure(extractor, batches of real images, count)          # once for a data set
    fake = measure(extractor, batches of generated images, count)
    suite(real, fake, cfg, extractor.name)                            # {"fid_classifier": 12.3, ...}

FID and the inception score see every image in constant memory. What compares pairs, and intra-FID, sees the first `keep`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from gankd.errors import StageFailed
from gankd.metrics.extractors import Extractor
from gankd.metrics.frechet import classwise_frechet, covariance_factor, frechet_distance, frechet_distance_of_few
from gankd.metrics.inception_score import InceptionScore
from gankd.metrics.kernel import gaussian_mmd, kernel_distance, mean_squared_distance
from gankd.metrics.manifold import manifold_metrics
from gankd.metrics.moments import Moments
from gankd.metrics.pairs import Pairs
from gankd.metrics.spread import spread

if TYPE_CHECKING:
    from gankd.context import Context

KEEP = 10_000
SPLITS = 10
UNLABELLED = -1  # in place of a label, of images that belong to no class
Batches = Iterable[tuple[Tensor, Tensor]]  # images uint8 or in [-1, 1] (B, C, H, W), labels int64 (B,)


class Settings(Protocol):
    """What the metrics want to know; `gankd.stages.sections.QualityConfig` is one."""

    @property
    def neighbours(self) -> int: ...
    @property
    def kid_subsets(self) -> int: ...
    @property
    def kid_subset_size(self) -> int: ...
    @property
    def kmmd_sigma(self) -> float: ...
    @property
    def kmmd_bandwidth(self) -> float | None: ...


@dataclass(frozen=True)
class Features:
    """What one pass leaves of a set of images.

    Attributes:
        moments: of all features. score: of all logits; None where the extractor has none.
        rows: features (m, d) of the first m = min(count, keep) images, as the network gave them; labels: theirs, int64 (m,).
        right: how many images the extractor classifies as labelled; None where its classes are not the data's.
    """

    moments: Moments
    score: InceptionScore | None
    rows: Tensor
    labels: Tensor
    right: int | None = None

    @property
    def count(self) -> int:
        return self.moments.count

    @property
    def unlabelled(self) -> bool:
        """Whether the images belong to no class."""
        return bool((self.labels == UNLABELLED).all())

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
        return Features(moments, score, self.rows.to(device), self.labels.to(device), self.right)

    def save(self, file: Path) -> None:
        from safetensors.torch import save_file

        m, s = self.moments, self.score
        right = -1 if self.right is None else self.right
        tensors = {"mean": m.mean, "scatter": m.scatter, "rows": self.rows, "labels": self.labels}
        if s:
            tensors |= {"probabilities": s.probabilities, "negentropies": s.negentropies}
        tensors["counts"] = torch.tensor([m.count, s.size if s else 0, right])
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, file)

    @classmethod
    def load(cls, file: Path) -> Features:
        from safetensors.torch import load_file

        tensors = load_file(file)
        count, size, right = tensors["counts"].tolist()
        score = InceptionScore(size, tensors["probabilities"], tensors["negentropies"]) if size else None
        moments = Moments(count, tensors["mean"], tensors["scatter"])
        return cls(moments, score, tensors["rows"], tensors["labels"], None if right < 0 else right)


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
        if start < keep:
            kept.append((start, features[: keep - start], labels[: keep - start]))
    if ctx:
        first_bad = min(ctx.gather(first_bad))
    if math.isfinite(first_bad):
        where = f"{ctx.stage}: " if ctx else ""
        raise StageFailed(f"{where}image {first_bad} has pixels or {extractor.name} features that are not finite numbers")
    return _collected(extractor, count, Features(moments, score, *_rows(kept, extractor, ctx), right), seen, ctx)


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
    numbers = torch.tensor([seen, own.right or 0], dtype=torch.float64, device=extractor.device)
    if ctx:
        own.moments.reduce(ctx.sum)
        if own.score:
            own.score.reduce(ctx.sum)
        ctx.sum(numbers)
    if numbers[0] != count:
        raise ValueError(f"{int(numbers[0])} images came where {count} were to come")
    return replace(own, right=int(numbers[1]) if extractor.knows_labels else None)


def fid(real: Features, fake: Features) -> float:
    """FID of all images seen; the factor of the real side is kept for the next."""
    return frechet_distance(real.moments, fake.moments, real.covariance_factor)


def intra_fid(real: Features, fake: Features) -> dict[int, float]:
    """Class -> FID between its real and its generated images, for classes with two of each."""
    return classwise_frechet(real.rows, real.labels, fake.rows, fake.labels)


def suite(real: Features, fake: Features, cfg: Settings, name: str) -> dict[str, float]:
    """All metrics of `fake` against `real`, named `<metric>_<name>`.

    fid; intra_fid (mean over classes) with intra_fid_max; kid and kid_std; kmmd (the reference's bandwidth), mmd2_u (the same
    kernel, unbiased) and, for a given bandwidth, kmmd_fixed; precision, recall, density, coverage (as many fakes as reals);
    spread (1 = the fakes of a class differ as the real ones do); from logits is and is_std; class_accuracy in percent where
    the extractor knows the data's classes.
    """
    found = {"fid": fid(real, fake)}
    if by_class := list(intra_fid(real, fake).values()):
        found |= {"intra_fid": sum(by_class) / len(by_class), "intra_fid_max": max(by_class)}
    rr, ff, rf = real.pairs, fake.pairs, Pairs(real.rows, fake.rows)
    found["kid"], found["kid_std"] = kernel_distance(rr, ff, rf, cfg.kid_subsets, cfg.kid_subset_size)
    bandwidth = cfg.kmmd_sigma**2 * mean_squared_distance(real.rows)
    found["kmmd"], found["mmd2_u"] = gaussian_mmd(rr, ff, rf, bandwidth)
    if cfg.kmmd_bandwidth:
        found["kmmd_fixed"], _ = gaussian_mmd(rr, ff, rf, cfg.kmmd_bandwidth)
    found |= _manifold(real, fake, rr, ff, rf, cfg.neighbours)
    ratio = None if fake.unlabelled else spread((real.rows, real.labels), (fake.rows, fake.labels))
    if ratio is not None:
        found["spread"] = ratio
    if fake.score:
        found["is"], found["is_std"] = fake.score.mean_and_std()
    if fake.right is not None:
        found["class_accuracy"] = 100 * fake.right / fake.count
    return {f"{metric}_{name}": value for metric, value in found.items()}


def _manifold(real: Features, fake: Features, rr: Pairs, ff: Pairs, rf: Pairs, k: int) -> dict[str, float]:
    n = min(len(real.rows), len(fake.rows))
    if len(real.rows) == len(fake.rows):
        return manifold_metrics(rr, ff, rf, k)
    # The larger set is in random order, so its first images are as good as any.
    a, b = real.rows[:n], fake.rows[:n]
    rr, ff = (pairs if pairs.shape[0] == n else Pairs(rows) for pairs, rows in ((rr, a), (ff, b)))
    return manifold_metrics(rr, ff, Pairs(a, b), k)


def real_side(real: Features, name: str) -> dict[str, float]:
    """What the real images themselves score: the floor of FID (between their two halves) and the ceiling of the score."""
    found, half = {}, len(real.rows) // 2
    if half >= 2:
        few = half <= real.moments.dim
        a, b = real.rows[:half], real.rows[half : 2 * half]
        found[f"fid_floor_{name}"] = frechet_distance_of_few(a, b) if few else frechet_distance(Moments.of(a), Moments.of(b))
    if real.score:
        found[f"is_{name}"] = real.score.mean_and_std()[0]
    return found


def cautions(real: Features, fake: Features, name: str) -> list[str]:
    """A sentence for every way in which there are too few images for a metric."""
    dim, said = real.moments.dim, []
    for what, features in (("real", real), ("generated", fake)):
        if features.count <= dim:
            said.append(
                f"fid_{name}: {features.count} {what} images for {dim} features; its bias is large, compare at equal counts"
            )
        elif features.count < 10 * dim:
            said.append(
                f"fid_{name}: {features.count} {what} images are fewer than 10 for each of {dim} features; KID is less biased"
            )
    if fake.unlabelled:
        return said
    fewest = min([*real.class_counts().values(), *fake.class_counts().values()], default=0)
    if fewest < 5 * dim:
        said.append(f"intra_fid_{name}: a class has only {fewest} images, fewer than 5 for each of {dim} features")
    return said
