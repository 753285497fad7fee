"""Linear evaluation: a linear classifier on the features of an encoder that stays as it is, at several learning rates at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.data.views import Flip, Operation, ResizedCrop, viewed
from gankd.engine import Algorithm, autocast, train, update
from gankd.stages.schedule import cosine
from methods.squeeze_span.config import LinearConfig
from methods.squeeze_span.neighbours import features_of

TRUST, TOP = 1e-3, 5


class Lars(torch.optim.SGD):
    """SGD behind LARS: each gradient g of a parameter p becomes (g + wd p) TRUST ||p|| / (||g|| + wd ||p||), if neither is 0.

    You, Gitman, Ginsburg 2017, as LARC without clipping. The decay is within it, so that SGD itself has none.
    """

    def __init__(self, parameters: Any, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, lr, momentum=momentum)
        self.decay = weight_decay

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for parameter in (p for group in self.param_groups for p in group["params"] if p.grad is not None):
            size, slope = parameter.norm(), parameter.grad.norm()
            scaled = (parameter.grad + self.decay * parameter) * TRUST * size / (slope + self.decay * size + 1e-8)
            parameter.grad = torch.where((size > 0) & (slope > 0), scaled, parameter.grad)
        super().step(closure)


class Heads(nn.Module):
    """A linear classifier for each learning rate: features (N, d) -> logits (rates, N, classes). Weights ~ N(0, 0.01²)."""

    def __init__(self, rates: int, width: int, classes: int, rng: torch.Generator) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, classes) for _ in range(rates))
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01, generator=rng)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([head(features) for head in self.heads])


class LinearTraining(Algorithm):
    """All heads on the same features of the same batches, each by SGD at its own rate.

    Without augmentation an image's features are computed once.
    """

    def __init__(self, ctx: Context, cfg: LinearConfig, data: DataSet, encoder: nn.Module) -> None:
        self.ctx, self.cfg, self.encoder = ctx, cfg, encoder.eval().requires_grad_(False).to(ctx.device)
        self.real, self.order = Resident(data.train, ctx.device), ctx.seed_for(0, "order")
        self.kept = None if cfg.augment else features_of(self.encoder, self.real)
        self.held_out = features_of(self.encoder, Resident(data.val, ctx.device))
        wanted: list[Operation] = [ResizedCrop((cfg.crop_area, 1))] if cfg.crop_area < 1 else []
        self.view = [*wanted, Flip()] if cfg.flip else wanted
        self.steps_an_epoch = self.real.steps_for(1, cfg.batch)
        # From a generator of their own: the same whatever was built, or loaded, before.
        drawn = ctx.rng(0, "heads", device="cpu")
        self.heads = Heads(len(cfg.lrs), self.held_out[0].shape[1], data.classes or 0, drawn).to(ctx.device)
        groups = [{"params": list(head.parameters()), "base": rate} for head, rate in zip(self.heads.heads, cfg.lrs, strict=True)]
        kind: Any = Lars if cfg.optimiser == "lars" else torch.optim.SGD
        optimizer = kind(groups, lr=0.0, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
        self.modules, self.optimizers = {"heads": self.heads}, {"heads": optimizer}

    @property
    def steps(self) -> int:
        return self.cfg.epochs * self.steps_an_epoch

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        features, labels = self.batch(step, rng)
        loss = F.cross_entropy(self.heads(features).flatten(0, 1), labels.repeat(len(self.cfg.lrs)), reduction="none")
        by_rate = loss.view(len(self.cfg.lrs), -1).mean(1)
        for group in self.optimizers["heads"].param_groups:
            group["lr"] = group["base"] * self.cfg.batch / 256 * cosine(step // self.steps_an_epoch, self.cfg.epochs)
        update(self.ctx, by_rate.sum(), self.optimizers["heads"], self.heads)  # each head's gradient is of its own loss
        return {"loss": by_rate.detach().min()}

    def batch(self, step: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features and labels of this worker's part of the batch."""
        n, ctx = self.cfg.batch, self.ctx
        if self.kept is not None:
            index = self.real.walk(step, n, self.order).chunk(ctx.world_size)[ctx.rank]
            return self.kept[0][index], self.kept[1][index]
        images, labels = self.real.epoch_batch(step, n, None, self.order, ctx.rank, ctx.world_size)
        share = n // ctx.world_size
        images = viewed(self.view, images, rng, slice(ctx.rank * share, (ctx.rank + 1) * share), n)
        with torch.no_grad(), autocast(ctx.device, self.cfg.precision):
            return self.encoder(images.contiguous(memory_format=torch.channels_last)).float(), labels

    @torch.no_grad()
    def accuracies(self) -> Tensor:
        """Top-1 on the validation part by rate, in percent."""
        features, labels = self.held_out
        return 100 * (self.heads(features).argmax(2) == labels).float().mean(1)

    def evaluate(self, step: int) -> dict[str, float]:
        return {"val_accuracy": float(self.accuracies().max())}

    def best(self) -> tuple[nn.Linear, float]:
        """The head that is best on the validation part, the first of equals, and its rate."""
        place = int(self.accuracies().argmax())
        head: Any = self.heads.heads[place]
        return head, self.cfg.lrs[place]


def fit_linear(ctx: Context, cfg: LinearConfig, data: DataSet, encoder: nn.Module) -> LinearTraining:
    """Train to the end."""
    training = LinearTraining(ctx, cfg, data, encoder)
    train(ctx, training, steps=training.steps, batch=cfg.batch, evaluate_every=max(1, training.steps // 20))
    return training


def top(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share in percent of rows whose label is among the k largest of their logits (N, classes)."""
    hits = logits.topk(min(k, logits.shape[1]), dim=1).indices == labels[:, None]
    return 100 * float(hits.any(1).float().mean())


def right_answers(probe: Any, images: Resident, prefix: str) -> dict[str, float]:
    """Top-1 and top-5 in percent of a `LinearProbe` on a part of the data, as `<prefix>_accuracy` and `<prefix>_top5`."""
    features, labels = features_of(probe.encoder, images)
    logits = probe.linear(features)
    return {f"{prefix}_accuracy": top(logits, labels, 1), f"{prefix}_top5": top(logits, labels, TOP)}
