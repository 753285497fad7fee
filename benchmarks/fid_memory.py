"""Memory of FID at 2,048 features over 50,000 real and 50,000 generated images, above that of the extractor.

    python benchmarks/fid_memory.py [images per side, 50000]

The features are a fixed random layer's, so that what is measured is what comes behind an extractor; 10,000 of either side are
kept for the other metrics, as by default. Prints the growth of the process's largest resident size, in MB (10^6 bytes), and
`ratio: X` of that to the limit of 600.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import torch

from gankd.metrics.extractors import Extractor
from gankd.metrics.features import measure
from gankd.metrics.suite import fid

FEATURES, BATCH, LIMIT_MB = 2048, 500, 600


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def layer() -> Extractor:
    network = torch.nn.Linear(64, FEATURES)
    return Extractor(
        "layer", network, lambda images: (network(images.flatten(1)).relu(), None), feature_dim=FEATURES, preprocessing=""
    )


def images(count: int, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(seed)
    for _ in range(0, count, BATCH):
        yield torch.randint(256, (BATCH, 1, 8, 8), dtype=torch.uint8, generator=rng), torch.zeros(BATCH, dtype=torch.long)


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    torch.manual_seed(0)
    extractor = layer()
    extractor(next(images(BATCH, 0))[0])
    torch.linalg.eigvalsh(torch.eye(64, dtype=torch.float64))  # the library's own buffers
    before, since = peak_mb(), time.process_time()
    real, fake = (measure(extractor, images(count, seed), count) for seed in (1, 2))
    passed, moments = time.process_time() - since, peak_mb() - before
    distance = fid(real, fake)
    grown = peak_mb() - before
    print(f"FID {distance:.6g} of {count} + {count} images, {FEATURES} features: passes {passed:.0f} CPU seconds, "
          f"distance {time.process_time() - since - passed:.0f}")  # fmt: skip
    print(f"{grown:.0f} MB above the extractor, {moments:.0f} of them before the distance; all features would be "
          f"{2 * count * FEATURES * 4 / 1e6:.0f} MB")  # fmt: skip
    print(f"ratio: {grown / LIMIT_MB:.2f}")
    sys.exit(grown > LIMIT_MB)


if __name__ == "__main__":
    main()
