"""phi for labels that are numbers: the code of a sparse autoencoder that also tells the label (cDR-RS).

L = MSE(x^, x) + lambda_s mean(h) + lambda_r MSE(u^, u): h = phi(x) is the code, u the place of the label in its range.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import autocast, evaluating, train, update
from gankd.pictures import sample_grid
from gankd.stages.classifier import EVALUATIONS, Batch, ClassifierTraining, keep_classifier, rate_of
from gankd.stages.task import Continuous
from methods.cgan_kd_regression.config import ExtractorConfig

BOTTOM = 4  # side of the coarsest maps, in pixels
SHOWN = 16  # images in a picture


class SparseAutoencoder(nn.Module):
    """Images (N, C, S, S) in [-1, 1] -> h (N, C * S * S), h >= 0 -> images, and the label's place (N, 1).

    A feature has as many numbers as its image. The encoder halves images down to 4 px, by `width`, 2, 4, 4, ... times as many
    channels; the decoder goes back, halving the channels down to `width`. For 64 px, RGB and width 64, encoder, decoder and
    predictor have 52,722,240, 52,230,787 and 13,243,905 parameters; smaller images have fewer stages.
    """

    def __init__(self, image_channels: int = 3, image_size: int = 64, width: int = 64) -> None:
        super().__init__()
        stages = int(math.log2(image_size // BOTTOM))
        self.feature_dim = image_channels * image_size**2
        encoder, channels = nn.Sequential(), image_channels
        for i in range(stages):
            halved, out = channels if i else width, width * min(2**i, 4)
            encoder.extend([*_layer(nn.Conv2d(channels, halved, 4, stride=2, padding=1)), *_layer(_conv3(halved, out))])
            channels = out
        code = channels * BOTTOM**2
        self.encoder = encoder.extend([nn.Flatten(), nn.Linear(code, self.feature_dim), nn.ReLU()])
        decoder = nn.Sequential(*_layer(nn.Linear(self.feature_dim, code)), nn.Unflatten(1, (channels, BOTTOM, BOTTOM)))
        for _ in range(stages):
            out = max(width, channels // 2)
            doubled = nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
            decoder.extend([*_layer(doubled), *_layer(_conv3(channels, out))])
            channels = out
        self.decoder = decoder.extend([nn.Conv2d(channels, image_channels, 1), nn.Tanh()])
        hidden = (16 * width, 8 * width, 4 * width)
        layers = [_layer(nn.Linear(a, b)) for a, b in zip((self.feature_dim, *hidden), hidden)]
        self.predictor = nn.Sequential(*(each for layer in layers for each in layer), nn.Linear(hidden[-1], 1), nn.ReLU())

    def features(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        places: Tensor = self.predictor(self.features(images))
        return places


def _conv3(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 3, padding=1)


def _layer(linear: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    """With batch norm and ReLU."""
    norm = nn.BatchNorm1d(linear.out_features) if isinstance(linear, nn.Linear) else nn.BatchNorm2d(linear.out_channels)
    return [linear, norm, nn.ReLU(inplace=True)]


def sparse_autoencoder_loss(
    features: Tensor, reconstructed: Tensor, images: Tensor, told: Tensor, places: Tensor, sparsity: float, regression: float
) -> dict[str, Tensor]:
    """The terms of L, scalars, by name: features (N, F) >= 0, images (N, C, S, S), places told and true (N,)."""
    return {
        "loss_reconstruction": F.mse_loss(reconstructed, images),
        "loss_sparsity": sparsity * features.mean(),
        "loss_regression": regression * F.mse_loss(told, places),
    }


class EvenLabels:
    """Batches in which every distinct label is as likely: a label is drawn, then one of its images."""

    def __init__(self, part: Split, device: torch.device, *, flip: bool) -> None:
        distinct, index = torch.tensor(part.labels).unique(return_inverse=True)
        self.distinct = distinct.to(device)
        self.images = Resident(Split(part.images, index.numpy()), device, flip=flip)

    def batch(self, n: int, rng: torch.Generator, rank: int = 0, world: int = 1) -> Batch:
        """This worker's share of a global batch of `n` images in [-1, 1] and labels in their unit."""
        asked = torch.randint(len(self.distinct), (n,), generator=rng, device=rng.device)
        images, index = self.images.batch_for(asked, rng, rank, world)
        return images, self.distinct[index]


class AutoencoderTraining(ClassifierTraining):
    """SGD on L; measured by how well it tells the label."""

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        images, labels = self.draw(step, rng)
        assert isinstance(self.task, Continuous)
        network: Any = self.network
        with autocast(self.ctx.device, self.cfg.precision):
            features = network.features(images.contiguous(memory_format=torch.channels_last))
            reconstructed, told = network.decoder(features), network.predictor(features)
        seen = features.float(), reconstructed.float(), images, told[:, 0].float(), self.task.place(labels)
        terms = sparse_autoencoder_loss(*seen, self.cfg.sparsity, self.cfg.regression)
        loss = torch.stack([*terms.values()]).sum()
        update(self.ctx, loss, self.optimizers["network"], self.network, lr=self.cfg.lr * self.rate(step))
        return {name: term.detach() for name, term in ({"loss": loss} | terms).items()}


def train_extractor(ctx: Context, cfg: ExtractorConfig, data: DataSet) -> dict[str, float]:
    """phi: a sparse autoencoder of the real training images. Makes a saved network; it tells the validation labels, val_mae."""
    ctx.share(cfg.batch)
    real = EvenLabels(data.train, ctx.device, flip=cfg.flip)
    steps = real.images.steps_for(cfg.epochs, cfg.batch)
    network = models.build("sparse_autoencoder", image_channels=data.image_channels, image_size=data.image_size, width=cfg.width)

    def draw(step: int, rng: torch.Generator) -> Batch:
        return real.batch(cfg.batch, rng, ctx.rank, ctx.world_size)

    training = AutoencoderTraining(ctx, cfg, network, draw, data, rate_of(cfg, steps))
    found = train(ctx, training, steps=steps, batch=cfg.batch, evaluate_every=max(1, steps // EVALUATIONS))
    keep_classifier(ctx, network, data)
    ctx.image("reconstructions", reconstructions(network, Resident(data.val, ctx.device)))
    return found | {"parameters": float(sum(p.numel() for p in network.parameters()))}


def reconstructions(network: SparseAutoencoder, images: Resident) -> Any:
    """The first images in the upper row, below them what the decoder makes of their features."""
    shown, _ = images.take(torch.arange(min(SHOWN, len(images))))
    with evaluating(network):
        return sample_grid(torch.cat([shown, network.decoder(network.features(shown))]), columns=len(shown))
