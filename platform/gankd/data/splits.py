"""Deterministic draws from a labelled set: a stratified cut and a class-balanced choice."""

from __future__ import annotations

import numpy as np


def _ranks(classes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each image: a random place within its class (from 0), the size of the class, a random priority for ties."""
    rng = np.random.Generator(np.random.PCG64(seed))
    order = rng.permutation(len(classes))
    _, code, counts = np.unique(classes, return_inverse=True, return_counts=True)
    by_class = order[np.argsort(code[order], kind="stable")]
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.empty(len(classes), np.int64)
    rank[by_class] = np.arange(len(classes)) - starts
    priority = rng.permutation(len(counts))
    return rank, counts[code], priority[code]


def cut(classes: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two sorted index arrays (rest, cut): `fraction` of the images is cut off, the same part of every class.

    Neither is empty (two images at least). The last image of a class is cut off only when no other choice is left.
    """
    rank, count, priority = _ranks(classes, seed)
    size = min(max(round(fraction * len(classes)), 1), len(classes) - 1)
    order = np.lexsort((priority, (rank + 1) / count))
    return np.sort(order[size:]), np.sort(order[:size])


def balanced(classes: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Sorted indices of `size` images, as equal in number over the classes as the set allows.

    For one seed a smaller choice is part of every larger one, so results at different sizes can be compared.
    """
    rank, _, priority = _ranks(classes, seed)
    return np.sort(np.lexsort((priority, rank))[:size])


def uniform(count: int, size: int, seed: int) -> np.ndarray:
    """Indices of `size` of `count` images, in the order drawn, whatever their classes.

    numpy's legacy `choice` without replacement: the subsets of the DiffAugment, LeCam and KD-DLGAN code (seed 0 there). For one
    seed a smaller choice is the beginning of every larger one.
    """
    return np.random.RandomState(seed).choice(count, size, replace=False)


def cut_groups(groups: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `cut`, for images that belong together in `groups`: a group falls on one side as a whole."""
    names = np.unique(groups)
    _, chosen = cut(np.zeros(len(names)), fraction, seed)
    inside = np.isin(groups, names[chosen])
    return np.flatnonzero(~inside), np.flatnonzero(inside)
