"""CPU seconds of self-attention, forward and backward: ours against two products with a softmax between them.

    PYTHONPATH=platform python benchmarks/attention.py [--threads 1] [--batch 32] [--repeats 5]

Both sides take the same queries, keys and values, made by the layer's own convolutions; their outputs and gradients are compared
first. Prints for each map the medians and `ratio: plain / ours`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.models.biggan_blocks import SelfAttention

MAPS = {"SAGAN of width 16, 64 px: discriminator": (16, 32), "generator": (32, 32), "BigGAN of width 64, 64 px": (128, 32)}


def plain(layer: SelfAttention, x: Tensor) -> Tensor:
    queries = layer.theta(x).flatten(2).transpose(1, 2)
    keys = F.max_pool2d(layer.phi(x), 2).flatten(2)
    values = F.max_pool2d(layer.g(x), 2).flatten(2).transpose(1, 2)
    mixed = (queries @ keys).softmax(-1) @ values
    return x + layer.gamma * layer.o(mixed.transpose(1, 2).reshape(len(x), -1, *x.shape[2:]))


def seconds(run: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = time.process_time()
    run(x).square().sum().backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name, (channels, size) in MAPS.items():
        torch.manual_seed(0)
        layer = SelfAttention(channels).eval()  # its power iterations stand still: both sides have the same weights
        with torch.no_grad():
            layer.gamma.fill_(1.0)
        x = torch.randn(args.batch, channels, size, size, requires_grad=True)
        sides: dict[str, Callable[[Tensor], Tensor]] = {"plain": lambda x, layer=layer: plain(layer, x), "ours": layer}  # type: ignore
        outputs = {side: run(x) for side, run in sides.items()}
        gradients = {side: torch.autograd.grad(out.square().sum(), x)[0] for side, out in outputs.items()}
        for found in (outputs, gradients):
            torch.testing.assert_close(found["ours"], found["plain"], rtol=1e-3, atol=1e-3)
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side, run in sides.items():
                times[side].append(seconds(run, x))
        plain_time, our_time = (statistics.median(times[side]) for side in ("plain", "ours"))
        print(f"{name}, {channels} channels at {size} px: plain {plain_time:.3f} s, ours {our_time:.3f} s")
        print(f"ratio: {plain_time / our_time:.2f}")


if __name__ == "__main__":
    main()
