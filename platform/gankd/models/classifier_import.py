"""Load a user's own classifier checkpoint into one of our networks, without running code from the file."""

from __future__ import annotations

import pickle
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gankd.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")
# Training scripts put the weights of the network under one of these names.
WRAPPERS = ("state_dict", "model", "net", "net_state_dict", "model_state_dict")
# Names that public classifiers give to what we call `linear` and `shortcut`.
ALIASES = (("fc.", "linear."), ("classifier.", "linear."), ("downsample.", "shortcut."))

# A wide residual network in data-free distillation's public layout (CMI, RGAL): stages of blocks, not one row of them.
WRN_BLOCK = re.compile(r"block(\d+)\.layer\.(\d+)\.(.+)")

# What the readers raise for a file that is cut off or is something else.
DAMAGE = (RuntimeError, EOFError, OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Match:
    """What `load_checkpoint` did: tensors and parameters copied, names of ours that the file gave differently."""

    tensors: int
    parameters: int
    renamed: Mapping[str, str]

    def __str__(self) -> str:
        renamed = f", {len(self.renamed)} of them renamed" if self.renamed else ""
        return f"all {self.tensors} tensors matched ({self.parameters:,} parameters{renamed})"


def load_checkpoint(network: nn.Module, path: str | Path) -> Match:
    """Copy the weights in `path` into `network` and say what matched; the network is changed only if everything fits.

    Takes a bare state dict or one under "model", "state_dict", "net", ..., as .pth, .pt, .safetensors or .npz; a
    leading "module." is dropped, and batch counters of BN may be missing.
    Raises UserError when the file is missing, damaged or holds code, and when keys or shapes differ.
    """
    path = Path(path)
    state, renamed = _fit_names(_unwrap(_read(path), path), network.state_dict())
    ours = network.state_dict()
    needed = {k for k in ours if not k.endswith("num_batches_tracked")}
    problems = [
        _listed("missing", sorted(needed - state.keys())),
        _listed("unexpected", sorted(state.keys() - ours.keys())),
        _listed(
            "of another shape",
            [
                f"{k} (file {tuple(state[k].shape)}, network {tuple(v.shape)})"
                for k, v in ours.items()
                if k in state and state[k].shape != v.shape
            ],
        ),
        _other_classes(state, ours),
    ]
    if any(problems):
        raise UserError(
            f"the checkpoint {str(path)!r} does not fit the network: {'; '.join(p for p in problems if p)}; "
            "choose the network, the number of classes and the image size that it was trained with"
        )
    network.load_state_dict(state, strict=False)
    parameters = sum(p.numel() for p in network.parameters())
    return Match(len(state), parameters, renamed)


def _other_classes(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    theirs, wanted = state.get("linear.weight"), ours.get("linear.weight")
    if theirs is None or wanted is None or len(theirs) == len(wanted):
        return ""
    return f"the file is of {len(theirs)} classes, the network of {len(wanted)}"


def _listed(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what}: {shown}" if keys else ""


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file that `load_checkpoint` could read; UserError as there."""
    return _unwrap(_read(Path(path)), Path(path))


def _read(path: Path) -> Any:
    if path.suffix not in SUFFIXES:
        raise UserError(f"the checkpoint {str(path)!r} has an unknown ending; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise UserError(f"the checkpoint {str(path)!r} does not exist or is not a file; give the path of a state dict")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_npz(path) if path.suffix == ".npz" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(_holds_code(path)) from error
    except DAMAGE as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"the checkpoint {str(path)!r} is truncated, damaged or of another kind ({reason}); copy or save it again"
        ) from error


def _holds_code(path: Path) -> str:
    return (
        f"the checkpoint {str(path)!r} holds Python objects other than tensors, which could run code when read, "
        "and was refused; save the state dict alone: torch.save(network.state_dict(), path)"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    if not zipfile.is_zipfile(path):  # np.load would take it for a pickle
        raise zipfile.BadZipFile("not an .npz archive")
    with np.load(path, allow_pickle=False) as arrays:
        try:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
        except ValueError as error:
            if "allow_pickle" in str(error):
                raise pickle.UnpicklingError(str(error)) from error
            raise


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of names to tensors inside what was read, without a leading `module.`."""
    if isinstance(content, Mapping):
        content = next((content[w] for w in WRAPPERS if isinstance(content.get(w), Mapping)), content)
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(
            f"the checkpoint {str(path)!r} holds no state dict; allowed: a mapping of names to tensors, "
            f"bare or under one of {', '.join(WRAPPERS)}"
        )
    return {str(k).removeprefix("module."): v for k, v in content.items()}


def _fit_names(state: Mapping[str, Tensor], ours: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`state` under our names, and {our name: name in the file} where they differ. A known name is never changed."""
    known = set(ours)
    depth = 1 + max((int(found[2]) for found in map(WRN_BLOCK.fullmatch, state) if found), default=0)
    fitted, renamed = {}, {}
    for key, value in state.items():
        name = key
        for candidate in _candidates(key, depth):
            if key not in known and candidate in known and candidate not in state:
                name, renamed[candidate] = candidate, key
        fitted[name] = value
    return fitted, renamed


def _candidates(key: str, depth: int) -> list[str]:
    """What `key` may be called here; `depth` is the number of blocks in a stage of the file's network."""
    if found := WRN_BLOCK.fullmatch(key):
        rest = found[3].replace("convShortcut.", "shortcut.")
        return [f"stages.{(int(found[1]) - 1) * depth + int(found[2])}.{rest}"]
    return [key.replace(theirs, our) for theirs, our in ALIASES]
