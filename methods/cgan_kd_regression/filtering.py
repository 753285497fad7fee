"""Module M2 adjusts labels by the teacher f_t: what it errs on least is kept, with its own answer as label.

e = |f_t(x) - y| in the label's unit, and one threshold alpha(rho) for all labels: a threshold per label would keep as large a
share of labels that the generator cannot do.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from gankd.stages.task import Continuous
from methods.cgan_kd.filtering import below_threshold, error_threshold, kept_count


class Kept(NamedTuple):
    """Of n fakes: the rows that are kept, ascending (m,), and the largest error up to which they are, alpha."""

    rows: Tensor
    threshold: float


def answers(task: Continuous, places: Tensor, *, truncate: bool = False) -> Tensor:
    """The teacher's labels (N,) in their unit, inside their range, of the places that it tells (N, 1).

    truncate: to whole numbers, as the reference does with ages: half a year too young.
    """
    labels = task.answers(places.float().clamp(0, 1))
    return labels.trunc() if truncate else labels


def smallest_errors(errors: Tensor, quantile: float, *, reference_compat: bool = False) -> Kept:
    """The ceil(rho n) fakes of the smallest errors (n,), the first of equal ones; rho = `quantile` in (0, 1].

    Reference: errors below the linearly interpolated quantile, strictly, so that with rho = 1 the largest goes, and with many
    equal errors (of truncated ages) far more than 1 - rho.
    """
    threshold = error_threshold(errors, quantile, reference_compat=reference_compat)
    if reference_compat:
        rows = below_threshold(errors, threshold, reference_compat=True).nonzero()[:, 0]
    else:
        rows = errors.argsort(stable=True)[: kept_count(len(errors), quantile)].sort().values
    return Kept(rows, float(threshold))


def adjusted(
    asked: Tensor, told: Tensor, quantile: float, *, replace: bool, reference_compat: bool = False
) -> tuple[Kept, Tensor]:
    """D~^g_rho and, with `replace`, D^^g_rho: what is kept, and its labels (m,).

    asked, told: labels that fakes were made for, and the teacher's, both (n,) in one unit.
    """
    kept = smallest_errors((told - asked).abs(), quantile, reference_compat=reference_compat)
    return kept, (told if replace else asked)[kept.rows]
