"""Load a user's own classifier checkpoint into one of our networks, without running code from the file."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.checkpoint_file import WRAPPERS, open_checkpoint

# Names that public classifiers give to what we call `linear` and `shortcut`.
ALIASES = (("fc.", "linear."), ("classifier.", "linear."), ("downsample.", "shortcut."))
# What torch itself puts into a name for a layer that it has wrapped: data parallel, compiled, sharded, recomputed.
TORCH_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")

# A wide residual network in data-free distillation's public layout (CMI, RGAL): stages of blocks, not one row of them.
WRN_BLOCK = re.compile(r"block(\d+)\.layer\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Match:
    """What `load_checkpoint` did: tensors and parameters copied, names of ours that the file gave differently.

    prefixes: what was taken off the file's names. place: where in the file the weights were, and others: what would have
    fitted too; both only where that is not plain.
    """

    tensors: int
    parameters: int
    renamed: Mapping[str, str]
    prefixes: tuple[str, ...] = ()
    place: str = ""
    others: tuple[str, ...] = ()

    def __str__(self) -> str:
        renamed = f", {len(self.renamed)} of them renamed" if self.renamed else ""
        prefixes = f", without {' and '.join(map(repr, self.prefixes))} in their names" if self.prefixes else ""
        others = f", not from {' or '.join(map(repr, self.others))}" if self.others else ""
        place = f", taken from {self.place!r} in the file{others}" if self.place else ""
        return f"all {self.tensors} tensors matched ({self.parameters:,} parameters{renamed}){prefixes}{place}"


@dataclass(frozen=True)
class Fit:
    """A state dict's entries under our names. known: how many of the names are ours."""

    state: dict[str, Tensor]
    theirs: dict[str, str]
    renamed: dict[str, str]
    prefixes: tuple[str, ...]
    known: int

    @property
    def whole(self) -> bool:
        return self.known == len(self.state)


def load_checkpoint(network: nn.Module, path: str | Path, without: Collection[str] = ()) -> Match:
    """Copy the weights in `path` into `network` and say what matched; the network is changed only if everything fits.

    without: entries of the file that are left out, if there.

    Takes a bare state dict or one under "model", "state_dict", "ema", ..., as .pth, .pt, .safetensors or .npz; what other
    programs put before the names is taken off where all names then fit, and batch counters of BN may be missing.
    Raises UserError as `open_checkpoint` and its `read`, and when names, shapes or types differ; nothing is read before.
    """
    file, ours = open_checkpoint(path), network.state_dict()
    states = {place: {k: v for k, v in state.items() if k not in without} for place, state in file.states.items()}
    fits = {place: fit_state(state, ours) for place, state in states.items()}
    place = max(fits, key=lambda place: (fits[place].known, fits[place].whole))  # of equals the first
    fit = fits[place]
    others = tuple(other for other in fits if other != place and fits[other].whole and fits[other].known == fit.known)
    state = fit.state
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
        _listed("of another type", other_types(state, ours)),
        _other_classes(state, ours),
    ]
    if any(problems):
        raise UserError(
            f"the checkpoint {str(path)!r} does not fit the network: {'; '.join(p for p in problems if p)}; "
            "choose the network, the number of classes and the image size that it was trained with"
        )
    values = file.read(place)
    values = {name: values[theirs] for name, theirs in fit.theirs.items()}
    for name, value in values.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            raise UserError(f"the checkpoint {str(path)!r} has negative variances in {fit.theirs[name]!r}; give other weights")
    network.load_state_dict(values, strict=False)
    parameters = sum(p.numel() for p in network.parameters())
    said = place if others or place not in ("", *WRAPPERS) else ""
    return Match(len(state), parameters, fit.renamed, fit.prefixes, said, others)


def other_types(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """Entries that are integers where ours are floats, in words."""
    return [
        f"{k} (file {str(state[k].dtype).removeprefix('torch.')}, network {str(v.dtype).removeprefix('torch.')})"
        for k, v in ours.items()
        if k in state and v.is_floating_point() and not state[k].is_floating_point()
    ]


def _other_classes(state: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    theirs, wanted = state.get("linear.weight"), ours.get("linear.weight")
    if theirs is None or wanted is None or theirs.dim() != 2 or len(theirs) == len(wanted):
        return ""
    return f"the file is of {len(theirs)} classes, the network of {len(wanted)}"


def _listed(what: str, keys: list[str]) -> str:
    shown = ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")
    return f"{len(keys)} {what}: {shown}" if keys else ""


def fit_state(state: Mapping[str, Tensor], ours: Collection[str]) -> Fit:
    """`state` under our names. Of what all names begin with, as much is taken off as makes the most of them known."""
    inner = {name: without_wrappers(name, ours) for name in state}
    shared = 0
    for parts in zip(*(parts[:-1] for parts in inner.values()), strict=False):
        if len(set(parts)) > 1:
            break
        shared += 1
    fits = [_fit_without(state, inner, off, ours) for off in range(shared + 1)]
    return max(fits, key=lambda fit: fit.known)


def without_wrappers(name: str, ours: Collection[str] = ()) -> list[str]:
    """The parts of a name without those that torch's wrappers put in."""
    parts = name.split(".")
    return parts if name in ours else [part for part in parts if part not in TORCH_WRAPPERS] or parts


def _fit_without(state: Mapping[str, Tensor], inner: Mapping[str, list[str]], off: int, ours: Collection[str]) -> Fit:
    """The fit with `off` parts of each name taken off."""
    names = {".".join(parts[off:]): name for name, parts in inner.items()}
    if len(names) < len(inner):  # two names would become one
        inner, off, names = {name: name.split(".") for name in inner}, 0, {name: name for name in inner}
    fitted, renamed = _fit_names({name: state[theirs] for name, theirs in names.items()}, ours)
    theirs = {name: names[renamed.get(name, name)] for name in fitted}
    taken = [part for name in inner for part in _taken(name, inner[name][off:])]
    return Fit(fitted, theirs, renamed, tuple(dict.fromkeys(taken)), sum(name in ours for name in fitted))


def _taken(name: str, kept: list[str]) -> list[str]:
    """The parts of a name that are not kept."""
    gone = []
    for part in reversed(name.split(".")):
        if kept and part == kept[-1]:
            kept = kept[:-1]
        else:
            gone.append(f"{part}.")
    return gone[::-1]


def _fit_names(state: Mapping[str, Any], ours: Iterable[str]) -> tuple[dict[str, Any], dict[str, str]]:
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
