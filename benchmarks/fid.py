"""FID, KID, precision and recall alone, from given features, beside the plain formulas that torch-fidelity 0.4 computes.

    python benchmarks/fid.py [features of each side, 5000] [dimensions, 2048]

torch-fidelity itself is not needed: its FID takes `numpy.linalg.eigvals` of the product of two `numpy.cov` (0.3 and earlier took
`scipy.linalg.sqrtm`, which is slower still), its precision and recall `torch.cdist` and `kthvalue` in fp32, its KID a loop over
100 subsets. The features are of a network with random weights on images of random shapes: the spectrum falls over ten orders,
as that of image features does. CPU seconds of one thread. Prints `ratio: X` for each metric.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from gankd.metrics.frechet import frechet_distance
from gankd.metrics.kernel import KID_SEED, kernel_distance
from gankd.metrics.manifold import manifold_metrics
from gankd.metrics.moments import Moments
from gankd.metrics.pairs import Pairs

SUBSETS, SIZE, NEIGHBOURS = 100, 1000, 3


def features(count: int, dim: int, seed: int, stretch: float) -> Tensor:
    """(count, dim) fp32, not negative, some features almost always 0, correlated, of a falling spectrum."""
    rng = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))).Q
    falling = torch.arange(1, dim + 1).float() ** -1.2
    return (stretch * (torch.randn(count, dim, generator=rng) * falling) @ turn + 0.02).relu()


def plain_fid(real: Tensor, fake: Tensor) -> float:
    a, b = (np.cov(side.numpy(), rowvar=False) for side in (real, fake))
    cross = np.sqrt(np.linalg.eigvals(a @ b).astype(complex)).real.sum()
    return float((real.double().mean(0) - fake.double().mean(0)).square().sum() + np.trace(a) + np.trace(b) - 2 * cross)


def plain_prc(real: Tensor, fake: Tensor) -> tuple[float, float]:
    radii = [torch.cdist(side, side).kthvalue(NEIGHBOURS + 1).values for side in (real, fake)]
    across = torch.cdist(fake, real)
    return float((across <= radii[0]).any(1).float().mean()), float((across <= radii[1][:, None]).any(0).float().mean())


def plain_kid(real: Tensor, fake: Tensor) -> float:
    """In the order in which our subsets are drawn, so that the two compare."""
    rng = torch.Generator().manual_seed(KID_SEED)
    drawn = [[torch.randperm(len(side), generator=rng)[:SIZE] for _ in range(SUBSETS)] for side in (real, fake)]
    found = []
    for mine, theirs in zip(*drawn):
        x, y = real[mine].double(), fake[theirs].double()
        xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        found.append((xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (SIZE * (SIZE - 1)) - 2 * xy.mean())
    return float(torch.stack(found).mean())


def our_fid(real: Tensor, fake: Tensor) -> float:
    return frechet_distance(Moments.of(real), Moments.of(fake))


def our_prc(real: Tensor, fake: Tensor) -> tuple[float, float]:
    found = manifold_metrics(Pairs(real), Pairs(fake), Pairs(real, fake), NEIGHBOURS)
    return found["precision"], found["recall"]


def our_kid(real: Tensor, fake: Tensor) -> float:
    return kernel_distance(Pairs(real), Pairs(fake), Pairs(real, fake), SUBSETS, SIZE)[0]


def timed(metric: Callable[[Tensor, Tensor], Any], *sides: Tensor) -> tuple[float, Any]:
    since = time.process_time()
    found = metric(*sides)
    return time.process_time() - since, found


def main() -> None:
    torch.set_num_threads(1)
    one, other = (Moments.of(features(4, 2, seed, 1.0)) for seed in (1, 2))
    frechet_distance(one, other)  # imports
    count, dim = (int(given) if given else default for given, default in zip([*sys.argv[1:], "", ""], (5000, 2048)))
    real, fake = features(count, dim, 1, 1.0), features(count, dim, 2, 1.1)
    pairs = {
        "fid": (our_fid, plain_fid, 1e-6 if count > dim else 1e-4),  # of a singular product numpy has fewer digits
        "precision, recall": (our_prc, plain_prc, 1e-3),
        "kid": (our_kid, plain_kid, 1e-6),
    }
    with threadpool_limits(1):
        for name, (ours, plain, tolerance) in pairs.items():
            mine, found = timed(ours, real, fake)
            theirs, expected = timed(plain, real, fake)
            print(f"{name}, {count} + {count} features of {dim}: {mine:.2f} s, plain {theirs:.2f} s")
            assert np.allclose(found, expected, rtol=tolerance, atol=tolerance * 1e-3), (name, found, expected)
            print(f"ratio: {theirs / mine:.1f}")


if __name__ == "__main__":
    main()
