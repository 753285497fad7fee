"""Public checkpoints of BigGAN-PyTorch and cGANTransfer (flat state dicts: G.pth, G_ema.pth, D.pth) as our networks.

The architecture is read off the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models import build
from gankd.models.biggan import DISCRIMINATOR_CHANNELS, GENERATOR_CHANNELS

STATISTICS = {"running_mean": "stored_mean", "running_var": "stored_var"}
# Logged singular values, and counters of the variants with standing or synchronised statistics.
IGNORED = ("sv0", "accumulation_counter", "num_batches_tracked")
# Of a cGANTransfer generator: the embedding, aliases of it, and the old gain and bias layers.
OLD_TABLES = r"^shared\.|\.pretrain_embedding_w$|\.bn\d\.(gain|bias)\."


def our_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries of a public state dict under our names; entries that we do not keep are left out."""
    renamed = {}
    for name, value in state.items():
        # Two of the public batch norms keep their statistics one level deeper, in a layer called "bn".
        parts = [p for p in name.removeprefix("module.").split(".") if p != "bn"]
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
    first = shape(state, "blocks.0.0.bn1.gain.weight")
    shared = state.get("shared.weight")
    shared_dim = 0 if shared is None else shared.shape[1]
    chunk = shape(state, "linear.weight")[1]
    hierarchical = shared is not None and first[1] > shared_dim
    blocks = len(GENERATOR_CHANNELS[image_size]) - 1
    network = build(
        "biggan",
        image_size=image_size,
        classes=first[0] if shared is None else shared.shape[0],
        image_channels=shape(state, "output_layer.2.weight")[0],
        width=shape(state, "blocks.0.0.conv1.weight")[1] // GENERATOR_CHANNELS[image_size][0],
        dim_z=chunk * (blocks + 1) if hierarchical else chunk,
        shared_dim=shared_dim,
        hierarchical=hierarchical,
        attention=[8 * 2**i for i in attended_blocks(state)],
        sn_eps=sn_eps,
        bn_eps=bn_eps,
        init="default",
    )
    return load_exactly(network, state, "generator")


def import_transfer(state: Mapping[str, Tensor], image_size: int, sn_eps: float, bn_eps: float) -> nn.Module:
    """A generator of cGANTransfer. The tables of the pretrained network, which it carries and does not read, are left out."""
    state = {name: value for name, value in state.items() if not re.search(OLD_TABLES, name)}
    old_classes, classes = shape(state, "blocks.0.0.bn1.comb_layer_g.weight")
    if "blocks.0.0.bn1.comb_layer_g.u0" in state:
        variant = "imagenet"
    else:
        variant = "cifar" if "blocks.0.0.bn1.prev_knowledge_g.bias" in state else "plain"
    chunk = shape(state, "linear.weight")[1]
    hierarchical = "blocks.0.0.bn1.z_layer_g.weight" in state
    network = build(
        "biggan_transfer",
        image_size=image_size,
        old_classes=old_classes,
        classes=classes,
        image_channels=shape(state, "output_layer.2.weight")[0],
        width=shape(state, "blocks.0.0.conv1.weight")[1] // GENERATOR_CHANNELS[image_size][0],
        dim_z=chunk * len(GENERATOR_CHANNELS[image_size]) if hierarchical else chunk,
        hierarchical=hierarchical,
        attention=[8 * 2**i for i in attended_blocks(state)],
        variant=variant,
        sn_eps=sn_eps,
        bn_eps=bn_eps,
        init="default",
    )
    return load_exactly(network, state, "generator")


def import_discriminator(state: Mapping[str, Tensor], sn_eps: float = 1e-8) -> nn.Module:
    """The discriminator in a public state dict, in eval mode, in fp32. Errors and `sn_eps` as in `import_generator`."""
    state = our_names(state)
    image_size = size_by_blocks(state, {len(c): size for size, (c, _) in DISCRIMINATOR_CHANNELS.items()})
    units, halvings = DISCRIMINATOR_CHANNELS[image_size]
    hidden, image_channels = shape(state, "blocks.0.0.conv1.weight")[:2]
    outputs = shape(state, "blocks.0.0.conv2.weight")[0]
    network = build(
        "biggan_discriminator",
        image_size=image_size,
        classes=shape(state, "embed.weight")[0],
        image_channels=image_channels,
        width=outputs // units[0],
        attention=[image_size >> min(i + 1, halvings) for i in attended_blocks(state)],
        wide=hidden == outputs,
        sn_eps=sn_eps,
        init="default",
    )
    return load_exactly(network, state, "discriminator")


def shape(state: Mapping[str, Tensor], name: str) -> tuple[int, ...]:
    if name not in state:
        raise UserError(
            f"this is no BigGAN checkpoint: it has no entry {name}; give a flat state dict such as G_ema.pth or D.pth."
        )
    return tuple(state[name].shape)


def size_by_blocks(state: Mapping[str, Tensor], sizes: Mapping[int, int]) -> int:
    blocks = len({m[1] for name in state if (m := re.match(r"blocks\.(\d+)\.", name))})
    if blocks not in sizes:
        raise UserError(
            f"a checkpoint with {blocks} blocks fits no BigGAN of ours: known are {', '.join(map(str, sizes))} blocks."
        )
    return sizes[blocks]


def attended_blocks(state: Mapping[str, Tensor]) -> list[int]:
    return sorted(int(m[1]) for name in state if (m := re.fullmatch(r"blocks\.(\d+)\.1\.gamma", name)))


def load_exactly(network: nn.Module, state: Mapping[str, Tensor], what: str) -> nn.Module:
    ours = network.state_dict()
    problems = {
        "missing": sorted(ours.keys() - state.keys()),
        "unexpected": sorted(state.keys() - ours.keys()),
        "of another shape": sorted(k for k in ours.keys() & state.keys() if ours[k].shape != state[k].shape),
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise UserError(f"the {what} checkpoint does not fit BigGAN at {network.image_size} px, entries {found}.")
    network.load_state_dict(dict(state))
    return network.eval()
