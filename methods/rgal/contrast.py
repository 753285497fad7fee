"""CMI's contrast: an image is to be known again by its local view, among all images made so far."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.models.classifier import OwnNormalisation
from methods.rgal.losses import contrastive_loss

RESNET34_STAGES = ("layer1", "layer2", "layer3", "layer4")


def batch_norms(network: nn.Module) -> list[nn.Module]:
    """All batch norm layers, shortcuts' too."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def instance_layers(teacher: Any) -> list[nn.Module]:
    """The layers whose inputs make an instance feature, as CMI's code has them: the batch norm layers; of a ResNet-34 its stages.

    Those are 64 + 64 + 128 + 256 = 512 channels in place of 8,512, and the last stage's output is not among them.
    """
    if teacher.recipe["name"] != "ResNet34":
        return batch_norms(teacher)
    network = teacher.network if isinstance(teacher, OwnNormalisation) else teacher
    return [network.get_submodule(stage) for stage in RESNET34_STAGES]


def width_of_input(layer: Any) -> int:
    """Channels of what an instance layer is given."""
    width: int = layer.num_features if isinstance(layer, nn.BatchNorm2d) else layer[0].conv1.in_channels
    return width


def instance_features(maps: list[Tensor]) -> Tensor:
    """What flows into the instance layers, each averaged over space, side by side: (N, sum of channels)."""
    return torch.cat([m.float().mean((2, 3)) for m in maps], dim=1)


class Contrast(nn.Module):
    """A head that embeds instance features, and a ring of the features of images of earlier rounds.

    Rows of the ring are [local, global], half precision: at WRN-40-2 it is the largest thing that a checkpoint holds.
    """

    bank: Tensor
    kept: Tensor

    def __init__(self, dim: int, width: int, capacity: int, batch: int) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, width))
        self.register_buffer("bank", torch.zeros(capacity, 2 * dim, dtype=torch.float16))
        # Features of the iterate that is kept, for the ring.
        self.register_buffer("kept", torch.zeros(batch, 2 * dim, dtype=torch.float16))
        self.written = 0

    def embed(self, features: Tensor) -> Tensor:
        """Instance features -> unit embeddings."""
        return F.normalize(self.head(features), dim=1)

    def remembered(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Local and global features of up to `n` different images of earlier rounds."""
        there = min(self.written, len(self.bank))
        chosen = torch.randperm(there, generator=rng, device=rng.device)[:n]
        local, other = self.bank[chosen].float().chunk(2, dim=1)
        return local, other

    def loss(self, local: Tensor, other: Tensor, remembered: tuple[Tensor, Tensor], temperature: float) -> Tensor:
        """Mean over these images plus, when there are earlier ones, mean over those; all are each other's negatives.

        local, other: instance features of two views of this batch (N, dim). The gradient reaches the images by way of the
        local view only.
        """
        n = len(local)
        embedded = self.embed(torch.cat([local, remembered[0], other, remembered[1]]))
        mine_and_earlier, theirs = embedded.chunk(2)
        per_item = contrastive_loss(mine_and_earlier, theirs, temperature)
        mine, earlier = per_item[:n], per_item[n:]
        return mine.mean() + earlier.mean() if len(earlier) else mine.mean()

    @torch.no_grad()
    def remember_kept(self) -> None:
        """Put the kept features into the ring, over the oldest ones."""
        place = torch.arange(self.written, self.written + len(self.kept), device=self.bank.device) % len(self.bank)
        self.bank[place[-len(self.bank) :]] = self.kept[-len(self.bank) :]
        self.written += len(self.kept)

    def get_extra_state(self) -> dict[str, Any]:
        return {"written": self.written}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.written = int(state["written"])
