"""Seconds per BigGAN-32 training iteration: ours against a plain eager fp32 loop of the same mathematics and draws.

    PYTHONPATH=platform python benchmarks/biggan_step.py [--device cpu|cuda] [--threads 2] [--batch 32] [--repeats 3]

The plain side is written independently, straight from the definitions: NCHW, fp32, an upsampling before and a pooling
behind the convolutions, spectral normalisation by its formula, torch's Adam, the average of the generator entry by
entry. Both start from the same weights, take turns, and are first compared in fp32: their losses must agree. Prints the
medians and `ratio: plain / ours`.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.context import Context
from gankd.models import build
from gankd.stages.gan import GANTraining
from gankd.stages.sections import GanTrainingConfig

CLASSES, WIDTH, DIM_Z, SIZE = 10, 64, 128, 32


class Normalised(nn.Module):
    """Weight over the estimate of its largest singular value."""

    def __init__(self, weight: Tensor, bias: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(bias)) if bias else None
        self.u0: Tensor
        self.register_buffer("u0", torch.randn(1, weight.shape[0]))

    def w(self) -> Tensor:
        matrix = self.weight.view(self.weight.shape[0], -1)
        with torch.no_grad():
            v = F.normalize(self.u0 @ matrix, eps=1e-8)
            u = F.normalize(v @ matrix.t(), eps=1e-8)
            if self.training:
                self.u0 = u
        return self.weight / (v @ matrix.t() @ u.t()).squeeze()


class Conv(Normalised):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(torch.empty(outputs, inputs, kernel, kernel), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w(), self.bias, padding=self.weight.shape[2] // 2)


class Linear(Normalised):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(torch.empty(outputs, inputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.w(), self.bias)


class Table(Normalised):
    def __init__(self, rows: int, width: int) -> None:
        super().__init__(torch.empty(rows, width))

    def forward(self, labels: Tensor) -> Tensor:
        return self.w()[labels]


class PlainBN(nn.Module):
    def __init__(self, channels: int, conditional: bool) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.conditional = conditional
        for name in ("gain", "bias"):
            setattr(self, name, nn.Embedding(CLASSES, channels) if conditional else nn.Parameter(torch.empty(channels)))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = F.batch_norm(x, self.stored_mean, self.stored_var, training=self.training)  # type: ignore[arg-type]
        if self.conditional:
            return x * (1 + self.gain(y))[:, :, None, None] + self.bias(y)[:, :, None, None]  # type: ignore[operator]
        return x * self.gain[:, None, None] + self.bias[:, None, None]  # type: ignore[index]


class PlainGBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.conv_sc = Conv(channels, channels, 1)
        self.bn1, self.bn2 = PlainBN(channels, True), PlainBN(channels, True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.interpolate(F.relu(self.bn1(x, y)), scale_factor=2)
        h = self.conv2(F.relu(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(F.interpolate(x, scale_factor=2))


class PlainGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = 4 * WIDTH
        self.linear = Linear(DIM_Z, channels * 16)
        self.blocks = nn.ModuleList(nn.ModuleList([PlainGBlock(channels)]) for _ in range(3))
        self.output_layer = nn.Sequential(PlainBN(channels, False), nn.ReLU(), Conv(channels, 3, 3))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(z).view(len(z), -1, 4, 4)
        for block in self.blocks:
            h = block[0](h, y)  # type: ignore[index]
        return torch.tanh(self.output_layer(h))


class PlainDBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, down: bool, first: bool) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.conv1, self.conv2 = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3)
        self.conv_sc = Conv(inputs, outputs, 1) if down else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        h = F.avg_pool2d(h, 2) if self.down else h
        if self.first:
            return h + self.conv_sc(F.avg_pool2d(x, 2))  # type: ignore[misc, operator]
        return h + (F.avg_pool2d(self.conv_sc(x), 2) if self.down else x)  # type: ignore[misc, operator]


class PlainDiscriminator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        channels = 4 * WIDTH
        self.blocks = nn.ModuleList(nn.ModuleList([PlainDBlock(channels if i else 3, channels, i < 2, i == 0)]) for i in range(4))
        self.linear, self.embed = Linear(channels, 1), Table(CLASSES, channels)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for block in self.blocks:
            x = block[0](x)  # type: ignore[index]
        h = F.relu(x).sum((2, 3))
        return self.linear(h) + (self.embed(y) * h).sum(1, keepdim=True)


def plain_step(
    generator: nn.Module, discriminator: nn.Module, device: torch.device, batch: int
) -> Callable[[int, torch.Generator], list[Tensor]]:
    average = copy.deepcopy(generator)
    g_adam = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.999))
    d_adam = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.0, 0.999))

    def latent(rng: torch.Generator) -> tuple[Tensor, Tensor]:
        z = torch.randn(batch, DIM_Z, generator=rng, device=rng.device)
        return z, torch.randint(CLASSES, (batch,), generator=rng, device=rng.device)

    def step(_: int, rng: torch.Generator) -> list[Tensor]:
        d_adam.zero_grad()
        z, y = latent(rng)
        with torch.no_grad():
            fake = generator(z, y)
        real, real_y = real_batch(batch, rng)
        logits = discriminator(torch.cat([fake, real]), torch.cat([y, real_y]))
        loss_fake, loss_real = F.relu(1 + logits[:batch]).mean(), F.relu(1 - logits[batch:]).mean()
        (loss_fake + loss_real).backward()
        d_adam.step()
        discriminator.requires_grad_(False)
        g_adam.zero_grad()
        z, y = latent(rng)
        loss = -discriminator(generator(z, y), y).mean()
        loss.backward()
        g_adam.step()
        discriminator.requires_grad_(True)
        with torch.no_grad():
            live = generator.state_dict()
            for name, value in average.state_dict().items():
                value.copy_(0.9999 * value + 0.0001 * live[name])
        return [loss_real.detach(), loss_fake.detach(), loss.detach()]

    return step


def real_batch(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    images = torch.rand(n, 3, SIZE, SIZE, generator=rng, device=rng.device) * 2 - 1
    return images, torch.randint(CLASSES, (n,), generator=rng, device=rng.device)


def pair(
    device: torch.device, batch: int, precision: str
) -> tuple[Callable[[int, torch.Generator], list[Tensor]], Callable[[int, torch.Generator], list[Tensor]]]:
    """The step of either side, from equal weights."""
    torch.manual_seed(0)
    kwargs = {"image_size": SIZE, "classes": CLASSES, "width": WIDTH}
    generator = build("biggan", dim_z=DIM_Z, **kwargs).to(device)
    discriminator = build("biggan_discriminator", **kwargs).to(device)
    plain_generator, plain_discriminator = PlainGenerator().to(device), PlainDiscriminator().to(device)
    plain_generator.load_state_dict(generator.state_dict())
    plain_discriminator.load_state_dict(discriminator.state_dict())
    cfg = GanTrainingConfig(batch=batch, d_steps=1, ema_start=0, precision=precision, diffaugment=())
    ctx = Context("gan", "benchmark", 0, Path(), cast(Any, None), device)
    training = GANTraining(ctx, cfg, 2e-4, generator, discriminator, real_batch)

    def ours(step: int, rng: torch.Generator) -> list[Tensor]:
        metrics = training.step(step, rng)
        return [metrics[k] for k in ("loss_discriminator_real", "loss_discriminator_fake", "loss_generator")]

    return plain_step(plain_generator, plain_discriminator, device, batch), ours


def seconds(run: Callable[[int, torch.Generator], list[Tensor]], step: int, device: torch.device, inner: int) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for i in range(inner):
        run(step, torch.Generator(device).manual_seed(step * inner + i))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / inner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)

    rng = [torch.Generator(device).manual_seed(7) for _ in range(2)]
    expected, found = (torch.stack(run(0, r)) for run, r in zip(pair(device, 8, "fp32"), rng))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
    print("losses of the first iteration, plain and ours, fp32:", expected.tolist(), found.tolist())

    plain, ours = pair(device, args.batch, "bf16")
    inner = 20 if device.type == "cuda" else 1
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for repeat in range(args.repeats + 1):
        for name, run in (("plain", plain), ("ours", ours)):
            elapsed = seconds(run, repeat, device, inner)
            if repeat:  # the first is for warming up
                times[name].append(elapsed)
    for name, values in times.items():
        print(f"{name}: {statistics.median(values):.4f} s per iteration (from {min(values):.4f} to {max(values):.4f})")
    print(f"ratio: {statistics.median(times['plain']) / statistics.median(times['ours']):.2f}")


if __name__ == "__main__":
    main()
