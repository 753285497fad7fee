"""Knowledge in feature maps, compared without anything that trains: AT, NST, FSP, KDSVD, and the distances of AB and FT.

Maps are (N, c, h, w). Where two differ in size, the larger is averaged down to the smaller.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the size of the smaller one."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    return F.adaptive_avg_pool2d(one, size), F.adaptive_avg_pool2d(other, size)


def energy(maps: Tensor) -> Tensor:
    """The mean of the squares over the channels, as a row of length 1: (N, h w)."""
    return F.normalize(maps.square().mean(1).flatten(1), dim=1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """AT (Zagoruyko, Komodakis 2017): the mean squared difference of the energies of two maps."""
    student, teacher = same_size(student, teacher)
    return F.mse_loss(energy(student), energy(teacher))


def factors(student: Tensor, teacher: Tensor) -> Tensor:
    """FT (Kim et al. 2018): the mean absolute difference of the energies of two factors."""
    student, teacher = same_size(student, teacher)
    return F.l1_loss(energy(student), energy(teacher))


def boundaries(student: Tensor, teacher: Tensor, margin: float = 1.0) -> Tensor:
    """AB (Heo et al. 2019): squared hinge that puts the student's responses on the teacher's side of 0, 3/1000 per image.

    Both maps are of one shape. Of the teacher only the sign counts, which is the same before and after a ReLU.
    """
    hinge = torch.where(teacher > 0, F.relu(margin - student), F.relu(margin + student))
    return 3 / 1000 * hinge.square().sum() / len(student)


def _likeness(one: Tensor, other: Tensor) -> Tensor:
    """The mean over all pairs of channels and images of the squared inner product of rows (N, c, h w)."""
    return (one @ other.transpose(1, 2)).square().mean()


def selectivity(student: Tensor, teacher: Tensor) -> Tensor:
    """NST (Huang, Wang 2017): MMD^2 with the kernel (x y)^2 between channels, each a row of length 1; any number of them."""
    s, t = (F.normalize(maps.flatten(2), dim=2) for maps in same_size(student, teacher))
    return _likeness(t, t) + _likeness(s, s) - 2 * _likeness(s, t)


def flow(first: Tensor, second: Tensor) -> Tensor:
    """The FSP matrix of two maps of a network: inner products of their channels over space, (N, c_first, c_second)."""
    first, second = same_size(first, second)
    return first.flatten(2) @ second.flatten(2).transpose(1, 2) / first[0, 0].numel()


def solution_flow(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """FSP (Yim et al. 2017): mean squared differences of the FSP matrices of neighbouring maps, summed over the neighbours."""
    matrices = [[flow(*neighbours) for neighbours in pairwise(maps)] for maps in (student, teacher)]
    return torch.stack([F.mse_loss(s, t) for s, t in zip(*matrices, strict=True)]).sum()


class Eigenvectors(torch.autograd.Function):
    """Eigenvectors (N, c, c) of symmetric matrices, by rising eigenvalue, whose gradient stays finite.

    Exactly, 1 / (l_j - l_i) stands in it, which has no bound where eigenvalues meet; here d / (d^2 + 1e-6) of the difference d.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrices)
        ctx.save_for_backward(values, vectors)
        ctx.mark_non_differentiable(values)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, _: Any, gradient: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        difference = values[:, None, :] - values[:, :, None]
        inner = difference / (difference.square() + 1e-6) * (vectors.transpose(1, 2) @ gradient)
        full = vectors @ inner @ vectors.transpose(1, 2)
        return (full + full.transpose(1, 2)) / 2


def principal(maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest singular values, as a row of length 1 (N, count), and channel patterns (N, c, count) of maps."""
    rows = maps.flatten(2)
    gram = rows @ rows.transpose(1, 2)
    scale = gram.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-12)
    values, vectors = Eigenvectors.apply(gram / scale[:, None, None])
    count = min(count, vectors.shape[2])
    strengths = F.normalize(values.detach().flip(1)[:, :count].clamp(min=0).sqrt(), dim=1)
    return strengths, vectors.flip(2)[:, :, :count]


def _aligned(student: Tensor, teacher: Tensor) -> Tensor:
    """For each pattern of the teacher the student's nearest, with the sign that brings it near. (N, c, k)."""
    cosines = student.transpose(1, 2) @ teacher
    best = cosines.detach().abs().argmax(1, keepdim=True)
    signs = cosines.detach().gather(1, best).sign()
    return student.gather(2, best.expand(-1, student.shape[1], -1)) * signs


def singular_vectors(student: list[Tensor], teacher: list[Tensor], count: int = 1, spare: int = 3) -> Tensor:
    """KDSVD (Lee et al. 2018): how the main patterns of neighbouring maps lie to each other, by a Gaussian, squared differences.

    Both networks have equally many channels in each pair of maps.
    """
    terms: list[Tensor] = []
    before: tuple[Tensor, Tensor] | None = None
    for s_maps, t_maps in zip(student, teacher, strict=True):
        strengths, t = principal(t_maps, count)
        s = _aligned(principal(s_maps, count + spare)[1], t) * strengths[:, None, :]
        t = t * strengths[:, None, :]
        if before is not None:
            near_s, near_t = (
                torch.exp(-(now[:, :, None] - then[:, None, :]).square() / 8) for now, then in zip((s, t), before, strict=True)
            )
            terms.append((near_s - near_t).square().sum() / len(s_maps))
        before = s, t
    return torch.stack(terms).sum()
