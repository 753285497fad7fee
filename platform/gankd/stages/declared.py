"""Stages that methods have in common, as their pipelines declare them. No torch here: the command line reads this."""

from __future__ import annotations

from gankd.method import Stage
from gankd.stages.sections import GENERATED_ONLY

CLASSIFIER, QUALITY, CHECKS = "gankd.stages.classifier", "gankd.stages.quality", "gankd.stages.checks"
MEASURES = ("feature_classifier", "real_statistics")  # what generators are measured with
CLASSIFIER_METRICS = ("parameters", "val_{task}")
GENERATED_METRICS = tuple(
    f"{name}_{{extractor}}"
    for name in (
        *("class_accuracy", "coverage", "density", "fid", "intra_fid", "intra_fid_max", "is", "is_std", "kid", "kid_std"),
        *("kmmd", "mmd2_u", "precision", "recall", "spread"),
    )
)


# What is not measured of a generator that takes no labels.
BY_CLASS = frozenset({"class_accuracy", "intra_fid", "intra_fid_max", "spread"})


def without_classes(metrics: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in metrics if name.removeprefix("test_").removesuffix("_{extractor}") not in BY_CLASS)


def classifier(name: str, *, per_seed: bool = True) -> Stage:
    """Trains a network that tells the labels of real images."""
    return Stage(
        name,
        f"{CLASSIFIER}:train_classifier",
        check=f"{CHECKS}:check_classifier",
        shares=("batch",),
        per_seed=per_seed,
        metrics=CLASSIFIER_METRICS,
    )


def tested(network: str) -> Stage:
    """Measures a network on the test part."""
    return Stage(f"test_{network}", f"{CLASSIFIER}:test_network", inputs=(network,), test=True, metrics=("test_{task}",))


def real_statistics(run: str = f"{QUALITY}:measure_real", sections: tuple[str, ...] = ()) -> Stage:
    """What the extractors say of real images, once for all generators."""
    return Stage(
        "real_statistics",
        run,
        inputs=("feature_classifier",),
        section="quality",
        sections=sections,
        ignores=GENERATED_ONLY,
        per_seed=False,
        metrics=("fid_floor_{extractor}", "is_{extractor}"),
    )


def quality(name: str, of: str, run: str = f"{QUALITY}:score_generator", *, by_class: bool = True) -> Stage:
    """Measures the images of the stage `of` beside validation images; not by class where they belong to none."""
    generated = GENERATED_METRICS if by_class else without_classes(GENERATED_METRICS)
    return Stage(
        name,
        run,
        inputs=(*MEASURES, of),
        section="quality",
        check=f"{CHECKS}:check_quality",
        metrics=(*generated, "kmmd_fixed_{extractor}?kmmd_bandwidth", "feature_classifier_accuracy"),
        version=2,
    )


def tested_generator(generator: str, *, by_class: bool = True) -> Stage:  # noqa: PT028 (no test)
    """Measures a generator beside the test part; not by class where its images belong to none."""
    metrics = tuple(f"test_{name}_{{extractor}}" for name in ("fid", "intra_fid", "kid"))
    return Stage(
        f"test_{generator}",
        f"{QUALITY}:test_generator",
        inputs=("feature_classifier", generator),
        section="quality",
        test=True,
        metrics=metrics if by_class else without_classes(metrics),
    )
