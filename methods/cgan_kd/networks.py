"""The networks of module M1: phi, whose features are compared, and psi, the density ratio on them (cDR-RS)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.classifier import Classifier, global_pool, is_large
from gankd.models.resnet import ResNet34
from gankd.models.small_cnn import SmallCNN

Trunk = Literal["resnet34", "small"]
WIDTHS: dict[str, tuple[int, ...]] = {
    "MLP3": (512, 256, 128),
    "MLP5": (2048, 1024, 512, 256, 128),
    "MLP7": (2048, 2048, 1024, 1024, 512, 256, 128),
    "MLP9": (2048, 2048, 1024, 1024, 512, 512, 256, 256, 128),
}
Output = Literal["softplus", "relu"]


class FeatureExtractor(Classifier):
    """phi: trunk, global mean, linear to C * H * W numbers = the feature, then BN-ReLU-dropout layers to the logits.

    `features(images)` is (N, C * H * W) without activation, so a feature has as many numbers as its image.
    `trunk="resnet34"` has hidden layers of 1024 and 256 before the logits: 26,296,484 parameters for 100 classes of
    32 px, 97,213,604 for 128 px (which is max-pooled twice more). `trunk="small"` is a `SmallCNN` of `width` channels
    without hidden layers, for digits of 8 to 32 px on a laptop.
    """

    def __init__(
        self,
        classes: int,
        image_channels: int = 3,
        image_size: int = 32,
        trunk: Trunk = "resnet34",
        width: int = 16,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        hidden: tuple[int, ...]
        if trunk == "resnet34":
            self.trunk, trunk_dim, hidden = _resnet34_trunk(image_channels, image_size), 512, (1024, 256)
        elif trunk == "small":
            small = SmallCNN(classes, image_channels, image_size, width)
            self.trunk, trunk_dim, hidden = small.layers, small.feature_dim, ()
        else:
            raise ValueError(f"trunk is {trunk!r}; allowed: resnet34, small")
        self.feature_dim = image_channels * image_size**2
        self.to_feature = nn.Linear(trunk_dim, self.feature_dim)
        tail = nn.Sequential(*_activation(self.feature_dim, dropout))
        channels = self.feature_dim
        for width_out in hidden:
            tail.extend([nn.Linear(channels, width_out), *_activation(width_out, dropout)])
            channels = width_out
        self.tail = tail
        self.linear = nn.Linear(channels, classes)

    def features(self, images: Tensor) -> Tensor:
        return self.to_feature(global_pool(self.trunk(images)))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.tail(self.features(images)))


def _activation(channels: int, dropout: float) -> list[nn.Module]:
    return [nn.BatchNorm1d(channels), nn.ReLU(inplace=True), nn.Dropout(dropout)]


def _resnet34_trunk(image_channels: int, image_size: int) -> nn.Sequential:
    """ResNet-34 up to its last maps with the 3 x 3 stem at every size; large images are pooled after stages 1 and 2."""
    resnet = ResNet34(classes=1, image_channels=image_channels, image_size=32)
    pools = [nn.MaxPool2d(2), nn.MaxPool2d(2)] if is_large(image_size) else [nn.Identity(), nn.Identity()]
    layer1, layer2, layer3, layer4 = (resnet.get_submodule(f"layer{i}") for i in (1, 2, 3, 4))
    stem = (resnet.conv1, resnet.bn1, nn.ReLU(inplace=True))
    return nn.Sequential(*stem, layer1, pools[0], layer2, pools[1], layer3, layer4)


class DensityRatio(nn.Module):
    """psi(h, y) ~ p_real(h | y) / p_fake(h | y), a ratio >= 0.

    [class embedding, feature] -> (linear, GroupNorm, ReLU, dropout) x L -> linear -> softplus.
    `widths` is a name of `WIDTHS` or the hidden widths themselves (multiples of `groups`). The embedding is a learnable
    `classes x classes` table. `output="relu"` is the reference's; there a network that gives 0 everywhere has no
    gradient and stays so, hence `softplus` by default. 9,303,569 parameters for MLP5, 100 classes, 3072 features.
    """

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        widths: str | Sequence[int] = "MLP5",
        dropout: float = 0.5,
        output: Output = "softplus",
        groups: int = 8,
    ) -> None:
        super().__init__()
        if isinstance(widths, str) and widths not in WIDTHS:
            raise ValueError(f"widths is {widths!r}; allowed: {', '.join(WIDTHS)} or a sequence of integers")
        hidden = WIDTHS[widths] if isinstance(widths, str) else tuple(widths)
        if output not in ("softplus", "relu"):
            raise ValueError(f"output is {output!r}; allowed: softplus, relu")
        self.output = output
        self.embedding = nn.Embedding(classes, classes)
        self.layers = ratio_layers(classes + feature_dim, hidden, dropout, groups)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """Features (N, feature_dim) and class indices (N,) -> ratios (N,)."""
        return as_ratio(self.layers(torch.cat([self.embedding(labels), features], dim=1)), self.output)


def ratio_layers(channels: int, hidden: Sequence[int], dropout: float, groups: int) -> nn.Sequential:
    """(linear, GroupNorm, ReLU, dropout) for each of `hidden` and a last linear layer: (N, channels) -> (N, 1)."""
    if any(width % groups for width in hidden):
        raise UserError(f"widths of the density ratio are {list(hidden)}; each must be a multiple of {groups}")
    layers = nn.Sequential()
    for width in hidden:
        layers.extend([nn.Linear(channels, width), nn.GroupNorm(groups, width), nn.ReLU(), nn.Dropout(dropout)])
        channels = width
    layers.append(nn.Linear(channels, 1))
    return layers


def as_ratio(out: Tensor, output: Output) -> Tensor:
    """What the layers give, (N, 1), as numbers >= 0, (N,)."""
    return F.softplus(out[:, 0]) if output == "softplus" else F.relu(out[:, 0])
