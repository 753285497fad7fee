"""A classifier that is given more classes than it had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.models.classifier import Outputs, OwnNormalisation


def widened(network: Any, classes: int, seed: int) -> Any:
    """A copy of a classifier with outputs for `classes` classes: the old ones as they are, the others drawn by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wide = models.build(**{**network.recipe, "classes": classes})
    state = wide.state_dict()
    for name, value in network.state_dict().items():
        if value.shape == state[name].shape:
            state[name] = value
        else:  # of the last layer
            state[name] = torch.cat([value, state[name][len(value) :].to(value.device)])
    wide.load_state_dict(state)
    return wide


def head(network: Any) -> nn.Linear:
    """The last layer of a classifier."""
    layer: nn.Linear = network.network.linear if isinstance(network, OwnNormalisation) else network.linear
    return layer


@torch.no_grad()
def put_in_order(network: Any, order: Sequence[int]) -> None:
    """Let output c be of class c, where output i was of class order[i]."""
    layer, place = head(network), torch.tensor(order).argsort().to(head(network).weight.device)
    layer.weight.copy_(layer.weight[place])
    layer.bias.copy_(layer.bias[place])


class OldAnswers:
    """The growing network as synthesis sees it: its answers among the classes that M_old knows."""

    def __init__(self, network: Any, classes: int) -> None:
        self.network, self.classes = network, classes

    def outputs(self, images: Tensor) -> Outputs:
        logits, features, blocks = self.network.outputs(images)
        return logits[:, : self.classes], features, blocks
