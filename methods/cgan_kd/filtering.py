"""Module M2 adjusts labels by the teacher f_t: D^g_s becomes D~^g_rho by filtering, and D^^g_rho where labels are replaced.

Kept is what the teacher errs on little, |f_t(x) - y| <= alpha(rho, y). For classes the error is the cross-entropy at the label
and alpha(rho, y) the rho-quantile of a burn-in sample of class y. `TeacherFilter` knows no network: images come from
`sample`, logits from `teacher`. `reference_compat` repeats what the paper's code did; the default is what its text says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.errors import StageFailed
from methods.cgan_kd.config import SamplesConfig

Sample = Callable[[int], Tensor]
Teacher = Callable[[Tensor], Tensor]


def label_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """The teacher's error e = -log softmax(f_t(x))[y], in nats: logits (N, classes), labels (N,) -> (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def kept_count(n: int, quantile: float) -> int:
    """ceil(quantile * n), safe against products such as 0.07 * 100 = 7.000000000000001."""
    return math.ceil(quantile * n - 1e-9)


def error_threshold(errors: Tensor, quantile: float, *, reference_compat: bool = False) -> Tensor:
    """alpha(rho, y): the error up to which a share rho = `quantile` in (0, 1] of `errors` (N,) lies, the ceil(rho N)-th smallest.

    Reference: the linearly interpolated quantile. A scalar; pass it to `below_threshold`.
    """
    if reference_compat:
        return torch.quantile(errors, quantile)
    return errors.sort().values[kept_count(len(errors), quantile) - 1]


def below_threshold(errors: Tensor, threshold: Tensor, *, reference_compat: bool = False) -> Tensor:
    """The mask e <= alpha. Reference: `<`, which keeps nothing when all errors are equal."""
    return errors < threshold if reference_compat else errors <= threshold


def replaced_labels(logits: Tensor) -> Tensor:
    """The teacher's own labels, arg max f_t(x): logits (N, classes) -> int64 (N,)."""
    return logits.argmax(dim=1)


class TeacherFilter:
    """D~^g_rho of one class: the images on which the teacher errs least, with their labels or the teacher's own.

    Args:
        cfg: `filter_quantile` (rho), `filter_burn_in`, `replace_labels`, and `max_draws` as the limit of rounds.
        sample: `sample(n)` gives n images of class `label`, of D^g_s.
        teacher: `teacher(images)` gives logits (n, classes).

    Attributes:
        threshold: alpha(rho, y), the largest error kept, in nats; None before the burn-in.
        seen, kept: images seen after the burn-in, and kept, so far.
    """

    def __init__(self, cfg: SamplesConfig, label: int, sample: Sample, teacher: Teacher) -> None:
        self.cfg, self.label, self.unfiltered, self.teacher = cfg, label, sample, teacher
        self.threshold: Tensor | None = None
        self.seen = self.kept = 0

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """`n` kept images (n, ...) and int64 labels (n,); half of `n` are asked for at a time.

        Raises StageFailed when too few images pass, or when the teacher's error is not finite.
        """
        if self.threshold is None:
            self.threshold = self._burn_in()
        images: list[Tensor] = []
        labels: list[Tensor] = []
        have = 0
        while have < n:
            if len(images) == self.cfg.max_draws:
                raise StageFailed(
                    f"the filter of class {self.label} kept {self.kept} of {self.seen} fakes in {len(images)} rounds, {n} are "
                    "needed; raise samples.filter_quantile or samples.filter_burn_in"
                )
            batch = self.unfiltered(max(n // 2, 1))
            logits = self.teacher(batch)
            asked_for = self._asked_for(logits)
            keep = below_threshold(label_errors(logits, asked_for), self.threshold, reference_compat=self.cfg.reference_compat)
            self.seen += len(batch)
            self.kept += int(keep.sum())
            have += int(keep.sum())
            images.append(batch[keep.to(batch.device)])
            labels.append((replaced_labels(logits) if self.cfg.replace_labels else asked_for)[keep])
        return torch.cat(images)[:n], torch.cat(labels)[:n]

    def _burn_in(self) -> Tensor:
        logits = self.teacher(self.unfiltered(self.cfg.filter_burn_in))
        errors = label_errors(logits, self._asked_for(logits))
        threshold = error_threshold(errors, self.cfg.filter_quantile, reference_compat=self.cfg.reference_compat)
        if not bool(torch.isfinite(threshold)):
            raise StageFailed(f"the teacher's error on fakes of class {self.label} is not finite; train the teacher again")
        return threshold

    def _asked_for(self, logits: Tensor) -> Tensor:
        """The label y that every image was made for, (N,)."""
        return torch.full((len(logits),), self.label, device=logits.device)
