"""ReviewKD: each map of the teacher teaches the student's map of its size and all smaller ones, fused from below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen, pairs, shape

WIDEST = 512
POOLED = (4, 2, 1)


def hierarchical_context(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """HCL (Chen et al. 2021): MSE of maps of equal shapes, and of them averaged to 4, 2 and 1 px with halving weights.

    For each pair the weighted mean over the sizes below its own; summed over the pairs.
    """
    losses = []
    for s, t in zip(student, teacher, strict=True):
        loss, weight, total = F.mse_loss(s, t), 1.0, 1.0
        for size in POOLED:
            if size < s.shape[2]:
                weight /= 2
                total += weight
                loss = loss + weight * F.mse_loss(F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size))
        losses.append(loss / total)
    return torch.stack(losses).sum()


class Fusion(nn.Module):
    """ABF: a student's map mixed with the residual from below by two attention maps, then brought to the teacher's shape."""

    def __init__(self, channels: int, middle: int, out_channels: int, *, fuse: bool) -> None:
        super().__init__()
        narrow, out = nn.Conv2d(channels, middle, 1, bias=False), nn.Conv2d(middle, out_channels, 3, padding=1, bias=False)
        for conv in (narrow, out):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        self.narrow = nn.Sequential(narrow, nn.BatchNorm2d(middle))
        self.out = nn.Sequential(out, nn.BatchNorm2d(out_channels))
        self.attend = nn.Sequential(nn.Conv2d(2 * middle, 2, 1), nn.Sigmoid()) if fuse else None

    def forward(self, maps: Tensor, residual: Tensor | None, size: int) -> tuple[Tensor, Tensor]:
        """(map of the teacher's shape, residual for the next larger map), both `size` px wide."""
        maps = self.narrow(maps)
        if self.attend is not None and residual is not None:
            residual = F.interpolate(residual, maps.shape[2:], mode="nearest")
            weights = self.attend(torch.cat([maps, residual], 1))
            maps = maps * weights[:, :1] + residual * weights[:, 1:]
        if maps.shape[2] != size:
            maps = F.interpolate(maps, (size, size), mode="nearest")
        return self.out(maps), maps


class Review(KdLoss):
    """ReviewKD (Chen et al. 2021): HCL between fused maps of the student and the teacher's maps, pooled features at the end."""

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        levels = [(shape(s)[0], shape(t)[0]) for s, t in self.levels(student, teacher)]
        middle = min(WIDEST, levels[0][0])
        self.fusions = nn.ModuleList([Fusion(s, middle, t, fuse=i > 0) for i, (s, t) in enumerate(levels)])

    @staticmethod
    def levels(student: Seen, teacher: Seen) -> list[tuple[Tensor, Tensor]]:
        """Both networks' features as 1 px maps, then the pairs of maps from the smallest to the largest."""
        return [(student.features[:, :, None, None], teacher.features[:, :, None, None]), *reversed(pairs(student, teacher))]

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        fused, residual = [], None
        levels = self.levels(student, teacher)
        for fusion, (s, t) in zip(self.fusions, levels, strict=True):
            out, residual = fusion(s, residual, t.shape[2])
            fused.append(out)
        return hierarchical_context(fused, [t for _, t in levels])
