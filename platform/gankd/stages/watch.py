"""Looking at a generator while it trains: metrics, sample grids, and the best weights so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from gankd import models
from gankd.context import Context
from gankd.engine import train
from gankd.metrics.extractors import Extractor
from gankd.metrics.suite import Features
from gankd.pictures import sample_grid
from gankd.stages.gan import GANTraining
from gankd.stages.quality import score_network
from gankd.stages.sections import QualityConfig

ROWS = 8  # images per class on a sample grid
CLASSES_SHOWN = 10


class Watch:
    """Looks at an averaged generator while it trains: all metrics, sample grids, and a copy of the best weights so far.

    Best is the lowest FID in the feature classifier's features. Evaluations use the same latents every time, so that they differ
    by the generator alone. `best` goes into checkpoints.

    Args:
        average: the averaged generator, with `dim_z` and `classes`.
        feature_classifier, real: the extractor, and its features of the real images to compare with.
        steps: how long the training is.
        evaluations, sample_grids: how often to measure (at least once) and to show; spread evenly, the last after the last step.
        keep: "last" or "best", which of the two is to be the artifact.
        asked: what is asked for images in place of `average`, where its labels are not the data's.

    Attributes:
        every: steps between two looks; a look may be for metrics, for a sample grid, or for both.
        seconds: time that looking has taken in this process.
    """

    def __init__(
        self, ctx: Context, average: nn.Module, feature_classifier: Extractor, real: Features, quality: QualityConfig, *,
        steps: int, evaluations: int, sample_grids: int, keep: str, asked: Any = None,
    ) -> None:  # fmt: skip
        self.ctx, self.average, self.feature_classifier, self.real, self.quality = ctx, average, feature_classifier, real, quality
        self.steps, self.evaluations, self.sample_grids, self.kept = steps, evaluations, sample_grids, keep
        self.asked = asked or average
        self.every, self.looks = looks(steps, max(evaluations, sample_grids))
        self.best: dict[str, Any] = {"step": 0, "metrics": {}, "weights": {}}
        self.seconds = 0.0

    @property
    def fid(self) -> str:
        """The name of the metric that decides which generator is best."""
        return f"fid_{self.feature_classifier.name}"

    def look(self, step: int) -> dict[str, float]:
        """What is due after `step` steps: the metrics, when they are."""
        if self.ctx.device.type == "cuda":
            torch.cuda.synchronize(self.ctx.device)  # training that is still under way is not evaluation
        since = time.perf_counter()
        found: dict[str, float] = {}
        if self._due(step, self.sample_grids):
            number = -(-step // self.every)
            self.ctx.image("sample_grid", class_grid(self.average, self.ctx), -(-number * self.sample_grids // self.looks))
        if self._due(step, self.evaluations):
            found = score_network(self.ctx, self.quality, self.asked, self.feature_classifier, self.real, "evaluation")
            if not self.best["metrics"] or found[self.fid] < self.best["metrics"][self.fid]:
                weights = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
                self.best = {"step": step, "metrics": found, "weights": weights}
        self.seconds += time.perf_counter() - since
        return found

    def _due(self, step: int, times: int) -> bool:
        """Whether one of `times` events, spread evenly over the looks, falls on this one; the last look has one of each."""
        look = -(-step // self.every)
        return times > 0 and (step == self.steps or look * times // self.looks > (look - 1) * times // self.looks)

    def keep(self, last: Mapping[str, float]) -> dict[str, float]:
        """Save the last and the best generator; metrics and step of the one that is the artifact."""
        best_is_artifact, out = self.kept == "best", self.ctx.out
        models.save(self.average, out / "last" if best_is_artifact else out)
        models.save(self.average, out if best_is_artifact else out / "best", self.best["weights"])
        metrics, step = (self.best["metrics"], self.best["step"]) if best_is_artifact else (last, self.steps)
        return {**metrics, "step": float(step), f"best_{self.fid}": self.best["metrics"][self.fid]}


def looks(steps: int, wanted: int) -> tuple[int, int]:
    """Steps between two looks, and how many there are, the last one after the last step: at most `wanted`."""
    every = -(-steps // wanted)
    return every, -(-steps // every)


class WatchedTraining(GANTraining):
    """A GAN whose averaged generator is looked at each time the engine evaluates it."""

    watch: Watch

    def evaluate(self, step: int) -> dict[str, float]:
        return self.watch.look(step)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.watch.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.watch.best = dict(state["best"])


def train_watched(ctx: Context, training: WatchedTraining, watch: Watch, batch: int) -> dict[str, float]:
    """Train to the end; leaves the kept generator in ctx.out, the other one in its folder `last` or `best`.

    batch: images per step over all workers, for the rate that is shown. Returns the kept generator's metrics, its step, and the
    share of the time that looking took.
    """
    training.watch, since = watch, time.perf_counter()
    last = train(ctx, training, steps=watch.steps, batch=batch, evaluate_every=watch.every)
    share = watch.seconds / max(time.perf_counter() - since, 1e-9)
    return {**watch.keep(last), "evaluation_share": share}


@torch.no_grad()
def class_grid(generator: Any, ctx: Context) -> object:
    """A picture with a row per class (the first ones), the same latents every time."""
    shown = min(generator.classes, CLASSES_SHOWN)
    z = torch.randn(shown * ROWS, generator.dim_z, generator=ctx.rng(0, "samples"), device=ctx.device)
    labels = torch.arange(shown, device=ctx.device).repeat_interleave(ROWS)
    return sample_grid(generator(z, labels), columns=ROWS)
