"""Networks by name. `build(name, **kwargs)` makes one; a recipe (name, kwargs) as JSON beside safetensors keeps one.

Only `nn.Module`s live here: no loss, no optimiser. Networks, and torch itself, are imported when one is first built.
What is built or loaded is typed `Any`, because the attributes differ (`dim_z` of generators, `features` of classifiers).
"""

from __future__ import annotations

import difflib
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankd.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# name -> "module:callable"; every callable takes keyword arguments that JSON can hold.
GENERATORS: dict[str, str] = {
    "biggan": "gankd.models.biggan:Generator",
    "biggan_deep": "gankd.models.biggan_deep:Generator",
    "biggan_transfer": "gankd.models.biggan_transfer:TransferGenerator",
    "stylegan2": "gankd.models.stylegan2:Generator",
}
DISCRIMINATORS: dict[str, str] = {
    "biggan_discriminator": "gankd.models.biggan:Discriminator",
    "biggan_deep_discriminator": "gankd.models.biggan_deep:Discriminator",
    "stylegan2_discriminator": "gankd.models.stylegan2:Discriminator",
}
CLASSIFIERS: dict[str, str] = {
    "small_cnn": "gankd.models.small_cnn:SmallCNN",
    **{f"resnet{n}": f"gankd.models.resnet:resnet{n}" for n in ("20", "32", "56", "110", "8x4", "32x4")},
    **{f"ResNet{n}": f"gankd.models.resnet:ResNet{n}" for n in ("18", "34", "50")},
    **{f"vgg{n}": f"gankd.models.vgg:vgg{n}" for n in (8, 11, 13, 16, 19)},
    **{f"wrn_{n}": f"gankd.models.wrn:wrn_{n}" for n in ("16_1", "16_2", "40_1", "40_2")},
    "MobileNetV2": "gankd.models.mobilenet:MobileNetV2",
    "ShuffleV1": "gankd.models.shufflenet:ShuffleV1",
    "ShuffleV2": "gankd.models.shufflenet:ShuffleV2",
    "densenet121": "gankd.models.densenet:densenet121",
    "densenet161": "gankd.models.densenet:densenet161",
}
# All that recipes may name; methods add their own by `allow`.
MODELS: dict[str, str] = {**GENERATORS, **DISCRIMINATORS, **CLASSIFIERS}


def allow(networks: Mapping[str, str]) -> None:
    """Let recipes name a method's own networks too: name -> "module:callable". Saying the same again changes nothing.

    Raises UserError when a name means another network already.
    """
    for name, place in networks.items():
        if MODELS.get(name, place) != place:
            raise UserError(f"the network name {name!r} means {MODELS[name]} already, not {place}; choose another name")
    MODELS.update(networks)


def build(name: str, **kwargs: Any) -> Any:
    """The network `name`, freshly initialised from torch's default generator. Raises UserError for an unknown name.

    `normalisation=[mean, std]` (a number per channel each) makes a classifier normalise its images by itself;
    `head=[512, 512]` gives it hidden layers of these widths before its last one.
    """
    if name not in MODELS:
        near = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"unknown network {name!r}{hint} (known: {', '.join(MODELS)})")
    module, _, attribute = MODELS[name].partition(":")
    arguments = {key: value for key, value in kwargs.items() if key not in ("normalisation", "head")}
    network = getattr(importlib.import_module(module), attribute)(**arguments)
    if kwargs.get("head"):
        from gankd.models.classifier import Head

        network.linear = Head(network.linear.in_features, kwargs["head"], network.linear.out_features)
    if kwargs.get("normalisation"):
        from gankd.models.classifier import OwnNormalisation

        network = OwnNormalisation(network, *kwargs["normalisation"])
    network.recipe = {"name": name, **kwargs}
    return network


def save(network: nn.Module, folder: Path, weights: Mapping[str, Any] | None = None) -> None:
    """Write `recipe.json` and `model.safetensors` (the network's state, or `weights` in its place, e.g. an EMA) to `folder`."""
    from safetensors.torch import save_file

    state = {k: v.detach().cpu().contiguous() for k, v in (weights or network.state_dict()).items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    (folder / "recipe.json").write_text(json.dumps(network.recipe, indent=2, sort_keys=True))


def load(folder: Path) -> Any:
    """The network that `save` wrote, on the CPU, in eval mode. Raises UserError when its files are missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network = build(**json.loads((folder / "recipe.json").read_text()))
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the network in {str(folder)!r} is damaged ({reason}); make it again, or take another one") from error
    return network.eval()
