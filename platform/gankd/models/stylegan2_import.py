"""Official StyleGAN2-ADA files (.pkl) as our networks. No code in them is run, see `stylegan2_pickle`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gankd.errors import UserError
from gankd.models import build
from gankd.models.file_kinds import LEGACY_MAGIC, STARTS, damaged
from gankd.models.stylegan2_layers import fir_kernel
from gankd.models.stylegan2_pickle import ForeignError, Record, StoredTensor, read_pickle

OFFICIAL = "give an official .pkl file of StyleGAN2-ADA for PyTorch"
# How a network is computed, which we choose ourselves, or what our networks fix, and the weights show.
OURS = {"num_fp16_res", "fp16_channels_last", "channels_last", "resample_filter", "freeze_layers"}
WIDEST, LARGEST_IMAGE, LARGEST_CLAMP = 4096, 1024, 1e6


@dataclass(frozen=True)
class Stylegan2File:
    """What a file holds.

    Attributes:
        generator: G_ema, the averaged generator. discriminator: D, None if the file has none. Both in eval mode, frozen.
        matched: in words, how much of the file went where.
    """

    generator: Any
    discriminator: Any
    matched: str


def read_stylegan2(path: str | Path) -> Stylegan2File:
    """The networks in a file of StyleGAN2-ADA for PyTorch, on the CPU, in fp32.

    Raises UserError when the file is missing, damaged, of another kind, or needs anything but data; when its networks take
    labels or options that ours do not have; and when names, shapes or types of the weights differ or are not finite.
    """
    path = Path(path)
    _check_start(path)
    with _refusing(path):
        content = read_pickle(path)
    if isinstance(content, tuple) and len(content) == 3:
        raise _old_format(path)
    if not isinstance(content, dict) or not isinstance(content.get("G_ema"), Record):
        raise UserError(f"the file {str(path)!r} has no network 'G_ema' at its top; {OFFICIAL}")
    generator, said = _network(path, "G_ema", content["G_ema"], _generator_recipe)
    discriminator, taken = None, ["G_ema"]
    if content.get("D") is not None:
        discriminator, more = _network(path, "D", content["D"], _discriminator_recipe)
        said, taken = f"{said}; {more}", [*taken, "D"]
    left = ", ".join(repr(key)[:40] for key in content if key not in taken)
    return Stylegan2File(generator, discriminator, said + (f"; not read: {left[:200]}" if left else ""))


class _Options:
    """The options that a part of a network was made with; each must be one that is known here."""

    def __init__(self, path: Path, place: str, values: Any, known: set[str]) -> None:
        self.path, self.place = path, place
        if not isinstance(values, dict):
            raise self.refusal(f"no options, but a {type(values).__name__}", "a table of names and values")
        self.values: dict[Any, Any] = values
        for name in values:
            if name not in known | OURS:
                raise self.refusal(f"the option {str(name)[:40]!r}", f"known are {', '.join(sorted(known))}")

    def refusal(self, what: str, allowed: str) -> UserError:
        return UserError(f"the file {str(self.path)!r} has {what} in {self.place}, which ours cannot be: {allowed}; {OFFICIAL}")

    def value(self, name: str, default: Any, right: Any, allowed: str) -> Any:
        """`right` says whether a value is; a `default` of ... is not."""
        value = self.values.get(name, default)
        if value is ... or not right(value):
            shown = repr(value)[:40] if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
            raise self.refusal(f"no {name}" if value is ... else f"{name} {shown}", f"allowed is {allowed}")
        return value

    def whole(self, name: str, default: Any, low: int, high: int) -> int:
        found: int = self.value(name, default, lambda n: type(n) is int and low <= n <= high, f"a number from {low} to {high}")
        return found

    def one_of(self, name: str, *choices: Any) -> Any:
        """The first is the default."""
        return self.value(name, choices[0], lambda n: any(type(n) is type(c) and n == c for c in choices), _either(choices))

    def clamp(self) -> float | None:
        def right(n: Any) -> bool:
            return n is None or (type(n) in (int, float) and 0 < n <= LARGEST_CLAMP)

        found = self.value("conv_clamp", None, right, f"None, or a number above 0 up to {LARGEST_CLAMP:g}")
        return None if found is None else float(found)

    def part(self, name: str, *known: str) -> _Options:
        return _Options(self.path, f"{self.place}.{name}", self.values.get(name, {}), set(known))


def _either(choices: tuple[Any, ...]) -> str:
    return " or ".join(map(repr, choices))


def _image_options(options: _Options) -> dict[str, Any]:
    if options.whole("c_dim", ..., 0, 2**31):
        raise options.refusal(f"labels (c_dim {options.values['c_dim']})", "only networks without labels are read")
    sizes = [2**i for i in range(3, LARGEST_IMAGE.bit_length())]
    size = options.value("img_resolution", ..., lambda n: type(n) is int and n in sizes, ", ".join(map(str, sizes)))
    return {"image_size": size, "image_channels": options.whole("img_channels", ..., 1, 64)}


def _channels(options: _Options) -> dict[str, Any]:
    return {
        "channel_base": options.whole("channel_base", 32768, 1, 2**20),
        "channel_max": options.whole("channel_max", 512, 1, WIDEST),
        "conv_clamp": options.clamp(),
    }


def _generator_recipe(path: Path, values: Any) -> dict[str, Any]:
    top = {"z_dim", "c_dim", "w_dim", "img_resolution", "img_channels", "mapping_kwargs", "synthesis_kwargs"}
    options = _Options(path, "G_ema", values, top)
    image = _image_options(options)
    mapping = options.part(
        "mapping_kwargs", "num_layers", "embed_features", "layer_features", "activation", "lr_multiplier", "w_avg_beta"
    )
    mapping.one_of("activation", "lrelu")
    mapping.one_of("lr_multiplier", 0.01)
    synthesis = options.part(
        "synthesis_kwargs", "channel_base", "channel_max", "conv_clamp", "architecture", "use_noise", "activation"
    )
    synthesis.one_of("activation", "lrelu")
    synthesis.one_of("use_noise", True)
    return {
        "name": "stylegan2",
        **image,
        "dim_z": options.whole("z_dim", ..., 1, WIDEST),
        "dim_w": options.whole("w_dim", ..., 1, WIDEST),
        "mapping_layers": mapping.whole("num_layers", 8, 1, 64),
        **_channels(synthesis),
        "architecture": synthesis.one_of("architecture", "skip", "orig", "resnet"),
    }


def _discriminator_recipe(path: Path, values: Any) -> dict[str, Any]:
    top = {"c_dim", "img_resolution", "img_channels", "architecture", "channel_base", "channel_max", "conv_clamp", "cmap_dim"}
    options = _Options(path, "D", values, top | {"block_kwargs", "mapping_kwargs", "epilogue_kwargs"})
    image = _image_options(options)
    options.part("block_kwargs", "activation").one_of("activation", "lrelu")
    epilogue = options.part("epilogue_kwargs", "mbstd_group_size", "mbstd_num_channels", "activation")
    epilogue.one_of("activation", "lrelu")
    alone = epilogue.values.get("mbstd_group_size", 4) is None
    return {
        "name": "stylegan2_discriminator",
        **image,
        **_channels(options),
        "architecture": options.one_of("architecture", "resnet", "skip", "orig"),
        "mbstd_group": None if alone else epilogue.whole("mbstd_group_size", 4, 1, 2**16),
        "mbstd_channels": epilogue.whole("mbstd_num_channels", 1, 0, WIDEST),
    }


def _network(path: Path, place: str, record: Any, recipe_of: Callable[[Path, Any], dict[str, Any]]) -> tuple[nn.Module, str]:
    """The network, with exactly the weights of the record, and a sentence on it."""
    said = f"the network {place!r} in {str(path)!r}"
    with _refusing(path):
        if not isinstance(record, Record):
            raise ValueError(f"{place!r} is no network")
        if record.state.get("_init_args"):
            raise ValueError(f"{place!r} was made with options that have no names")
        stored = record.tensors()
    recipe = recipe_of(path, record.state.get("_init_kwargs"))
    try:
        with torch.device("meta"):  # sizes that lie take no memory
            network: nn.Module = build(**recipe)
    except UserError as error:
        raise UserError(f"{said} has options that ours cannot have: {error}") from error
    if difference := _first_difference(stored, network.state_dict()):
        raise UserError(f"{said} does not fit StyleGAN2 at {recipe['image_size']} px: {difference}; {OFFICIAL}")
    if sum(value.numel() * value.dtype.itemsize for value in stored.values()) > path.stat().st_size:
        raise damaged(path, f"the tensors of {place!r} are larger than the file")
    values = {}
    for name, value in stored.items():
        values[name] = tensor = value.read()
        if not bool(tensor.isfinite().all()):
            raise UserError(
                f"{said} has NaN or infinite numbers in {name!r}; give weights of a network whose training did not diverge"
            )
        if name.endswith("resample_filter") and not torch.allclose(tensor, fir_kernel(), rtol=0, atol=1e-6):
            raise UserError(f"{said} has another filter than [1, 3, 3, 1] in {name!r}; {OFFICIAL}")
    network.load_state_dict(values, assign=True)
    parameters = sum(p.numel() for p in network.parameters())
    matched = f"{len(values)} of {len(values)} tensors matched at {recipe['image_size']} px ({parameters:,} parameters)"
    return network.eval().requires_grad_(False), f"{place}: {matched}"


def _first_difference(stored: Mapping[str, StoredTensor], ours: Mapping[str, torch.Tensor]) -> str:
    for name in sorted(ours.keys() | stored.keys()):
        if name not in stored:
            return f"it has no tensor {name!r}"
        if name not in ours:
            return f"it has a tensor {name!r} too many"
        found, wanted = stored[name], ours[name]
        if found.shape != tuple(wanted.shape):
            return f"{name!r} has shape {found.shape} and not {tuple(wanted.shape)}"
        if found.dtype != torch.float32:
            return f"{name!r} is of type {found.dtype} and not torch.float32"
    return ""


@contextlib.contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """Whatever a reader raises at strange content is the file's fault, and becomes a UserError."""
    try:
        yield
    except UserError:
        raise
    except ForeignError as error:
        if "dnnlib.tflib" in str(error):
            raise _old_format(path) from error
        raise UserError(
            f"the file {str(path)!r} uses {error}, which a StyleGAN2-ADA network does not need, and was refused, since a pickle "
            f"can run code; {OFFICIAL}"
        ) from error
    except Exception as error:
        raise damaged(path, error) from error


def _old_format(path: Path) -> UserError:
    return UserError(
        f"the file {str(path)!r} is of StyleGAN for TensorFlow (G, D, Gs), which is not read; convert it with legacy.py of "
        "StyleGAN2-ADA for PyTorch, or give a .pkl file of the latter"
    )


def _check_start(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"the file {str(path)!r} does not exist or is not a file; {OFFICIAL}")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise UserError(f"the file {str(path)!r} cannot be read ({error.strerror}); give a file that you may read") from error
    if not head:
        raise damaged(path, "it is empty")
    for start, what, advice in STARTS:
        if head.startswith(start):
            raise UserError(f"the file {str(path)!r} is {what}, and no pickle of StyleGAN2-ADA; {advice or OFFICIAL}")
    if head.startswith(b"PK"):
        raise UserError(f"the file {str(path)!r} is a zip archive, and no pickle of StyleGAN2-ADA; {OFFICIAL}")
    if not head.startswith((b"\x80\2", b"\x80\3", b"\x80\4", b"\x80\5")) or LEGACY_MAGIC in head:
        raise UserError(f"the file {str(path)!r} is no pickle of StyleGAN2-ADA (it begins with {head[:8]!r}); {OFFICIAL}")
