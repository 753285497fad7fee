"""All metrics of a generator from one pass over the images, against a pass per metric with `scipy.linalg.sqrtm`.

    python benchmarks/metric_suite.py [images per side, 2000]

Both measure the same images with the same classifier (WRN-16-2, 128 features, 32 px, 10 classes), real side included, and
must come to the same numbers. The plain way is six evaluations, as six tools make them: each extracts features of the real
and the generated images, FID and intra-FID take matrix roots by SciPy, KID loops over 100 subsets. CPU seconds of one
thread. Prints `ratio: X`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

import numpy as np
import scipy.linalg
import torch

from gankd.metrics.extractors import Extractor, classifier
from gankd.metrics.features import measure
from gankd.metrics.kernel import KID_SEED
from gankd.metrics.suite import suite
from gankd.models import build
from gankd.stages.sections import QualityConfig

Images = tuple[torch.Tensor, torch.Tensor]
Array = np.ndarray
CFG, BATCH, CLASSES = QualityConfig(), 250, 10


def batches(images: Images) -> Iterator[Images]:
    yield from zip(images[0].split(BATCH), images[1].split(BATCH))


def one_pass(extractor: Extractor, real: Images, fake: Images) -> dict[str, float]:
    of_real, of_fake = (measure(extractor, batches(images), len(images[1])) for images in (real, fake))
    return suite(of_real, of_fake, CFG, "x")


def extracted(extractor: Extractor, images: Images) -> tuple[Array, Array]:
    """Features and logits of all images, float64."""
    rows, logits = zip(*(extractor(batch) for batch, _ in batches(images)))
    return torch.cat(rows).double().numpy(), torch.cat(logits).double().numpy()


def plain_fid(real: Array, fake: Array) -> float:
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(a @ b)
    if not np.isfinite(root).all():
        root = scipy.linalg.sqrtm((a + 1e-6 * np.eye(len(a))) @ (b + 1e-6 * np.eye(len(b))))
    return float(((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a + b - 2 * root.real))


def plain_kid(real: Array, fake: Array) -> float:
    """In the order in which our subsets are drawn, so that the two compare."""
    rng, size = torch.Generator().manual_seed(KID_SEED), min(CFG.kid_subset_size, len(real), len(fake))
    drawn = [[torch.randperm(len(side), generator=rng)[:size].numpy() for _ in range(CFG.kid_subsets)] for side in (real, fake)]
    found = []
    for mine, theirs in zip(*drawn):
        x, y = real[mine], fake[theirs]
        xx, yy, xy = ((a @ b.T / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        own = (xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)) / (size * (size - 1))
        found.append(own - 2 * xy.mean())
    return float(np.mean(found))


def distances(x: Array, y: Array) -> Array:
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T, 0)


def plain_kmmd(real: Array, fake: Array) -> float:
    rr, ff, rf = distances(real, real), distances(fake, fake), distances(real, fake)
    scale = rr.mean()
    rr, ff, rf = (np.exp(-d / (2 * scale)).mean() for d in (rr, ff, rf))
    return float(max(rr + ff - 2 * rf, 0) ** 0.5)


def plain_precision(real: Array, fake: Array) -> float:
    radii = np.partition(distances(real, real), CFG.neighbours, axis=1)[:, CFG.neighbours]
    np.partition(distances(fake, fake), CFG.neighbours, axis=1)[:, CFG.neighbours]  # recall needs the fakes' too
    return float((distances(real, fake) <= radii[:, None]).any(0).mean())


def plain_score(logits: Array) -> float:
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    parts = [p[i : i + len(p) // 10] for i in range(0, len(p) // 10 * 10, len(p) // 10)]
    return float(np.mean([np.exp((q * (np.log(q) - np.log(q.mean(0)))).sum(1).mean()) for q in parts]))


def plain(extractor: Extractor, real: Images, fake: Images) -> dict[str, float]:
    def both() -> tuple[Array, Array]:
        return extracted(extractor, real)[0], extracted(extractor, fake)[0]

    def by_class() -> float:
        a, b = both()
        return float(np.mean([plain_fid(a[real[1].numpy() == c], b[fake[1].numpy() == c]) for c in range(CLASSES)]))

    metrics: dict[str, Callable[[], float]] = {
        "fid": lambda: plain_fid(*both()),
        "kid": lambda: plain_kid(*both()),
        "kmmd": lambda: plain_kmmd(*both()),
        "precision": lambda: plain_precision(*both()),
        "is": lambda: plain_score(extracted(extractor, fake)[1]),
        "intra_fid": by_class,
    }
    found = {}
    for name, metric in metrics.items():
        since = time.process_time()
        found[name] = metric()
        print(f"  a pass for {name:10} {time.process_time() - since:7.1f} s")
    return found


def main() -> None:
    torch.set_num_threads(1)
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    torch.manual_seed(0)
    extractor = classifier(build("wrn_16_2", classes=CLASSES, image_channels=3, image_size=32))
    labels = torch.arange(n) % CLASSES
    tints = torch.rand(CLASSES, 3, 1, 1) * 120
    real, fake = (((torch.rand(n, 3, 32, 32) * spread + tints[labels]).byte(), labels) for spread in (130, 120))
    extractor(real[0][:BATCH])
    since = time.process_time()
    ours = one_pass(extractor, real, fake)
    mine = time.process_time() - since
    since = time.process_time()
    theirs = plain(extractor, real, fake)
    their = time.process_time() - since
    for name, value in theirs.items():
        tolerance = 1e-3 if name == "intra_fid" else 1e-6  # fewer images than features: SciPy's root is of a singular product
        assert abs(ours[f"{name}_x"] - value) <= tolerance * max(abs(value), 1e-3), (name, ours[f"{name}_x"], value)
    print(f"{n} + {n} images: one pass {mine:.1f} s for {len(ours)} numbers, a pass per metric {their:.1f} s for {len(theirs)}")
    print(f"ratio: {their / mine:.1f}")


if __name__ == "__main__":
    main()
