"""The classifier whose inner layer is the feature space of the density ratio (cGAN-KD, "ResNet34_extract")."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from gankd.models.classifier import Classifier, global_pool, is_large
from gankd.models.resnet import ResNet34
from gankd.models.small_cnn import SmallCNN

Trunk = Literal["resnet34", "small"]


class FeatureExtractor(Classifier):
    """trunk, global mean, linear to C * H * W numbers = the feature, BN-ReLU-dropout layers to the logits.

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
