"""Which fakes to keep, under which label: acceptance, the teacher's filter, replacement, and the choice of `nfake`.

Pure functions of tensors. `reference_compat=True` repeats what the paper's code did; the default is what its text says.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Estimator = Literal["max", "quantile"]


def ratio_bound(ratios: Tensor, estimator: Estimator = "max", quantile: float = 0.99) -> float:
    """M, the bound of a class's density ratio, from burn-in ratios (N,).

    `max` is an extreme value: a larger burn-in gives a larger M and fewer acceptances. `quantile` is stable; ratios
    above it count as M.
    """
    if estimator == "max":
        return float(ratios.max())
    if estimator == "quantile":
        return float(torch.quantile(ratios.double(), quantile))
    raise ValueError(f"estimator is {estimator!r}; allowed: max, quantile")


def accept(ratios: Tensor, uniforms: Tensor, bound: float) -> Tensor:
    """Rejection sampling: the mask u_k <= r_k / M, all (N,); u in [0, 1), M = `bound` > 0. Ratios above M pass."""
    return uniforms <= ratios / bound


def label_errors(logits: Tensor, labels: Tensor) -> Tensor:
    """The teacher's error e = -log softmax(logits)[label], in nats: logits (N, classes), labels (N,) -> (N,)."""
    return F.cross_entropy(logits, labels, reduction="none")


def kept_count(n: int, quantile: float) -> int:
    """ceil(quantile * n), safe against products such as 0.07 * 100 = 7.000000000000001."""
    return math.ceil(quantile * n - 1e-9)


def error_threshold(errors: Tensor, quantile: float, *, reference_compat: bool = False) -> Tensor:
    """The error up to which a share `quantile` in (0, 1] of `errors` (N,) lies: the ceil(quantile * N)-th smallest.

    Reference: the linearly interpolated quantile. A scalar; pass it to `below_threshold`.
    """
    if reference_compat:
        return torch.quantile(errors, quantile)
    return errors.sort().values[kept_count(len(errors), quantile) - 1]


def below_threshold(errors: Tensor, threshold: Tensor, *, reference_compat: bool = False) -> Tensor:
    """The mask `errors <= threshold`. Reference: `<`, which keeps nothing when all errors are equal."""
    return errors < threshold if reference_compat else errors <= threshold


def replaced_labels(logits: Tensor) -> Tensor:
    """The teacher's own labels: logits (N, classes) -> int64 (N,)."""
    return logits.argmax(dim=1)


def class_quotas(counts: Tensor, nfake: int, *, reference_compat: bool = False) -> Tensor:
    """How many of `nfake` rows to take from each class that has `counts` (classes,): int64 (classes,).

    Equal shares, the remainder one by one to the first classes; what a class lacks goes to those that have more, so
    the sum is min(nfake, sum(counts)). Reference: nfake // classes each and the whole remainder from the last class,
    each at most what the class has, so the sum may fall short; everything when nfake >= sum(counts).
    """
    if nfake >= int(counts.sum()):
        return counts.clone()
    if reference_compat:
        share = nfake // len(counts)
        wanted = torch.full_like(counts, share)
        wanted[-1] = nfake - share * (len(counts) - 1)
        return torch.minimum(wanted, counts)
    quotas = torch.zeros_like(counts)
    left = nfake
    while left > 0:
        open_classes = (quotas < counts).nonzero()[:, 0]
        share = left // len(open_classes)
        if share == 0:
            quotas[open_classes[:left]] += 1
            break
        given = torch.minimum(counts[open_classes] - quotas[open_classes], torch.tensor(share))
        quotas[open_classes] += given
        left -= int(given.sum())
    return quotas


def select_per_class(labels: Tensor, nfake: int, classes: int, rng: torch.Generator, *, reference_compat: bool = False) -> Tensor:
    """Ascending indices of `nfake` rows of the int64 `labels` (N,), balanced over the classes by `class_quotas`.

    Within a class the rows are drawn without replacement.
    """
    quotas = class_quotas(torch.bincount(labels, minlength=classes), nfake, reference_compat=reference_compat)
    chosen = []
    for label, quota in enumerate(quotas.tolist()):
        rows = (labels == label).nonzero()[:, 0]
        chosen.append(rows[torch.randperm(len(rows), generator=rng)[:quota]])
    return torch.cat(chosen).sort().values
