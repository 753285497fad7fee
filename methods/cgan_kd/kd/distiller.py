"""The KD losses by name, and which pairs of networks each of them can be had for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gankd.context import Context
from gankd.errors import UserError
from methods.cgan_kd.config import StudentConfig
from methods.cgan_kd.kd.connectors import Boundaries, Factors, Hint, Variational
from methods.cgan_kd.kd.contrast import Contrastive
from methods.cgan_kd.kd.features import attention, selectivity, singular_vectors, solution_flow
from methods.cgan_kd.kd.relations import CorrelationCongruence, probabilistic, relational, similarity_preserving
from methods.cgan_kd.kd.review import Review
from methods.cgan_kd.kd.rotations import SelfSupervised
from methods.cgan_kd.kd.seen import Drawn, KdLoss, Plain, Seen, pairs, shape


def over_pairs(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Seen, Seen], Tensor]:
    """The sum of a loss of two maps over all pairs of maps."""
    return lambda student, teacher: torch.stack([loss(s, t) for s, t in pairs(student, teacher)]).sum()


def over_chains(loss: Callable[[list[Tensor], list[Tensor]], Tensor]) -> Callable[[Seen, Seen], Tensor]:
    """A loss of both networks' maps in order, as many as both have."""
    return lambda student, teacher: loss(*([maps[i] for maps in pairs(student, teacher)] for i in (0, 1)))


class Flow(KdLoss):
    """FSP: the student learns the teacher's FSP matrices, beforehand and only then."""

    def pretrain(self, student: Callable[[], Seen], teacher: Seen) -> Tensor:
        return over_chains(solution_flow)(student(), teacher)

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        return student.logits.new_zeros(())


PLAIN: dict[str, Callable[[Seen, Seen], Tensor]] = {
    "blkd": lambda student, teacher: student.logits.new_zeros(()),  # soft targets alone
    "takd": lambda student, assistant: student.logits.new_zeros(()),  # the same, of an assistant
    "at": over_pairs(attention),
    "nst": over_pairs(selectivity),
    "sp": lambda student, teacher: similarity_preserving(student.maps[-1], teacher.maps[-1]),
    "rkd": lambda student, teacher: relational(student.features, teacher.features),
    "pkt": lambda student, teacher: probabilistic(student.features, teacher.features),
    "kdsvd": over_chains(singular_vectors),
}
WITH_PARTS: dict[str, Callable[[Seen, Seen], KdLoss]] = {
    "fitnet": Hint,
    "vid": Variational,
    "ab": Boundaries,
    "ft": Factors,
    "reviewkd": Review,
    "sskd": SelfSupervised,
}


def build_loss(cfg: StudentConfig, student: Seen, teacher: Seen, labels: Tensor, ctx: Context) -> KdLoss:
    """The loss `cfg.kd` for two networks, of which a look at the same images is given; freshly initialised.

    `labels` (n_data,): of all images that are trained on. Raises UserError when the maps do not match.
    """
    check_maps(cfg.kd, student, teacher)
    if cfg.kd in PLAIN:
        return Plain(PLAIN[cfg.kd])
    if cfg.kd == "fsp":
        return Flow()
    if cfg.kd == "cc":
        return CorrelationCongruence(student, teacher, cfg.kd_width)
    if cfg.kd == "crd":
        return Contrastive(student, teacher, cfg.kd_width, labels, cfg.kd_negatives, ctx)
    return WITH_PARTS[cfg.kd](student, teacher)


def check_maps(kd: str, student: Seen, teacher: Seen) -> None:
    """UserError where a loss compares maps that have not the shapes for it."""
    both = pairs(student, teacher)
    if kd in ("fsp", "kdsvd"):
        if len(both) < 2:
            raise UserError(f"student.kd={kd} compares neighbouring maps, and both networks have maps of {len(both)} size only")
        for s, t in both:
            if s.shape[1] != t.shape[1]:
                raise UserError(
                    f"student.kd={kd} needs equally many channels: a map of the student is {shape(s)}, the teacher's "
                    f"{shape(t)} (channels, height, width); choose networks of one width, or another loss"
                )
    if kd in ("fitnet", "ab"):
        with torch.device("meta"):
            WITH_PARTS[kd](student, teacher)
