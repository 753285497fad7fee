"""Public checkpoints of BigGAN-PyTorch and cGANTransfer (flat state dicts: G.pth, G_ema.pth, D.pth) as our networks.

The architecture is read off the shapes. A state of meta tensors gives the network on the meta device: what the file holds,
before memory is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models import build
from gankd.models.biggan import DISCRIMINATOR_CHANNELS, GENERATOR_CHANNELS
from gankd.models.classifier_import import other_types, without_wrappers

STATISTICS = {"running_mean": "stored_mean", "running_var": "stored_var"}
# Logged singular values, and counters of the variants with standing or synchronised statistics.
IGNORED = ("sv0", "accumulation_counter", "num_batches_tracked")
# Of a cGANTransfer generator: the embedding, aliases of it, and the old gain and bias layers.
OLD_TABLES = r"^shared\.|\.pretrain_embedding_w$|\.bn\d\.(gain|bias)\."
FIRST = "blocks.0.0.conv1.weight"  # an entry of every BigGAN; what stands before it in a file is the file's own


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a public state dict under our names; entries that we do not keep are left out."""
    renamed = {}
    inner = {".".join(without_wrappers(name)): value for name, value in state.items()}
    lead = next((name.removesuffix(FIRST) for name in inner if name.endswith(FIRST)), "")
    if not all(name.startswith(lead) for name in inner):
        lead = ""
    for name, value in inner.items():
        # Two of the public batch norms keep their statistics one level deeper, in a layer called "bn".
        parts = [p for p in name.removeprefix(lead).split(".") if p != "bn"]
        parts = ["embed" if p == "new_embed" else p for p in parts]  # cGANTransfer's table of the new classes
        if parts[-1] not in IGNORED:
            renamed[".".join([*parts[:-1], STATISTICS.get(parts[-1], parts[-1])])] = value
    return renamed


def import_generator(state: Mapping[str, Tensor], sn_eps: float = 1e-8, bn_eps: float = 1e-5) -> nn.Module:
    """The generator in a public state dict, in eval mode, in fp32; a TransferGenerator if it is one of cGANTransfer.

    The two eps are not in the file: 1e-8 and 1e-5 are the public defaults, the released 128 px model uses sn_eps 1e-6.
    Raises UserError that names every missing, unexpected or misshapen entry.
    """
    state = our_names(state)
    image_size = size_by_blocks(state, {len(c) - 1: size for size, c in GENERATOR_CHANNELS.items()})
    if "blocks.0.0.bn1.comb_layer_g.weight" in state:
        return import_transfer(state, image_size, sn_eps, bn_eps)
    first = shape(state, "blocks.0.0.bn1.gain.weight", 2)
    shared = shape(state, "shared.weight", 2) if "shared.weight" in state else None
    shared_dim = 0 if shared is None else shared[1]
    chunk = shape(state, "linear.weight", 2)[1]
    hierarchical = shared is not None and first[1] > shared_dim
    blocks = len(GENERATOR_CHANNELS[image_size]) - 1
    recipe: dict[str, Any] = {
        "name": "biggan",
        "image_size": image_size,
        "classes": first[0] if shared is None else shared[0],
        "image_channels": shape(state, "output_layer.2.weight", 4)[0],
        "width": shape(state, FIRST, 4)[1] // GENERATOR_CHANNELS[image_size][0],
        "dim_z": chunk * (blocks + 1) if hierarchical else chunk,
        "shared_dim": shared_dim,
        "hierarchical": hierarchical,
        "attention": [8 * 2**i for i in attended_blocks(state)],
        "sn_eps": sn_eps,
        "bn_eps": bn_eps,
        "init": "default",
    }
    return load_exactly(recipe, state, "generator")


def import_transfer(state: Mapping[str, Tensor], image_size: int, sn_eps: float, bn_eps: float) -> nn.Module:
    """A generator of cGANTransfer. The tables of the pretrained network, which it carries and does not read, are left out."""
    state = {name: value for name, value in state.items() if not re.search(OLD_TABLES, name)}
    old_classes, classes = shape(state, "blocks.0.0.bn1.comb_layer_g.weight", 2)
    if "blocks.0.0.bn1.comb_layer_g.u0" in state:
        variant = "imagenet"
    else:
        variant = "cifar" if "blocks.0.0.bn1.prev_knowledge_g.bias" in state else "plain"
    chunk = shape(state, "linear.weight", 2)[1]
    hierarchical = "blocks.0.0.bn1.z_layer_g.weight" in state
    recipe: dict[str, Any] = {
        "name": "biggan_transfer",
        "image_size": image_size,
        "old_classes": old_classes,
        "classes": classes,
        "image_channels": shape(state, "output_layer.2.weight", 4)[0],
        "width": shape(state, FIRST, 4)[1] // GENERATOR_CHANNELS[image_size][0],
        "dim_z": chunk * len(GENERATOR_CHANNELS[image_size]) if hierarchical else chunk,
        "hierarchical": hierarchical,
        "attention": [8 * 2**i for i in attended_blocks(state)],
        "variant": variant,
        "sn_eps": sn_eps,
        "bn_eps": bn_eps,
        "init": "default",
    }
    return load_exactly(recipe, state, "generator")


def import_discriminator(state: Mapping[str, Tensor], sn_eps: float = 1e-8) -> nn.Module:
    """The discriminator in a public state dict, in eval mode, in fp32. Errors and `sn_eps` as in `import_generator`."""
    state = our_names(state)
    image_size = size_by_blocks(state, {len(c): size for size, (c, _) in DISCRIMINATOR_CHANNELS.items()})
    units, halvings = DISCRIMINATOR_CHANNELS[image_size]
    hidden, image_channels = shape(state, FIRST, 4)[:2]
    outputs = shape(state, "blocks.0.0.conv2.weight", 4)[0]
    recipe: dict[str, Any] = {
        "name": "biggan_discriminator",
        "image_size": image_size,
        "classes": shape(state, "embed.weight", 2)[0],
        "image_channels": image_channels,
        "width": outputs // units[0],
        "attention": [image_size >> min(i + 1, halvings) for i in attended_blocks(state)],
        "wide": hidden == outputs,
        "sn_eps": sn_eps,
        "init": "default",
    }
    return load_exactly(recipe, state, "discriminator")


def shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> tuple[int, ...]:
    if name not in state:
        raise UserError(
            f"this is no BigGAN checkpoint: it has no entry {name}; give a flat state dict such as G_ema.pth or D.pth."
        )
    found = tuple(state[name].shape)
    if len(found) != dimensions:
        raise UserError(
            f"this is no BigGAN checkpoint: its entry {name} has shape {found}, not {dimensions} dimensions; give a flat state "
            "dict such as G_ema.pth or D.pth."
        )
    return found


def size_by_blocks(state: Mapping[str, Tensor], sizes: Mapping[int, int]) -> int:
    blocks = len({m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))})
    if blocks not in sizes:
        raise UserError(
            f"a checkpoint with {blocks} blocks fits no BigGAN of ours: known are {', '.join(map(str, sizes))} blocks."
        )
    return sizes[blocks]


def attended_blocks(state: Mapping[str, Tensor]) -> list[int]:
    return sorted(int(m[1]) for name in state if (m := re.fullmatch(r"blocks\.(\d)\.1\.gamma", name)))


def load_exactly(recipe: dict[str, Any], state: Mapping[str, Tensor], what: str) -> nn.Module:
    """The network of `recipe` with exactly this state; compared on the meta device, where sizes that lie take no memory."""
    try:
        with torch.device("meta"):
            outline = build(**recipe)
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the {what} checkpoint has sizes that no BigGAN has ({reason}); give a BigGAN's state dict.") from error
    ours = outline.state_dict()
    problems = {
        "missing": sorted(ours.keys() - state.keys()),
        "unexpected": sorted(state.keys() - ours.keys()),
        "of another shape": sorted(k for k in ours.keys() & state.keys() if ours[k].shape != state[k].shape),
        "of another type": other_types(state, ours),
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UserError(f"the {what} checkpoint does not fit BigGAN at {outline.image_size} px, entries {found}.")
    if any(value.is_meta for value in state.values()):
        network: nn.Module = outline
    else:
        network = build(**recipe)
        network.load_state_dict(dict(state))
    return network.eval()
