"""Evaluating a generator while it trains: metrics, sample grids, and the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gankd import models
from gankd.context import Context
from gankd.data import Split
from gankd.metrics.extractors import Extractor
from gankd.metrics.features import Features
from gankd.models.generative import Generative
from gankd.pictures import sample_grid
from gankd.stages.quality import Renumbered, extractor_of, of_classes, real_features, score_network
from gankd.stages.sections import ContinuousQualityConfig, GanTrainingConfig, QualityConfig
from gankd.store.artifact import Artifact

ROWS = 8  # images per label on a sample grid
LABELS_SHOWN = 10
EVALUATION_BATCH = 100  # images at a time; workers share the batches


@dataclass(frozen=True)
class RealSide:
    """What generated images are compared with: an extractor and its features of real images.

    `classes`: the numbers that the generator's classes 0 .. M - 1 have in the data; empty where these are all the data's.
    """

    extractor: Extractor
    features: Features
    classes: Sequence[int] = ()

    @classmethod
    def of(
        cls, ctx: Context, cfg: GanTrainingConfig, feature_classifier: Artifact, part: Split, classes: Sequence[int] = ()
    ) -> RealSide:
        """The feature classifier's features of a part of the data: of its images of these classes, or of all.

        Looked at anew by each training: what a stage made for the section `quality` would tie the generator's key to it.
        """
        extractor = extractor_of(feature_classifier, ctx.device)
        return cls(extractor, real_features(ctx, settings(cfg), of_classes(part, classes), extractor), classes)

    @property
    def fid(self) -> str:
        """The name of the metric that decides which generator is best."""
        return f"fid_{self.extractor.name}"


def settings(cfg: GanTrainingConfig) -> QualityConfig:
    """How generators are measured while they train; the windows are for labels that are numbers."""
    return ContinuousQualityConfig(images=cfg.evaluation_images, batch=EVALUATION_BATCH)


class Evaluation:
    """Looks at an averaged generator while it trains: all metrics, sample grids and, to keep the best, its weights so far.

    Best is the lowest FID. Evaluations use the same latents every time, so that they differ by the generator alone. Nothing
    that trains is drawn from: evaluating more often changes no weight.

    Attributes:
        every: steps between two occasions; an occasion may be for metrics, for a sample grid, or for both.
        best: metrics, step and weights of the best so far; goes into checkpoints.
        seconds: time that evaluating has taken in this process.
    """

    def __init__(self, ctx: Context, cfg: GanTrainingConfig, average: Generative, against: RealSide) -> None:
        self.ctx, self.cfg, self.average, self.against = ctx, cfg, average, against
        self.quality = settings(cfg)
        self.asked: Any = Renumbered(average, against.classes, ctx.device) if against.classes else average
        labels = against.features.labels
        self.span = float(labels.min()), float(labels.max())  # of a grid's rows, where labels are numbers
        self.every, self.occasions = occasions(cfg.steps, max(cfg.evaluations, cfg.sample_grids))
        self.best: dict[str, Any] = {"step": 0, "metrics": {}, "weights": {}}
        self.seconds = 0.0

    def at(self, step: int, *, eligible: bool = True) -> dict[str, float]:
        """What is due after `step` steps: the metrics, when they are. Only a generator that is `eligible` can be the best."""
        if self.ctx.device.type == "cuda":
            torch.cuda.synchronize(self.ctx.device)  # training that is still under way is not evaluation
        since, metrics = time.perf_counter(), dict[str, float]()
        if self._due(step, self.cfg.sample_grids):
            number = -(-step // self.every)
            place = -(-number * self.cfg.sample_grids // self.occasions)
            self.ctx.image("sample_grid", class_grid(self.average, self.ctx, self.span), place)
        if self._due(step, self.cfg.evaluations):
            against = self.against
            metrics = score_network(self.ctx, self.quality, self.asked, against.extractor, against.features, "evaluation")
            if (
                eligible
                and self.cfg.keep == "best"
                and metrics[against.fid] < self.best["metrics"].get(against.fid, float("inf"))
            ):
                weights = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
                self.best = {"step": step, "metrics": metrics, "weights": weights}
        self.seconds += time.perf_counter() - since
        return metrics

    def _due(self, step: int, times: int) -> bool:
        """Whether one of `times` events, spread evenly over the occasions, falls on this one; the last has one of each."""
        number, steps = -(-step // self.every), self.cfg.steps
        return times > 0 and (step == steps or number * times // self.occasions > (number - 1) * times // self.occasions)

    def keep(self) -> dict[str, float]:
        """Save the generator that is the artifact; of the best one its metrics, with the last one in the folder `last`.

        The last one's metrics are not told: how often it was evaluated, and on how many images, is no part of its key.
        """
        if self.cfg.keep == "last":
            models.save(self.average, self.ctx.out)
            return {"step": float(self.cfg.steps)}
        models.save(self.average, self.ctx.out, self.best["weights"])
        models.save(self.average, self.ctx.out / "last")
        return {**self.best["metrics"], "step": float(self.best["step"])}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.best)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = dict(state)


def occasions(steps: int, wanted: int) -> tuple[int, int]:
    """Steps between two occasions, and how many there are, the last one after the last step: at most `wanted`."""
    every = -(-steps // max(1, wanted))
    return every, -(-steps // every)


@torch.no_grad()
def class_grid(generator: Any, ctx: Context, span: tuple[float, float] = (0.0, 1.0)) -> object:
    """A picture with a row per class (the first ones), the same latents every time; of ten rows without classes.

    Where labels are numbers the rows' are evenly spaced over `span`, the lowest first.
    """
    if generator.classes == "continuous":
        rows = torch.linspace(*span, LABELS_SHOWN, device=ctx.device)
    else:
        rows = torch.arange(min(generator.classes or LABELS_SHOWN, LABELS_SHOWN), device=ctx.device)
    labels = rows.repeat_interleave(ROWS)
    return sample_grid(generator.sample(len(labels), labels, ctx.rng(0, "samples")), columns=ROWS)
