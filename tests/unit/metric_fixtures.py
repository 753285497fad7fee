"""Worked examples of metrics, computed by the public reference implementations."""

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures" / "metrics"


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays.files}


def cases(keys: Iterable[str], pattern: str) -> list[float]:
    """The numbers that stand in the keys where the group of `pattern` does, each once, in order."""
    found = {match[1] for key in keys if (match := re.fullmatch(pattern, key))}
    return sorted(float(number) if "." in number else int(number) for number in found)
