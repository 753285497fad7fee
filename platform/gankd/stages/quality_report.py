"""What the numbers of a generator depend on, put down beside them: two that differ in any of this do not compare."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from gankd.context import Context
from gankd.data import DataSet
from gankd.metrics.collapse import collapse
from gankd.metrics.extractors import Extractor
from gankd.metrics.features import Features
from gankd.metrics.suite import cautions, intra_fid, sfid, windows_of
from gankd.stages.sections import QualityConfig


def note_basis(ctx: Context, cfg: QualityConfig, extractor: Extractor, real: Features, images: int | None = None) -> None:
    """Put down what this extractor's numbers depend on beside the data: only numbers of an equal basis compare.

    `images`: how many images are measured, where that is not `cfg.images`.
    """
    counts = {"real images": real.count, "images": cfg.images if images is None else images}
    name = extractor.name
    which: dict[str, Any] = {"classes": sorted(real.class_counts())}
    if real.continuous:
        which = {"labels from": float(real.labels.min()), "labels to": float(real.labels.max())}
    ctx.basis[name] = {"extractor": extractor.tag, **which, "labels": cfg.labels, **counts}
    ctx.basis[f"kid_{name}"] = {"subsets": [cfg.kid_subsets, cfg.kid_subset_size]}
    for metric in ("precision", "recall", "density", "coverage"):
        ctx.basis[f"{metric}_{name}"] = {"neighbours": cfg.neighbours}
    if windows := windows_of(real, cfg):
        for metric in ("sfid", "sfid_max", "spread"):
            ctx.basis[f"{metric}_{name}"] = {"windows": len(windows.centres), "window radius": windows.radius}


def report(
    ctx: Context, cfg: QualityConfig, data: DataSet, extractor: Extractor, real: Features, fake: Features, how: Mapping[str, Any],
    metrics: Mapping[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Protocol, counts, distances label by label, warnings and metrics, in JSON."""
    windows = None if fake.unlabelled else windows_of(real, cfg)
    warnings = [*cautions(real, fake, extractor.name, windows), *collapse(metrics)]
    if ctx.rank == 0:
        for warning in warnings:
            logging.getLogger(__name__).warning(warning)
    by_label: dict[str, Any] = {}
    if windows:
        counts = {side: windows.counts(labels).tolist() for side, labels in (("real", real.labels), ("generated", fake.labels))}
        by_label["windows"] = {"centres": windows.centres.tolist(), "radius": windows.radius, **counts}
        by_label["sfid"] = sfid(real, fake, windows)
    elif not real.continuous:
        by_label["class_counts"] = {"real": real.class_counts(), "generated": fake.class_counts()}
        by_label["intra_fid"] = intra_fid(real, fake)
    return {
        "protocol": {
            "extractor": extractor.tag,
            "preprocessing": extractor.preprocessing,
            "quantised": extractor.quantise,
            "real": {"part": "validation", "fingerprint": data.fingerprint, "images": real.count},
            "generated": {"images": fake.count, **how},
            "seed": ctx.seed,
            "batch": cfg.batch,
            "kept": [len(real.rows), len(fake.rows)],
            "splits": fake.score and len(fake.score.negentropies),
            "neighbours": cfg.neighbours,
            "kid": [cfg.kid_subsets, cfg.kid_subset_size],
            "kmmd": {"sigma": cfg.kmmd_sigma, "bandwidth": cfg.kmmd_bandwidth},
        },
        **by_label,
        "warnings": warnings,
        "metrics": dict(metrics),
    }
