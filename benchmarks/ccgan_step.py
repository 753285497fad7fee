"""Seconds per CcGAN training iteration: ours against the plainest correct loop of the same mathematics and draws.

    PYTHONPATH=platform:. python benchmarks/ccgan_step.py [--labels 1000 10000] [--batch 128] [--width 16] [--threads 1]

The plain side is written straight from the definitions, in the order of the published code: for each item of the batch a search
through all labels, one after the other; fakes with a graph that is thrown away; reals and fakes one after the other through the
discriminator, whose weights get gradients in the generator's update too; NCHW, an upsampling before and a pooling behind the
convolutions, spectral normalisation by its formula, torch's Adam. Both are in fp32, start from the same weights, take turns, and
are first compared: their losses must agree. Prints medians, that of the draws alone too, and `ratio: plain / ours`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import normalise
from gankd.models.spectral_norm import SpectralNorm
from methods.cgan_kd_regression.ccgan import CcganTraining, build_ccgan
from methods.cgan_kd_regression.gan_config import CcganConfig
from methods.cgan_kd_regression.label_embedding import LabelEmbedding
from methods.cgan_kd_regression.vicinity import TRIES, Draw, VicinalLabels

SIZE, DIM_Z, DIM_H = 32, 256, 128
NETWORKS = {
    "label_embedding": "methods.cgan_kd_regression.label_embedding:LabelEmbedding",
    "sagan": "methods.cgan_kd_regression.sagan:Generator",
    "sagan_discriminator": "methods.cgan_kd_regression.sagan:Discriminator",
}


class Normalised(nn.Module):
    """Weight over the estimate of its largest singular value."""

    def __init__(self, *shape: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.u0: Tensor
        self.register_buffer("u0", torch.randn(1, shape[0]))

    def w(self) -> Tensor:
        matrix = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-8)
            u = F.normalize(v @ matrix.t(), eps=1e-8)
            self.u0 = u
        return self.weight / (v @ matrix.t() @ u.t()).squeeze()


class Conv(Normalised):
    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(outputs, inputs, size, size)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w(), self.bias, padding=self.weight.shape[-1] // 2)


class Linear(Normalised):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w(), self.bias)


class PlainBN(nn.Module):
    def __init__(self, channels: int, conditional: bool) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.conditional = conditional
        for name in ("gain", "bias"):
            layer = nn.Linear(DIM_H, channels, bias=False) if conditional else nn.Parameter(torch.empty(channels))
            setattr(self, name, layer)

    def forward(self, x: Tensor, h: Tensor | None = None) -> Tensor:
        x = F.batch_norm(x, self.stored_mean, self.stored_var, training=True)  # type: ignore[arg-type]
        if self.conditional:
            return x * (1 + self.gain(h))[:, :, None, None] + self.bias(h)[:, :, None, None]  # type: ignore[operator]
        return x * self.gain[:, None, None] + self.bias[:, None, None]  # type: ignore[index]


class PlainAttention(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta, self.phi = Conv(channels, channels // 8, 1), Conv(channels, channels // 8, 1)
        self.g, self.o = Conv(channels, channels // 2, 1), Conv(channels // 2, channels, 1)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.theta(x).flatten(2), F.max_pool2d(self.phi(x), 2), F.max_pool2d(self.g(x), 2)
        attention = (queries.transpose(1, 2) @ keys.flatten(2)).softmax(2)
        mixed = values.flatten(2) @ attention.transpose(1, 2)
        return x + self.gamma * self.o(mixed.reshape(len(x), -1, *x.shape[2:]))


class PlainGBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv_sc = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3), Conv(inputs, outputs, 1)
        self.bn1, self.bn2 = PlainBN(inputs, True), PlainBN(outputs, True)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        y = self.conv1(F.interpolate(F.relu(self.bn1(x, h)), scale_factor=2))
        return self.conv2(F.relu(self.bn2(y, h))) + self.conv_sc(F.interpolate(x, scale_factor=2))


class PlainGenerator(nn.Module):
    def __init__(self, low: float, high: float, width: int) -> None:
        super().__init__()
        channels = [8 * width, 4 * width, 2 * width, width]
        self.linear = Linear(channels[0] * 16, DIM_Z)
        self.blocks = nn.ModuleList(PlainGBlock(*pair) for pair in pairwise(channels))
        self.attention, self.bn, self.to_image = PlainAttention(2 * width), PlainBN(width, False), Conv(width, 3, 3)
        self.embedding = LabelEmbedding(low, high, DIM_H)

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h, x = self.embedding(y), self.linear(z).view(len(z), -1, 4, 4)
        for block in self.blocks[:-1]:
            x = block(x, h)
        return torch.tanh(self.to_image(F.relu(self.bn(self.blocks[-1](self.attention(x), h)))))


class PlainDBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, down: bool, first: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1, self.conv2, self.conv_sc = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3), Conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x)))) + self.conv_sc(x)
        return F.avg_pool2d(y, 2) if self.down else y


class PlainDiscriminator(nn.Module):
    def __init__(self, low: float, high: float, width: int) -> None:
        super().__init__()
        channels = [3, width, 2 * width, 4 * width, 8 * width]
        self.blocks = nn.ModuleList(PlainDBlock(*pair, down=i < 3, first=i == 0) for i, pair in enumerate(pairwise(channels)))
        self.attention = PlainAttention(width)
        features = channels[-1] * 16
        self.linear, self.project = Linear(1, features), Linear(features, DIM_H, bias=False)
        self.embedding = LabelEmbedding(low, high, DIM_H)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x = self.attention(self.blocks[0](x))
        for block in self.blocks[1:]:
            x = block(x)
        features = F.relu(x).flatten(1)
        return self.linear(features) + (self.project(self.embedding(y)) * features).sum(1, keepdim=True)


def plain_draw(vicinal: VicinalLabels, places: Tensor, n: int, rng: torch.Generator) -> Draw:
    """An item after the other, each with a look at all labels."""
    near = vicinal.vicinity
    chosen = vicinal.distinct[torch.randint(len(vicinal.distinct), (n,), generator=rng)]
    for _ in range(TRIES):
        centres = (chosen + vicinal.sigma * torch.randn(n, generator=rng, dtype=torch.float64)).clamp(0, 1)
        vicinities = [np.where(np.abs(places.numpy() - float(y)) <= near.radius)[0] for y in centres]
        if all(map(len, vicinities)):
            break
    u, v = torch.rand(n, generator=rng, dtype=torch.float64), torch.rand(n, generator=rng, dtype=torch.float64)
    images, fake_labels, of_reals, of_fakes = [], [], [], []
    for j, y in enumerate(centres.tolist()):
        images.append(vicinities[j][int(u[j] * len(vicinities[j]))])
        low, high = max(y - near.radius, 0.0), min(y + near.radius, 1.0)
        fake_labels.append(low + float(v[j]) * (high - low))
        of_reals.append(np.exp(-(((float(places[images[j]]) - y) / near.width) ** 2)))
        of_fakes.append(np.exp(-(((fake_labels[j] - y) / near.width) ** 2)))
    return Draw(
        centres,
        torch.tensor(np.array(images)),
        *(torch.tensor(values, dtype=torch.float64) for values in (fake_labels, of_reals, of_fakes)),
    )


class PlainLoop:
    def __init__(self, ours: CcganTraining, data: DataSet, places: Tensor) -> None:
        self.ours, self.data, self.places, cfg = ours, data, places, ours.cfg
        assert isinstance(cfg, CcganConfig)
        self.generator = PlainGenerator(ours.task.low, ours.task.high, cfg.width)
        self.discriminator = PlainDiscriminator(ours.task.low, ours.task.high, cfg.width)
        self.generator.load_state_dict(ours.generator.state_dict())
        self.discriminator.load_state_dict(ours.discriminator.state_dict())
        self.g_adam, self.d_adam = self.adam(self.generator, cfg.g_lr), self.adam(self.discriminator, cfg.d_lr)

    def adam(self, network: nn.Module, learning_rate: float) -> torch.optim.Adam:
        """The embedding gets gradients, as in the published code, and is not trained."""
        trained = [parameter for name, parameter in network.named_parameters() if not name.startswith("embedding.")]
        return torch.optim.Adam(trained, learning_rate, betas=(self.ours.cfg.beta1, self.ours.cfg.beta2))

    def labels_at(self, places: Tensor) -> Tensor:
        return (self.ours.task.low + places * (self.ours.task.high - self.ours.task.low)).float()

    def step(self, step: int) -> list[Tensor]:
        n, rng = self.ours.cfg.batch, self.ours.ctx.rng(step)
        chooser = self.ours.ctx.rng(step, "labels", device="cpu")
        for _ in range(self.ours.cfg.d_steps):
            z = torch.randn(n, DIM_Z, generator=rng)
            drawn = plain_draw(self.ours.vicinal, self.places, n, chooser)
            reals = normalise(torch.from_numpy(self.data.train.images[drawn.images.numpy()]))
            fakes = self.generator(z, self.labels_at(drawn.fake_labels)).detach()
            centres = self.labels_at(drawn.centres)
            of_reals, of_fakes = self.discriminator(reals, centres)[:, 0], self.discriminator(fakes, centres)[:, 0]
            loss_real = (drawn.real_weights.float() * F.relu(1 - of_reals)).mean()
            loss_fake = (drawn.fake_weights.float() * F.relu(1 + of_fakes)).mean()
            self.d_adam.zero_grad()
            (loss_real + loss_fake).backward()
            self.d_adam.step()
        z = torch.randn(n, DIM_Z, generator=rng)
        labels = self.labels_at(self.ours.vicinal.centres(n, chooser))
        loss = -self.discriminator(self.generator(z, labels), labels).mean()
        self.g_adam.zero_grad()
        loss.backward()
        self.g_adam.step()
        return [loss_real.detach(), loss_fake.detach(), loss.detach()]


def sides(labels: int, batch: int, width: int) -> tuple[PlainLoop, CcganTraining]:
    """Both, from the same weights, on random images with sorted labels in degrees."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (labels, 3, SIZE, SIZE), np.uint8)
    part = Split(images, np.sort(random.uniform(-90, 90, labels).astype(np.float32)))
    data = DataSet("random", part, part, None, None, (), "degree", (-90.0, 90.0), "random")
    # What the discriminator is shown is the same on both sides: nothing is augmented.
    cfg = CcganConfig(width=width, dim_z=DIM_Z, batch=batch, d_steps=2, diffaugment=(), precision="fp32", sample_grids=0)
    ctx = Context("ccgan", "benchmark", 0, Path(), cast(Any, None), torch.device("cpu"))
    embedding = models.build("label_embedding", low=-90.0, high=90.0, dim=DIM_H)
    training = CcganTraining(ctx, cfg, *build_ccgan(cfg, data, embedding), data)
    for layer in [*training.generator.modules(), *training.discriminator.modules()]:
        if isinstance(layer, SpectralNorm):
            for _ in range(100):  # until one forward in training mode more or less makes no difference
                layer.normalised_weight()
    places = training.task.place(torch.tensor(part.labels, dtype=torch.float64))
    return PlainLoop(training, data, places), training


def ours_step(training: CcganTraining, step: int) -> list[Tensor]:
    metrics = training.step(step, training.ctx.rng(step))
    return [metrics[name] for name in ("loss_discriminator_real", "loss_discriminator_fake", "loss_generator")]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measured(labels: int, batch: int, width: int, repeats: int) -> None:
    plain, training = sides(labels, batch, width)
    expected, found = torch.stack(plain.step(0)), torch.stack(ours_step(training, 0))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    times: dict[str, list[float]] = {name: [] for name in ("plain", "ours", "plain draws", "our draws")}
    for step in range(1, repeats + 1):
        works: dict[str, Callable[[], object]] = {
            "plain": partial(plain.step, step),
            "ours": partial(ours_step, training, step),
            "plain draws": partial(plain_draw, training.vicinal, plain.places, batch, training.ctx.rng(step)),
            "our draws": partial(training.vicinal.draw, batch, training.ctx.rng(step)),
        }
        for name, work in works.items():
            times[name].append(seconds(work))
    median = {name: statistics.median(values) for name, values in times.items()}
    print(f"{labels} labels, batch {batch}, width {width}, {SIZE} px, {torch.get_num_threads()} threads")
    print("losses of the first iteration, plain and ours:", expected.tolist(), found.tolist())
    print(", ".join(f"{name} {value:.4f} s" for name, value in median.items()))
    draws = median["plain draws"] / median["our draws"]
    print(f"ratio: plain / ours {median['plain'] / median['ours']:.2f}; of the draws alone {draws:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--labels", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models.allow(NETWORKS)
    for labels in args.labels:
        measured(labels, args.batch, args.width, args.repeats)


if __name__ == "__main__":
    main()
