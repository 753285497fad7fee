"""What is trained: encoders, the heads that stand on them while they train, the squeeze module, and linear probes.

An encoder takes images (N, C, H, W) in [-1, 1], normalises them by itself, and gives features (N, feature_dim).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from gankd import models

Normalisation = Sequence[Sequence[float]] | None  # mean and std per channel, of pixels in 0..1


class ResNet18Encoder(ResNet):
    """torchvision's ResNet-18 without its last layer: (N, 512). The state dict is torchvision's, less `fc`.

    Args:
        stem: "cifar" (3 x 3, stride 1, no pooling) or "imagenet" (7 x 7, stride 2, and pooling).
        normalisation: of the images; None leaves them in [-1, 1].

    The last batch norm of each block starts at zero. The stem of 3 x 3 keeps torch's own initialisation, as the reference.
    """

    def __init__(
        self, image_channels: int = 3, image_size: int = 32, stem: str = "cifar", normalisation: Normalisation = None
    ) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], zero_init_residual=True)
        if stem == "cifar":
            self.conv1 = nn.Conv2d(image_channels, 64, 3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()  # type: ignore[assignment]
        elif image_channels != 3:
            self.conv1 = nn.Conv2d(image_channels, 64, 7, stride=2, padding=3, bias=False)
        self.feature_dim = 512
        self.fc = nn.Identity()  # type: ignore[assignment]
        self.normalise = Normalise(normalisation)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = super().forward(self.normalise(images))
        return features


class ClassifierEncoder(nn.Module):
    """A classifier of the platform without its last layer, for images too small for a ResNet-18."""

    def __init__(
        self, network: str, image_channels: int = 3, image_size: int = 32, normalisation: Normalisation = None, **options: Any
    ) -> None:
        super().__init__()
        self.network = models.build(network, classes=1, image_channels=image_channels, image_size=image_size, **options)
        self.feature_dim = self.network.feature_dim
        self.network.linear = nn.Identity()
        self.normalise = Normalise(normalisation)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network.features(self.normalise(images))
        return features


class Normalise(nn.Module):
    """Images in [-1, 1] to ((x + 1) / 2 - mean) / std. Has no state of its own: the recipe holds the numbers."""

    mean: Tensor
    std: Tensor

    def __init__(self, normalisation: Normalisation) -> None:
        super().__init__()
        mean, std = normalisation or ((0.5,), (0.5,))
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return ((images + 1) / 2 - self.mean) / self.std


class DiscriminatorEncoder(nn.Module):
    """A discriminator's features of images: its last ones, or those of all blocks, each averaged over space, in a row.

    A StyleGAN2's answers an image by what stands beside it in the batch (minibatch-std). So that features are an image's own,
    the number that tells of it is the one of a batch that was laid down once (`spread`).
    """

    spread: Tensor

    def __init__(self, discriminator: dict[str, Any], multi: bool, image_channels: int, image_size: int) -> None:
        super().__init__()
        self.discriminator, self.multi = models.build(**discriminator), multi
        if self.compares:
            self.register_buffer("spread", torch.zeros(self.discriminator.b4.spreads))
        with torch.no_grad():
            self.feature_dim = int(self.eval()(torch.zeros(2, image_channels, image_size, image_size)).shape[1])

    @property
    def compares(self) -> bool:
        return getattr(self.discriminator, "compares_images", False) and self.discriminator.b4.spreads > 0

    def lay_down(self, images: Tensor) -> None:
        """Take the spread of these images from now on."""
        if self.compares:
            self.spread.copy_(self.discriminator.spread_of(images))

    def forward(self, images: Tensor) -> Tensor:
        if self.compares:
            self.discriminator.b4.fixed = self.spread
        if self.multi:
            return torch.cat(self.discriminator.block_features(images), 1)
        features: Tensor = self.discriminator.features(images)
        return features


def mlp(inputs: int, hidden: int, outputs: int, layers: int, *, last_bias: bool) -> nn.Sequential:
    """`layers` linear layers; behind all but the last batch norm and ReLU, and no bias in them."""
    parts: list[nn.Module] = []
    for _ in range(layers - 1):
        parts += [nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU()]
        inputs = hidden
    return nn.Sequential(*parts, nn.Linear(inputs, outputs, bias=last_bias))


class SqueezeModule(nn.Module):
    """T_phi: a generator's maps, or these averaged over space, to a vector: the sum of a linear layer on each, then an MLP.

    Args:
        widths: channels of the maps, from the coarsest on. hidden: width of all in between. outputs: M. depth: layers of the MLP.
    """

    def __init__(self, widths: Sequence[int], hidden: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.laterals = len(widths)
        for index, width in enumerate(widths):
            self.add_module(f"lateral{index}", nn.Linear(width, hidden))
        self.to_repr = mlp(hidden, hidden, outputs, depth, last_bias=True)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        laterals = [self.get_submodule(f"lateral{index}")(pooled(each)) for index, each in enumerate(maps)]
        summed: Tensor = self.to_repr(torch.stack(laterals).sum(0))
        return summed


class Concatenated(nn.Module):
    """In place of a squeeze module: the pooled maps in a row, nothing trained."""

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat([pooled(each) for each in maps], 1)


class Standardised(nn.Module):
    """A module on a generator's features, each of which is first brought to mean 0 and deviation 1.

    For generators whose blocks differ in scale, such as BigGAN, where the first would decide a distance alone.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, inner: nn.Module, widths: Sequence[int], mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.inner, self.widths = inner, list(widths)
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        row = (torch.cat([pooled(each) for each in maps], 1) - self.mean) / self.deviation
        found: Tensor = self.inner(row.split(self.widths, 1))
        return found


def pooled(maps: Tensor) -> Tensor:
    """Maps (N, C, H, W) averaged over space; what is (N, C) already stays."""
    return maps.mean((2, 3)) if maps.dim() == 4 else maps


class Student(nn.Module):
    """An encoder and the head that stands on it while it trains: images -> z (N, M)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module, predictor: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.projector, self.predictor = backbone, projector, predictor

    def forward(self, images: Tensor) -> Tensor:
        z: Tensor = self.projector(self.backbone(images))
        return z


def simsiam_heads(width: int, outputs: int, layers: int, hidden: int) -> tuple[nn.Sequential, nn.Sequential]:
    """SimSiam's projector, which ends in a batch norm without gain and a bias that stays, and its predictor."""
    projector = mlp(width, width, outputs, layers, last_bias=True)
    projector[-1].bias.requires_grad_(False)  # type: ignore[union-attr]
    projector.append(nn.BatchNorm1d(outputs, affine=False))
    return projector, mlp(outputs, hidden, outputs, 2, last_bias=True)


class LinearProbe(nn.Module):
    """An encoder that is left as it is, and a linear classifier on its features: images -> logits (N, classes)."""

    def __init__(self, encoder: dict[str, Any], classes: int, image_channels: int, image_size: int) -> None:
        super().__init__()
        self.encoder = models.build(**encoder)
        self.linear = nn.Linear(self.encoder.feature_dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        return F.linear(self.encoder(images), self.linear.weight, self.linear.bias)
