"""Of images whose labels are numbers, what is measured window by window: what classes are elsewhere.

A window holds the images whose label lies within a radius of its centre; neighbouring windows may share images (CcGAN's
sliding FID, Ding et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gankd.metrics.frechet import frechet_distance_between
from gankd.metrics.spread import Labelled, spread_of_groups

# Of a range of labels: how wide a window is where nobody says, and how far rounding may put a label beyond an edge.
DEFAULT_RADIUS, EDGE = 1 / 20, 1e-6


@dataclass(frozen=True)
class Windows:
    """Windows of labels.

    Attributes:
        centres: (w,), float64, increasing. radius: of all of them, in the labels' unit; both edges belong to a window.
        edge: how far beyond an edge a label may lie by rounding.
    """

    centres: Tensor
    radius: float
    edge: float = 0.0

    @classmethod
    def over(cls, labels: Tensor, count: int, radius: float | None = None) -> Windows:
        """`count` windows, evenly spaced and whole, over the range of labels (N,); a twentieth of it is the default radius.

        A radius of 0 with as many windows as there are labels, evenly spaced, gives each label a window of its own.
        """
        low, high = (float(end) for end in labels.double().aminmax())
        radius = (high - low) * DEFAULT_RADIUS if radius is None else radius
        centres = torch.linspace(low + radius, max(low + radius, high - radius), count, dtype=torch.float64)
        return cls(centres.to(labels.device), radius, EDGE * (high - low))

    def inside(self, labels: Tensor) -> Tensor:
        """(w, N): which windows hold which of these labels (N,)."""
        return (labels.double() - self.centres[:, None]).abs() <= self.radius + self.edge

    def counts(self, labels: Tensor) -> Tensor:
        """Labels in each window, int64 (w,)."""
        return self.inside(labels).sum(1)

    def parts(self, features: Tensor, labels: Tensor) -> list[Tensor]:
        """The rows of features (N, d) that lie in each window by their labels (N,)."""
        return [features[mine] for mine in self.inside(labels)]


def windowed_frechet(real: Labelled, fake: Labelled, windows: Windows) -> dict[float, float]:
    """Centre -> Frechet distance between the real and generated features of the window (SFID is the mean of these).

    Windows with fewer than two images on either side are left out.
    """
    parts = zip(windows.centres.tolist(), windows.parts(*real), windows.parts(*fake), strict=True)
    return {centre: frechet_distance_between(a, b) for centre, a, b in parts if min(len(a), len(b)) >= 2}


def windowed_spread(real: Labelled, fake: Labelled, windows: Windows) -> float | None:
    """As `gankd.metrics.spread.spread`, within windows in place of classes."""
    return spread_of_groups(windows.parts(*real), windows.parts(*fake))
