"""Reference arrays of RGAL, and networks filled with weights by rule (specification 8.2)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.models import classifier_import
from gankd.store import Store

FIXTURES = Path(__file__).parents[1] / "fixtures" / "rgal"
CIFAR10 = [[0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]]
CIFAR100 = [[0.5071, 0.4867, 0.4408], [0.2675, 0.2565, 0.2761]]


def arrays(name: str) -> dict[str, Tensor]:
    """The numeric arrays of a fixture file."""
    with np.load(FIXTURES / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files if file[key].dtype.kind != "U"}


def texts(name: str, key: str) -> list[str]:
    with np.load(FIXTURES / f"{name}.npz") as file:
        return [str(text) for text in file[key]]


def filled(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """The entry `key` of a state dict, by its name and shape."""
    if key.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.int64)
    x = np.random.RandomState((zlib.crc32(key.encode()) + seed) % 2**32).standard_normal(shape)
    if key.endswith("running_mean"):
        x = 0.2 * x
    elif key.endswith("running_var"):
        x = 0.5 + np.abs(x)
    elif key.endswith("bias"):
        x = 0.1 * x
    elif x.ndim == 1:
        x = 1 + 0.1 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x)).float()


def our_names(keys: list[str], network: nn.Module) -> dict[str, str]:
    """Reference key -> our key, by the importer's rules."""
    fitted, renamed = classifier_import._fit_names({key: torch.tensor(i) for i, key in enumerate(keys)}, network.state_dict())
    return {keys[int(place)]: ours for ours, place in fitted.items()} | {theirs: ours for ours, theirs in renamed.items()}


def reference_state(keys: list[str], network: nn.Module, seed: int) -> dict[str, Tensor]:
    """A filled state dict in the reference's names, of the shapes that `network` has."""
    ours, names = network.state_dict(), our_names(keys, network)
    return {key: filled(key, tuple(ours[names[key]].shape), seed) for key in keys}


def wrn_keys(depth: int, widen: int) -> list[str]:
    """The reference's names of a wide residual network for small images, in order."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    keys, channels = ["conv1.weight"], 16
    for stage, width in enumerate((16 * widen, 32 * widen, 64 * widen), start=1):
        for i in range((depth - 4) // 6):
            at = f"block{stage}.layer.{i}"
            keys += [f"{at}.bn1.{n}" for n in norm] + [f"{at}.conv1.weight"]
            keys += [f"{at}.bn2.{n}" for n in norm] + [f"{at}.conv2.weight"]
            keys += [f"{at}.convShortcut.weight"] if channels != width else []
            channels = width
    return keys + [f"bn1.{n}" for n in norm] + ["fc.weight", "fc.bias"]


def fill(network: Any, keys: list[str], seed: int, replaced: Mapping[str, Tensor] | None = None) -> None:
    """Give a classifier the weights that the reference's network had; `replaced` by reference key."""
    names = our_names(keys, network)
    state = reference_state(keys, network, seed) | dict(replaced or {})
    network.load_state_dict({names[key]: value for key, value in state.items()})


def context(folder: Path, stage: str = "student", seed: int = 0) -> Context:
    store = Store(folder)
    key = f"{stage}-key"
    return Context(stage, key, seed, store.scratch(key), store, torch.device("cpu"), checkpoint_seconds=1e9)


def negative_matrix(labels: Tensor, drawn: Tensor) -> Tensor:
    """Negatives listed for the pairs of one label in row-major order (-1: padding), as an (N, N) matrix."""
    pairs = (labels[:, None] == labels[None, :]) & ~torch.eye(len(labels), dtype=torch.bool)
    negatives = torch.zeros(len(labels), len(labels), dtype=torch.int64)
    negatives[pairs] = drawn[drawn >= 0]
    return negatives
