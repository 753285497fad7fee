"""How good a generator is, on the validation part, by every metric of `gankd.metrics.suite` from one pass.

A method has three stages for it: `feature_classifier`, a classifier of the real training images, whose features are compared;
`real_statistics`, what the feature classifier says of the real validation images, made once; `quality`, the generator against
that. Whoever wants a subset of the classes, or has images in place of a generator, calls what these stages call:

    extractor_of(feature_classifier)                                        -> extractor
    real_features(ctx, cfg, part, extractor)               -> Features of a part of the data (any `Split`)
    image_features(ctx, cfg, images, labels, extractor)    -> Features of uint8 images
    generated_features(ctx, cfg, generator, extractor, labels)          -> Features of a generator's images of these classes
    sampled_features(ctx, cfg, generator, extractor, real)              -> the same for the classes that `real` has
    suite(real, fake, cfg, extractor.name)                 -> metrics

Where labels are numbers the feature classifier is a regressor, classes give way to windows of labels
(`gankd.metrics.windows`), and the section is a `ContinuousQualityConfig`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.errors import UserError
from gankd.metrics.extractors import Extractor, classifier, from_weights, regressor
from gankd.metrics.features import UNLABELLED, Features, measure
from gankd.metrics.suite import real_side, suite
from gankd.stages.classifier import load_network
from gankd.stages.quality_report import note_basis, report
from gankd.stages.sections import QualityConfig
from gankd.stages.task import LABEL_RANGE, task_of
from gankd.store.artifact import Artifact

REAL_STATISTICS, CLASSES = "features.safetensors", "classes.json"
ORDER_SEED = 0  # what real images score does not depend on a run's seed


def extractor_of(feature_classifier: Artifact, device: torch.device | str = "cpu") -> Extractor:
    """The artifact of a classifier stage as an extractor named "classifier", or "regressor" where its labels are numbers."""
    network = load_network(feature_classifier, device)
    if LABEL_RANGE not in feature_classifier.manifest["files"]:
        return classifier(network)
    return regressor(network, *json.loads(feature_classifier.file(LABEL_RANGE).read_text()))


def image_features(ctx: Context, cfg: QualityConfig, images: Any, labels: Any, extractor: Extractor) -> Features:
    """One pass over uint8 images (N, C, H, W) with labels (N,), arrays or memory maps, in an order drawn at random."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(ORDER_SEED)).numpy()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        step = cfg.batch * ctx.world_size
        for start in range(ctx.rank * cfg.batch, len(order), step):
            index = order[start : start + cfg.batch]
            yield torch.from_numpy(np.asarray(images[index])), torch.from_numpy(np.asarray(labels[index]))

    return measure(extractor, batches(), len(order), keep=cfg.keep, splits=cfg.splits, ctx=ctx)


def real_features(ctx: Context, cfg: QualityConfig, part: Split, extractor: Extractor) -> Features:
    """One pass over a part of a data set. Raises UserError for fewer than two images."""
    if len(part) < 2:
        raise UserError(f"metrics need at least 2 real images, and there is {len(part)}")
    return image_features(ctx, cfg, part.images, part.labels, extractor)


def generated_labels(real: Features, count: int, rng: torch.Generator, distribution: str = "real") -> Tensor:
    """Labels to generate, (count,) on the CPU, in random order: in the proportions of the real images, or equally often.

    Only classes that the real images have, int64; of numbers those of real images, or evenly spaced ones over their range.
    """
    if real.continuous and distribution == "uniform":
        evenly = torch.linspace(float(real.labels.min()), float(real.labels.max()), count)
        return evenly[torch.randperm(count, generator=rng)]
    source = real.labels.cpu() if distribution == "real" else real.labels.cpu().unique()
    repeated = source.repeat(-(-count // len(source)))
    # The rest of a division falls on classes drawn at random.
    whole = count - count % len(source)
    rest = source[torch.randperm(len(source), generator=rng)[: count - whole]]
    labels = torch.cat([repeated[:whole], rest])
    return labels[torch.randperm(count, generator=rng)]


@torch.no_grad()
def generated(ctx: Context, generator: Any, labels: Tensor, batch: int, stream: str) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's batches of images in [-1, 1] for the global sequence of `labels`; each batch has latents of its own seed."""
    for index, part in enumerate(labels.split(batch)):
        if index % ctx.world_size == ctx.rank:
            yield generator.sample(len(part), part.to(ctx.device), ctx.rng(index, stream)), part


class Renumbered:
    """A generator of labels 0 .. M - 1 that is asked by the numbers that its classes have in the data.

    `classes`: the data's number of each of its own. Its artifact holds them as JSON in the file `classes.json`, when they are
    not all the data's.
    """

    def __init__(self, generator: Any, classes: Sequence[int], device: torch.device | str) -> None:
        self.generator, self.classes = generator, len(classes)
        self.place = torch.full((max(classes) + 1,), -1, device=device)
        self.place[torch.tensor(classes, device=device)] = torch.arange(len(classes), device=device)

    def sample(self, n: int, labels: Tensor, rng: torch.Generator) -> Tensor:
        images: Tensor = self.generator.sample(n, self.place[labels], rng)
        return images


def made_generator(made: Artifact, device: torch.device | str) -> tuple[Any, list[int]]:
    """The generator of an artifact, asked by the data's class numbers, and which these are where they are not all."""
    network = load_network(made, device)
    if CLASSES not in made.manifest["files"]:
        return network, []
    classes: list[int] = json.loads(made.file(CLASSES).read_text())
    return Renumbered(network, classes, device), classes


def of_classes(part: Split, classes: Sequence[int]) -> Split:
    """The images of these classes, in their order, with the data's labels; all when none is named."""
    return part.take(np.flatnonzero(np.isin(part.labels, classes))) if len(classes) else part


def generated_features(
    ctx: Context, cfg: QualityConfig, generator: Any, extractor: Extractor, labels: Tensor, stream: str = "quality"
) -> Features:
    """One pass over an image of `generator` (in eval mode) for each of `labels` (N,).

    One that takes no labels makes as many images, which have none: what is measured by label is left out then.
    `stream` names the latents: the same stream, the same latents.
    """
    unlabelled = generator.classes is None
    asked = torch.full_like(labels, UNLABELLED, dtype=torch.long) if unlabelled else labels
    batches = generated(ctx, generator, asked, cfg.batch, stream)
    found = measure(extractor, batches, len(labels), keep=cfg.keep, splits=cfg.splits, ctx=ctx)
    return replace(found, right=None, off=None) if unlabelled else found


def sampled_features(
    ctx: Context, cfg: QualityConfig, generator: Any, extractor: Extractor, real: Features, stream: str = "quality"
) -> Features:
    """One pass over `cfg.images` images of a generator, of the labels that `real` has."""
    labels = generated_labels(real, cfg.images, ctx.rng(0, f"{stream} labels", device="cpu"), cfg.labels)
    return generated_features(ctx, cfg, generator, extractor, labels, stream)


def score_network(
    ctx: Context, cfg: QualityConfig, generator: Any, extractor: Extractor, real: Features, stream: str = "quality"
) -> dict[str, float]:
    """All metrics of `cfg.images` images of a generator in eval mode against `real`."""
    fake = sampled_features(ctx, cfg, generator, extractor, real, stream)
    return suite(real, fake, cfg, extractor.name)


def measure_real(ctx: Context, cfg: QualityConfig, data: DataSet, feature_classifier: Artifact) -> dict[str, float]:
    """The stage `real_statistics`: what is left of a pass over the validation images. Makes features.safetensors.

    Its metrics are what real images score: FID between their two halves, their score, or how far labels are told wrongly.
    """
    extractor = extractor_of(feature_classifier, ctx.device)
    real = real_features(ctx, cfg, data.val, extractor)
    real.save(ctx.out / REAL_STATISTICS)
    note_basis(ctx, cfg, extractor, real)
    return real_side(real, extractor.name)


def load_real_statistics(real_statistics: Artifact, device: torch.device | str = "cpu") -> Features:
    """What `measure_real` made."""
    return Features.load(real_statistics.file(REAL_STATISTICS)).to(device)


def score_generator(
    ctx: Context,
    cfg: QualityConfig,
    data: DataSet,
    feature_classifier: Artifact,
    real_statistics: Artifact,
    **generator: Artifact,
) -> dict[str, float]:
    """A stage `quality`: all metrics of the one further artifact, a generator. Makes metrics.json."""
    (made,) = generator.values()
    asked, classes = made_generator(made, ctx.device)

    def sampled(extractor: Extractor, real: Features) -> Features:
        return sampled_features(ctx, cfg, asked, extractor, real)

    how = {"generator": made.key, "labels": cfg.labels, "latent_std": 1.0, "batch_norm": "running", "ema": True}
    real, part = load_real_statistics(real_statistics, ctx.device), of_classes(data.val, classes)
    metrics = score(ctx, cfg, data, part, extractor_of(feature_classifier, ctx.device), real, sampled, how)
    return metrics | trust_in(feature_classifier, data)


TESTED = ("fid", "kid", "intra_fid", "sfid", "label_score")


def test_generator(
    ctx: Context, cfg: QualityConfig, data: DataSet, feature_classifier: Artifact, **generator: Artifact
) -> dict[str, float]:
    """A test stage: FID, KID and, by class, intra-FID of the one further artifact, a generator, against the test images of its
    classes; where labels are numbers SFID and the label score."""
    (made,) = generator.values()
    asked, classes = made_generator(made, ctx.device)
    extractor = extractor_of(feature_classifier, ctx.device)
    real = real_features(ctx, cfg, of_classes(data.test, classes), extractor)
    note_basis(ctx, cfg, extractor, real)
    metrics = score_network(ctx, cfg, asked, extractor, real)
    names = [f"{name}_{extractor.name}" for name in TESTED]
    return {f"test_{name}": metrics[name] for name in names if name in metrics}  # intra-FID needs two images of a class


def score_images(
    ctx: Context, cfg: QualityConfig, data: DataSet, feature_classifier: Artifact, real_statistics: Artifact, **images: Artifact
) -> dict[str, float]:
    """All metrics of the one further artifact's images.npy, uint8 (N, C, H, W), with labels.npy, (N,). Makes metrics.json."""
    (made,) = images.values()

    def given(extractor: Extractor, real: Features) -> Features:
        return image_features(ctx, cfg, made.array("images.npy"), made.array("labels.npy"), extractor)

    real = load_real_statistics(real_statistics, ctx.device)
    found = score(ctx, cfg, data, data.val, extractor_of(feature_classifier, ctx.device), real, given, {"images_of": made.key})
    return found | trust_in(feature_classifier, data)


def trust_in(feature_classifier: Artifact, data: DataSet) -> dict[str, float]:
    """How far a feature classifier's features can be trusted: what it scores on the validation part."""
    metric = task_of(data).metric
    return {f"feature_classifier_{metric}": feature_classifier.metrics[f"val_{metric}"]}


def score(
    ctx: Context,
    cfg: QualityConfig,
    data: DataSet,
    part: Split,
    feature_classifier: Extractor,
    real: Features,
    features: Callable[[Extractor, Features], Features],
    how: Mapping[str, Any],
) -> dict[str, float]:
    """All metrics of images whose features `features(extractor, real)` gives, also by a further extractor if asked for.

    `real`: the feature classifier's features of `part`, the images of `data` to compare with. Makes metrics.json: beside the
    numbers what they depend on (extractor, counts, seed, `how` the images came about), intra-FID by class, or FID by window,
    and warnings.
    """
    extractors = [(feature_classifier, real)]
    if cfg.extractor:
        further = from_weights(cfg.extractor, cfg.weights).to(ctx.device)
        extractors.append((further, real_features(ctx, cfg, part, further)))
    metrics: dict[str, float] = {}
    reports = {}
    for extractor, known in extractors:
        fake = features(extractor, known)
        note_basis(ctx, cfg, extractor, known, fake.count)
        found = suite(known, fake, cfg, extractor.name)
        reports[extractor.tag] = report(ctx, cfg, data, extractor, known, fake, how, found)
        metrics |= found
    (ctx.out / "metrics.json").write_text(json.dumps({"by_extractor": reports}, indent=1, sort_keys=True))
    return metrics
