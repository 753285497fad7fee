"""Stages that methods have in common, as their pipelines declare them. No torch here: the command line reads this."""

from __future__ import annotations

from gankd.method import Stage
from gankd.stages.sections import BY_WINDOW, GENERATED_ONLY

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

# What is not measured of a generator that takes no labels, and what is in place of it where they are numbers.
BY_CLASS = frozenset({"class_accuracy", "intra_fid", "intra_fid_max", "spread"})
SCORES = frozenset({"is", "is_std"})  # of an extractor with classes
BY_NUMBER = tuple(f"{name}_{{extractor}}" for name in ("label_score", "sfid", "sfid_max", "spread"))


def without(left_out: frozenset[str], metrics: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in metrics if name.removeprefix("test_").removesuffix("_{extractor}") not in left_out)


def without_classes(metrics: tuple[str, ...]) -> tuple[str, ...]:
    return without(BY_CLASS, metrics)


CONTINUOUS_METRICS = (*without(BY_CLASS | SCORES, GENERATED_METRICS), *BY_NUMBER)


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


def real_statistics(run: str = f"{QUALITY}:measure_real", sections: tuple[str, ...] = (), *, continuous: bool = False) -> Stage:
    """What the extractors say of real images, once for all generators; `continuous`: their labels are numbers."""
    return Stage(
        "real_statistics",
        run,
        inputs=("feature_classifier",),
        section="quality",
        sections=sections,
        ignores=GENERATED_ONLY | (BY_WINDOW if continuous else frozenset()),
        per_seed=False,
        metrics=("fid_floor_{extractor}", "label_score_{extractor}" if continuous else "is_{extractor}"),
    )


def quality(
    name: str, of: str, run: str = f"{QUALITY}:score_generator", *, by_class: bool = True, continuous: bool = False
) -> Stage:
    """Measures the images of the stage `of` beside validation images; not by class where they belong to none; `continuous`: by
    windows of labels, which are numbers (the section is a `ContinuousQualityConfig`)."""
    generated = GENERATED_METRICS if by_class else without_classes(GENERATED_METRICS)
    if continuous:
        generated = CONTINUOUS_METRICS
    return Stage(
        name,
        run,
        inputs=(*MEASURES, of),
        section="quality",
        check=f"{CHECKS}:check_quality",
        metrics=(*generated, "kmmd_fixed_{extractor}?kmmd_bandwidth", "feature_classifier_{task}"),
        version=2,
    )


def tested_generator(generator: str, *, by_class: bool = True, continuous: bool = False) -> Stage:  # noqa: PT028 (no test)
    """Measures a generator beside the test part; not by class where its images belong to none, or their labels are numbers."""
    figures = ("fid", "kid", "label_score", "sfid") if continuous else ("fid", "intra_fid", "kid")
    metrics = tuple(f"test_{name}_{{extractor}}" for name in figures)
    return Stage(
        f"test_{generator}",
        f"{QUALITY}:test_generator",
        inputs=("feature_classifier", generator),
        section="quality",
        test=True,
        metrics=metrics if by_class else without_classes(metrics),
    )
