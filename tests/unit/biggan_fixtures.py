"""Reading the reference values of the BigGAN tests."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture(name: str, group: str = "") -> dict[str, Tensor]:
    """The arrays of `<name>.npz`; with `group`, only those below "<group>/", under the rest of their names."""
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        prefix = f"{group}/" if group else ""
        wanted = {k: arrays[k] for k in arrays.files if k.startswith(prefix)}
        return {k.removeprefix(prefix): torch.from_numpy(v) for k, v in wanted.items() if v.dtype.kind != "U"}


def names(pattern: str) -> list[str]:
    """What the star stands for in the names of the fixture files that match, e.g. "biggan_core/G_*", sorted."""
    start = len(Path(pattern).name.partition("*")[0])
    return sorted(path.stem[start:] for path in FIXTURES.glob(f"{pattern}.npz"))


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-7) -> None:
    torch.testing.assert_close(actual.detach().to(expected.dtype), expected, atol=tolerance, rtol=tolerance)
