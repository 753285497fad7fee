"""One pass of an extractor over images, then every metric from what it left.

    real = measure(extractor, batches of real images, count)          # once for a data set
    fake = measure(extractor, batches of generated images, count)
    suite(real, fake, cfg, extractor.name)                            # {"fid_classifier": 12.3, ...}

FID and the inception score see every image in constant memory. What compares pairs, and intra-FID, sees the first `keep`.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from gankd.metrics.features import Features
from gankd.metrics.frechet import classwise_frechet, frechet_distance, frechet_distance_of_few
from gankd.metrics.kernel import gaussian_mmd, kernel_distance, mean_squared_distance
from gankd.metrics.manifold import manifold_metrics
from gankd.metrics.moments import Moments
from gankd.metrics.pairs import Pairs
from gankd.metrics.spread import spread
from gankd.metrics.windows import Windows, windowed_frechet, windowed_spread


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


@runtime_checkable
class WindowSettings(Protocol):
    """What is measured by window wants to know; `gankd.stages.sections.ContinuousQualityConfig` is one."""

    @property
    def windows(self) -> int: ...
    @property
    def window_radius(self) -> float | None: ...


def windows_of(real: Features, cfg: Settings) -> Windows | None:
    """The windows of labels by which images are compared with these; None where labels are classes, or `cfg` tells none."""
    if not real.continuous or not isinstance(cfg, WindowSettings):
        return None
    return Windows.over(real.labels, cfg.windows, cfg.window_radius)


def fid(real: Features, fake: Features) -> float:
    """FID of all images seen; the factor of the real side is kept for the next."""
    return frechet_distance(real.moments, fake.moments, real.covariance_factor)


def intra_fid(real: Features, fake: Features) -> dict[int, float]:
    """Class -> FID between its real and its generated images, for classes with two of each; none where labels are numbers."""
    return {} if real.continuous else classwise_frechet(real.rows, real.labels, fake.rows, fake.labels)


def sfid(real: Features, fake: Features, windows: Windows) -> dict[float, float]:
    """Centre of a window of labels -> FID between its real and its generated images, for windows with two of each."""
    return windowed_frechet((real.rows, real.labels), (fake.rows, fake.labels), windows)


def suite(real: Features, fake: Features, cfg: Settings, name: str) -> dict[str, float]:
    """All metrics of `fake` against `real`, named `<metric>_<name>`.

    fid; intra_fid (mean over classes) with intra_fid_max, or where labels are numbers sfid (mean over windows of labels) with
    sfid_max; kid and kid_std; kmmd (the reference's bandwidth), mmd2_u (the same kernel, unbiased) and, for a given bandwidth,
    kmmd_fixed; precision, recall, density, coverage (as many fakes as reals); spread (1 = the fakes of a class or window differ
    as the real ones do); from logits is and is_std; class_accuracy in percent where the extractor knows the data's classes; where
    it tells the data's numbers label_score, how far the labels are from what it answers, on average and in their unit.
    """
    windows = None if fake.unlabelled else windows_of(real, cfg)
    found = {"fid": fid(real, fake)}
    name_of_part, by_part = ("sfid", sfid(real, fake, windows)) if windows else ("intra_fid", intra_fid(real, fake))
    if distances := list(by_part.values()):
        found |= {name_of_part: sum(distances) / len(distances), f"{name_of_part}_max": max(distances)}
    rr, ff, rf = real.pairs, fake.pairs, Pairs(real.rows, fake.rows)
    found["kid"], found["kid_std"] = kernel_distance(rr, ff, rf, cfg.kid_subsets, cfg.kid_subset_size)
    bandwidth = cfg.kmmd_sigma**2 * mean_squared_distance(real.rows)
    found["kmmd"], found["mmd2_u"] = gaussian_mmd(rr, ff, rf, bandwidth)
    if cfg.kmmd_bandwidth:
        found["kmmd_fixed"], _ = gaussian_mmd(rr, ff, rf, cfg.kmmd_bandwidth)
    found |= _manifold(real, fake, rr, ff, rf, cfg.neighbours)
    if (ratio := _spread(real, fake, windows)) is not None:
        found["spread"] = ratio
    if fake.score:
        found["is"], found["is_std"] = fake.score.mean_and_std()
    if fake.right is not None:
        found["class_accuracy"] = 100 * fake.right / fake.count
    if fake.off is not None:
        found["label_score"] = fake.off / fake.count
    return {f"{metric}_{name}": value for metric, value in found.items()}


def _spread(real: Features, fake: Features, windows: Windows | None) -> float | None:
    sides = (real.rows, real.labels), (fake.rows, fake.labels)
    if windows:
        return windowed_spread(*sides, windows)
    return None if fake.unlabelled or real.continuous else spread(*sides)


def _manifold(real: Features, fake: Features, rr: Pairs, ff: Pairs, rf: Pairs, k: int) -> dict[str, float]:
    n = min(len(real.rows), len(fake.rows))
    if len(real.rows) == len(fake.rows):
        return manifold_metrics(rr, ff, rf, k)
    # The larger set is in random order, so its first images are as good as any.
    a, b = real.rows[:n], fake.rows[:n]
    rr, ff = (pairs if pairs.shape[0] == n else Pairs(rows) for pairs, rows in ((rr, a), (ff, b)))
    return manifold_metrics(rr, ff, Pairs(a, b), k)


def real_side(real: Features, name: str) -> dict[str, float]:
    """What the real images themselves score: the floor of FID (between their two halves), the ceiling of the inception score,
    and where the extractor tells numbers its own error on them, the floor of the label score."""
    found, half = {}, len(real.rows) // 2
    if half >= 2:
        few = half <= real.moments.dim
        a, b = real.rows[:half], real.rows[half : 2 * half]
        found[f"fid_floor_{name}"] = frechet_distance_of_few(a, b) if few else frechet_distance(Moments.of(a), Moments.of(b))
    if real.score:
        found[f"is_{name}"] = real.score.mean_and_std()[0]
    if real.off is not None:
        found[f"label_score_{name}"] = real.off / real.count
    return found


def cautions(real: Features, fake: Features, name: str, windows: Windows | None = None) -> list[str]:
    """A sentence for every way in which there are too few images for a metric; `windows`: those that `suite` looks at."""
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
    if real.continuous:
        return said + (_window_cautions(real, fake, name, windows) if windows else [])
    fewest = min([*real.class_counts().values(), *fake.class_counts().values()], default=0)
    if fewest < 5 * dim:
        said.append(f"intra_fid_{name}: a class has only {fewest} images, fewer than 5 for each of {dim} features")
    return said


def _window_cautions(real: Features, fake: Features, name: str, windows: Windows) -> list[str]:
    fewer = torch.minimum(*(windows.counts(side.labels) for side in (real, fake)))
    used, said = fewer[fewer >= 2], list[str]()
    if len(used) < len(fewer):
        said.append(
            f"sfid_{name}: {len(fewer) - len(used)} of {len(fewer)} windows of labels have fewer than 2 images and are left out; "
            "set quality.windows or quality.window_radius"
        )
    if len(used) and int(used.min()) < 5 * real.moments.dim:
        few = int(used.min())
        said.append(f"sfid_{name}: a window has only {few} images, fewer than 5 for each of {real.moments.dim} features")
    return said
