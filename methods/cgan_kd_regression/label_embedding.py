"""What a label enters the networks as: a vector h.

ILI, the improved label input of CcGAN, learns it. Net A reads the label off an image: image -> h -> y. Net B, trained after it,
goes from the label to an h of which A's head h -> y says that label again. B is kept, and frozen. Or h is fixed: Fourier
features of the label's place in its range.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import Algorithm, autocast, evaluating, train, update
from gankd.models.classifier import global_pool
from gankd.models.resnet import BasicBlock
from gankd.models.small_cnn import SmallCNN
from gankd.stages.schedule import multistep
from gankd.stages.task import Continuous, task_of
from methods.cgan_kd_regression.gan_config import LabelEmbeddingConfig

GROUPS = 8  # of GroupNorm
EVALUATIONS = 20  # points of a validation curve
LABELS_TOLD = 1000  # labels, equally far apart, by which the embedding is measured


class LabelEmbedding(nn.Module):
    """Net B, label -> h: labels (N,) in the data's own unit to (N, dim), h >= 0. 67,328 parameters for dim 128.

    low, high: range of the labels. What h is of labels outside it was never learned.
    """

    kind = "learned"

    def __init__(self, low: float, high: float, dim: int = 128) -> None:
        super().__init__()
        self.task, self.dim = Continuous(low, high, ""), dim
        layers = nn.Sequential()
        for inputs in (1, dim, dim, dim):
            layers.extend([nn.Linear(inputs, dim), nn.GroupNorm(GROUPS, dim), nn.ReLU()])
        self.layers = layers.extend([nn.Linear(dim, dim), nn.ReLU()])

    def forward(self, labels: Tensor) -> Tensor:
        return self.of_places(self.task.place(labels))

    def of_places(self, places: Tensor) -> Tensor:
        """Places in the range, 0..1 (N,), to h. In full precision always: bf16 tells 128 places of the upper half apart."""
        with torch.autocast(places.device.type, enabled=False):
            h: Tensor = self.layers(places[:, None] + 1e-8)
            return h


class FourierFeatures(nn.Module):
    """cos(k pi y), sin(k pi y), k = 1 to dim / 2, y the place of the label in its range: labels (N,) to (N, dim), in [-1, 1].

    Half periods, because the two ends of a range are not the same label. <h(y), h(y')> depends on the distance of y and y' alone.
    """

    kind = "fourier"

    def __init__(self, low: float, high: float, dim: int = 12) -> None:
        super().__init__()
        self.task, self.dim = Continuous(low, high, ""), dim

    def forward(self, labels: Tensor) -> Tensor:
        halves = torch.arange(1, self.dim // 2 + 1, device=labels.device)
        phases = math.pi * self.task.place(labels).float()[:, None] * halves
        return torch.cat([phases.cos(), phases.sin()], dim=1)


KINDS = {network.kind: network for network in (LabelEmbedding, FourierFeatures)}


class ImageNetwork(nn.Module):
    """Net A: images (N, C, H, W) in [-1, 1] -> h (N, dim) -> place of the label in its range (N, 1), >= 0.

    `trunk="resnet34"`: 21,610,945 parameters for RGB; all four stages of blocks halve the map.
    """

    def __init__(self, dim: int, image_channels: int, image_size: int, trunk: str, width: int) -> None:
        super().__init__()
        if trunk == "resnet34":
            self.trunk, trunk_dim = _resnet34(image_channels), 512
        else:
            small = SmallCNN(1, image_channels, image_size, width)
            self.trunk, trunk_dim = small.layers, small.feature_dim
        self.to_h = nn.Sequential(
            *(nn.Linear(trunk_dim, trunk_dim), nn.BatchNorm1d(trunk_dim), nn.ReLU()),
            *(nn.Linear(trunk_dim, dim), nn.BatchNorm1d(dim), nn.ReLU()),
        )
        head = nn.Linear(dim, 1)
        nn.init.constant_(head.bias, 0.5)  # the middle of the range: a ReLU that is 0 for all images has no gradient
        self.to_place = nn.Sequential(head, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        places: Tensor = self.to_place(self.to_h(global_pool(self.trunk(images))))
        return places


def _resnet34(image_channels: int) -> nn.Sequential:
    """Up to the last maps: a stem at full size, then 3, 4, 6, 3 blocks, each of whose stages begins with stride 2."""
    layers = nn.Sequential(nn.Conv2d(image_channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
    channels = 64
    for width, count in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(count):
            layers.append(BasicBlock(channels, width, 1 if block else 2))
            channels = width
    return layers


class LabelEmbeddingTraining(Algorithm):
    """First net A by the squared error of the place; then net B by that of A's head behind it, on labels with noise."""

    def __init__(self, ctx: Context, cfg: LabelEmbeddingConfig, data: DataSet) -> None:
        self.ctx, self.cfg, self.task = ctx, cfg, task_of(data)
        self.real, self.validation = Resident(data.train, ctx.device, flip=cfg.flip), Resident(data.val, ctx.device)
        assert isinstance(self.task, Continuous)
        self.distinct = self.task.place(self.real.labels.unique())
        self.image_steps = cfg.epochs * max(1, len(self.real) // cfg.batch)
        self.label_steps = cfg.label_epochs * -(-len(self.distinct) // cfg.label_batch)
        images = ImageNetwork(cfg.dim, data.image_channels, data.image_size, cfg.trunk, cfg.width)
        self.images = images.to(ctx.device).to(memory_format=torch.channels_last)
        self.labels = models.build("label_embedding", low=self.task.low, high=self.task.high, dim=cfg.dim).to(ctx.device)
        self.modules = {"images": self.images, "labels": self.labels}
        self.optimizers = {name: self.sgd(module) for name, module in self.modules.items()}

    def sgd(self, module: nn.Module) -> torch.optim.SGD:
        cfg = self.cfg
        return torch.optim.SGD(module.parameters(), cfg.lr, momentum=cfg.momentum, weight_decay=cfg.weight_decay, fused=True)

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        if step < self.image_steps:
            return self.learn_images(step, rng)
        return self.learn_labels(step - self.image_steps, rng)

    def learn_images(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.real.batch(self.cfg.batch, rng, self.ctx.rank, self.ctx.world_size)
        self.images.train()
        with autocast(self.ctx.device, self.cfg.precision):
            loss = self.task.loss(self.images(images.contiguous(memory_format=torch.channels_last)), labels)
        rate = multistep(step, [share * self.image_steps for share in self.cfg.milestones])
        update(self.ctx, loss, self.optimizers["images"], self.images, lr=self.cfg.lr * rate)
        return {"loss_images": loss.detach()}

    def learn_labels(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        n = self.cfg.label_batch
        chosen = self.distinct[torch.randint(len(self.distinct), (n,), generator=rng, device=rng.device)]
        noise = self.cfg.label_noise * torch.randn(n, generator=rng, device=rng.device)
        places = (chosen + noise).clamp(0, 1).chunk(self.ctx.world_size)[self.ctx.rank]
        loss = F.mse_loss(self.told(places), places)
        rate = multistep(step, [share * self.label_steps for share in self.cfg.label_milestones])
        update(self.ctx, loss, self.optimizers["labels"], self.labels, lr=self.cfg.lr * rate)
        return {"loss_labels": loss.detach()}

    def told(self, places: Tensor) -> Tensor:
        """What net A's head, frozen, says of net B's h: (N,) places to (N,)."""
        return self.images.to_place.requires_grad_(False)(self.labels.of_places(places))[:, 0]

    def due(self, step: int) -> bool:
        return step == self.image_steps

    def evaluate(self, step: int) -> dict[str, float]:
        """Mean absolute errors in the label's unit: val_mae of net A on validation images, label_mae of labels through h."""
        assert isinstance(self.task, Continuous)
        metrics = {"val_mae": self.task.measure(self.images, self.validation, self.ctx)}
        if step > self.image_steps:
            with evaluating(self.labels):
                places = torch.linspace(0, 1, LABELS_TOLD, device=self.ctx.device)
                error = (self.told(places) - places).abs().mean()
            metrics["label_mae"] = float(error) * (self.task.high - self.task.low)
        return metrics


def train_label_embedding(ctx: Context, cfg: LabelEmbeddingConfig, data: DataSet) -> dict[str, float]:
    """Nets A and B, one after the other. Makes net B, a `LabelEmbedding` that holds the label's range; or `FourierFeatures`."""
    if cfg.kind == "fourier":
        return keep_fourier_features(ctx, cfg, data)
    for batch, what in ((cfg.batch, "batch"), (cfg.label_batch, "label_batch")):
        ctx.share(batch, what)
    training = LabelEmbeddingTraining(ctx, cfg, data)
    steps = training.image_steps + training.label_steps
    metrics = train(ctx, training, steps=steps, batch=cfg.batch, evaluate_every=max(1, steps // EVALUATIONS))
    models.save(training.labels, ctx.out)
    return metrics | {"parameters": float(sum(p.numel() for p in training.labels.parameters()))}


def keep_fourier_features(ctx: Context, cfg: LabelEmbeddingConfig, data: DataSet) -> dict[str, float]:
    """Fourier features hold the range of labels, and nothing is trained."""
    task = task_of(data)
    assert isinstance(task, Continuous)
    models.save(models.build("fourier_features", low=task.low, high=task.high, dim=2 * cfg.frequencies), ctx.out)
    return {"parameters": 0.0}
