"""The generator of cGANTransfer (Shahbazi et al. 2021): new classes as combinations of a pretrained BigGAN's old ones.

A conditional BN of the pretrained network holds a pair (gain, bias) of C numbers each for every old class. The pair of a new
class is a combination of the N old pairs, by scores, and a free residual. With t the one-hot of the new class, of length M, and
z the part of the latent that this block is given:

    s    = A t + a                            scores of the old classes, (N,), no softmax
    gain = 1 + P s [+ p] [+ Z z + c] + R t    and likewise the bias, with matrices of its own

Every layer has its own scores. The state dict has the names of the authors' code (comb_layer A a, prev_knowledge P p, z_layer
Z c, res R; `_g` for the gain, `_b` for the bias) without the old tables, which their forward pass does not read either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models import build
from gankd.models.batch_norm import BatchStatistics
from gankd.models.biggan import GENERATOR_CHANNELS, Discriminator, Generator, GeneratorBody, check_image_size
from gankd.models.spectral_norm import SNLinear, SpectralNorm, initialise

# plain: no spectral normalisation. imagenet, cifar: the two forms of the authors' code. There the first normalises A, P and Z,
# the second gives P a bias p.
Variant = Literal["plain", "imagenet", "cifar"]
Part = Literal["combination", "base", "latent", "residual"]
LAYER_OF_PART: dict[Part, str] = {"combination": "comb_layer", "base": "prev_knowledge", "latent": "z_layer", "residual": "res"}
SIDES = ("g", "b")
EPS = 1e-12  # the authors' epsilon for A and Z; P has that of the other layers


class TransferBatchNorm(BatchStatistics):
    """BN(x) * gain + bias with the pairs above. x (N, C, H, W); condition (labels, chunk), chunk (N, Z) or None."""

    def __init__(
        self, channels: int, old_classes: int, classes: int, chunk: int, variant: Variant, sn_eps: float, bn_eps: float
    ) -> None:
        super().__init__(channels, bn_eps)

        def linear(inputs: int, outputs: int, bias: bool, eps: float) -> nn.Linear:
            return SNLinear(inputs, outputs, bias, eps=eps) if variant == "imagenet" else nn.Linear(inputs, outputs, bias)

        for side in SIDES:
            self.add_module(f"comb_layer_{side}", linear(classes, old_classes, True, EPS))
            self.add_module(f"prev_knowledge_{side}", linear(old_classes, channels, variant == "cifar", sn_eps))
            if chunk:
                self.add_module(f"z_layer_{side}", linear(chunk, channels, True, EPS))
            self.add_module(f"res_{side}", nn.Linear(classes, channels, bias=False))

    def layer(self, part: Part, side: str) -> nn.Linear:
        return cast(nn.Linear, getattr(self, f"{LAYER_OF_PART[part]}_{side}"))

    def scores(self, side: str) -> tuple[Tensor, Tensor]:
        """A (N, M) and a (N,), as the forward pass takes them."""
        layer = self.layer("combination", side)
        return weight_of(layer), layer.bias

    def pairs(self, side: str, labels: Tensor, chunk: Tensor | None) -> Tensor:
        """What is added to 1 for the gain, or the bias: (B, C), in the parameters' precision.

        The pairs of all M classes are made once and looked up, which costs N C M instead of N C B.
        """
        base, residual = self.layer("base", side), self.layer("residual", side)
        slope, offset = self.scores(side)
        old = weight_of(base)
        table = (old @ slope + residual.weight).t()  # (M, C)
        common = F.linear(offset, old, base.bias)
        mine = labels.to(table.dtype) @ table if labels.is_floating_point() else F.embedding(labels, table)
        if chunk is not None:
            latent = self.layer("latent", side)
            common = common + F.linear(chunk.to(table.dtype), weight_of(latent), latent.bias)
        return mine + common

    def forward(self, x: Tensor, condition: tuple[Tensor, Tensor | None]) -> Tensor:
        x = self.normalise(x)
        with torch.autocast(x.device.type, enabled=False):
            gain, bias = 1 + self.pairs("g", *condition), self.pairs("b", *condition)
        # To x's type before the broadcast: an fp32 vector would lift a bf16 map to fp32.
        return torch.addcmul(bias.to(x.dtype)[:, :, None, None], x, gain.to(x.dtype)[:, :, None, None])


def weight_of(layer: nn.Module) -> Tensor:
    """The weight that a layer applies; a spectrally normalised one makes a power step."""
    return layer.normalised_weight() if isinstance(layer, SpectralNorm) else cast(Tensor, layer.weight)


class TransferGenerator(GeneratorBody):
    """z (N, dim_z) and labels (N,) to images (N, image_channels, S, S) in (-1, 1).

    Args:
        old_classes: N, of the pretrained network. classes: M, of the new labels. variant: see `Variant`.
        The others as in `gankd.models.biggan.Generator`.
    """

    def __init__(
        self, image_size: int, old_classes: int, classes: int, image_channels: int = 3, width: int = 64, dim_z: int = 128,
        hierarchical: bool = False, attention: Sequence[int] = (), variant: Variant = "plain",
        sn_eps: float = 1e-8, bn_eps: float = 1e-5, init: str = "N02",
    ) -> None:  # fmt: skip
        super().__init__()
        check_image_size(image_size, GENERATOR_CHANNELS)
        self.old_classes, self.classes, self.variant = old_classes, classes, variant

        def norm(channels: int, chunk: int) -> TransferBatchNorm:
            return TransferBatchNorm(channels, old_classes, classes, chunk, variant, sn_eps, bn_eps)

        self.grow(image_size, image_channels, width, dim_z, hierarchical, attention, sn_eps, norm)
        initialise(self, init)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """labels: integers (N,), or mixtures of the new classes (N, M), floats."""
        if labels.is_floating_point() and labels.shape[1:] != (self.classes,):
            raise UserError(f"mixtures of {self.classes} classes must have shape (N, {self.classes}), not {tuple(labels.shape)}.")
        z, chunks = self.chunks(z)
        return self.render(z, [(labels, chunk) for chunk in chunks])

    def norms(self) -> list[TransferBatchNorm]:
        return [module for module in self.modules() if isinstance(module, TransferBatchNorm)]

    def parts(self, *parts: Part) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters that belong to these parts of the new batch norms."""
        prefixes = tuple(f"{LAYER_OF_PART[part]}_" for part in parts)
        return ((name, p) for name, p in self.named_parameters() if name.split(".")[-2].startswith(prefixes))

    @torch.no_grad()
    def scores(self) -> Tensor:
        """What every new class borrows from every old one: (layers, 2 for gain and bias, M, N)."""
        found = [norm.scores(side) for norm in self.norms() for side in SIDES]
        return torch.stack([(slope + offset[:, None]).t() for slope, offset in found]).unflatten(0, (-1, len(SIDES)))


@torch.no_grad()
def take_over(
    new: TransferGenerator, old: Generator, scores: Tensor | None = None, residual: Literal["zero", "random"] = "zero"
) -> None:
    """Start `new` from the pretrained `old`, in place.

    plain: P and Z are the pairs that the old network really applies, its spectral norms folded in, and c = 0. With `scores`
    one-hot and residual "zero", a new class then makes exactly the old class's images.
    imagenet, cifar: as the authors' code: P and Z from the raw weights; c and p stay as they were initialised.

    Args:
        scores: (M, N), becomes A with a = 0; None leaves both as initialised.
        residual: "random" leaves R as initialised.
    """
    shared = old.shared
    tables = tuple(name for name, _ in old.named_modules() if name.endswith((".gain", ".bias")))
    body = {name: value for name, value in old.state_dict().items() if not name.startswith(("shared.", *tables))}
    missing = new.load_state_dict(body, strict=False)
    if missing.unexpected_keys:
        raise UserError(f"a generator with {', '.join(missing.unexpected_keys[:3])} cannot be transferred.")
    old_norms = [norm for block in old.blocks for norm in (block[0].bn1, block[0].bn2)]  # type: ignore[index]
    for norm, source in zip(new.norms(), old_norms, strict=True):
        for side, table in zip(SIDES, (source.gain, source.bias), strict=True):
            weight = _applied(table) if new.variant == "plain" else table.weight
            width = shared.weight.shape[1] if shared is not None else 0
            # With a shared embedding the layer is a linear map of (embedding, z); without, a table (N, C).
            base = weight[:, :width] @ shared.weight.t() if shared is not None else weight.t()
            norm.layer("base", side).weight.copy_(base)
            if new.hierarchical:
                latent = norm.layer("latent", side)
                latent.weight.copy_(weight[:, width:])
                if new.variant == "plain":
                    latent.bias.zero_()
            if scores is not None:
                norm.layer("combination", side).weight.copy_(scores.t())
                norm.layer("combination", side).bias.zero_()
            if residual == "zero":
                norm.layer("residual", side).weight.zero_()


def _applied(table: nn.Module) -> Tensor:
    """The weight that `table` applies in eval mode."""
    training = table.training
    weight = weight_of(table.eval())
    table.train(training)
    return weight


def with_fresh_classes(network: Generator | Discriminator, classes: int) -> Generator | Discriminator:
    """The same network for `classes` new labels: what belongs to the old labels is drawn anew, all else is copied.

    That is the projection table of a discriminator, and of a generator the shared embedding, or the tables per layer.
    """
    recipe: Any = network.recipe
    new: Generator | Discriminator = build(**{**recipe, "classes": classes})
    if isinstance(network, Discriminator):
        own: tuple[str, ...] = ("embed.",)
    elif network.shared is not None:
        own = ("shared.",)
    else:
        own = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, nn.Embedding))
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith(own)}
    new.load_state_dict(kept, strict=False)
    return new
