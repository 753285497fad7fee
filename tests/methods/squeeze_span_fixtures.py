"""The fixtures of Squeeze & Span: arrays as tensors, and the tiny student of the traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "fixtures" / "squeeze_span"


def fixture(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def part(arrays: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


class TinyBackbone(nn.Module):
    """Two convolutions of stride 2 with batch norm and ReLU, then the mean over space."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        one, two = state["backbone.conv1.weight"], state["backbone.conv2.weight"]
        self.conv1 = nn.Conv2d(one.shape[1], one.shape[0], 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(one.shape[0])
        self.conv2 = nn.Conv2d(two.shape[1], two.shape[0], 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(two.shape[0])
        self.feature_dim = two.shape[0]

    def forward(self, images: Tensor) -> Tensor:
        maps = self.bn1(self.conv1(images)).relu()
        return self.bn2(self.conv2(maps)).relu().mean((2, 3))


def load(module: Any, state: dict[str, Tensor]) -> Any:
    """The module in double precision with these weights; batch counters are not in the fixtures."""
    module.double()
    missing, unexpected = module.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return module


def assert_state(module: nn.Module, state: dict[str, Tensor], rtol: float = 1e-9) -> None:
    found = module.state_dict()
    assert set(state) == {name for name in found if not name.endswith("num_batches_tracked")}
    for name, value in state.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
