"""A generator that has collapsed, in words. No torch: the terminal of a sweep reads this."""

from __future__ import annotations

from collections.abc import Mapping

LEAST_RECALL = 0.1
LEAST_SPREAD = 0.5  # of a class's images, in the features of an extractor, over the real images' own


def collapse(metrics: Mapping[str, float]) -> list[str]:
    """A sentence for each stage and extractor by which a generator has collapsed.

    metrics: `<stage>/<metric>_<extractor>` or `<metric>_<extractor>`, with `recall` (0 to 1) and `spread` (1 = as real images).
    """
    sentences = []
    for name, recall in metrics.items():
        stage, _, metric = name.rpartition("/")
        if not metric.startswith("recall_"):
            continue
        spread = metrics.get(name.replace("recall_", "spread_"), 1.0)
        signs = [f"recall is {recall:.2f}"] if recall < LEAST_RECALL else []
        part = "near labels" if name.replace("recall_", "sfid_") in metrics else "a class"
        signs += [f"images of {part} differ by {spread:.2f} of what real ones do"] if spread < LEAST_SPREAD else []
        if signs:
            which = f"{stage}: the" if stage else "the"
            sentences.append(
                f"{which} generated images have collapsed ({' and '.join(signs)}): few of them differ, whatever the FID says; "
                "a GAN's knob mode_seeking spreads them"
            )
    return sentences
