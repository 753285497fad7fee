"""Looking at a generator while it trains: metrics on the validation images of its classes, sheets, the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.context import Context
from gankd.data import Split
from gankd.metrics.extractors import Extractor
from gankd.stages.gan import GANTraining
from gankd.stages.generator import class_sheet
from gankd.stages.quality import real_features, score_network
from gankd.stages.sections import QualityConfig


class Renumbered:
    """A generator of labels 0 .. M - 1 that is asked by the numbers its classes have in the data."""

    def __init__(self, generator: Any, classes: list[int], device: torch.device | str) -> None:
        self.generator, self.dim_z = generator, generator.dim_z
        self.place = torch.full((max(classes) + 1,), -1, device=device)
        self.place[torch.tensor(classes, device=device)] = torch.arange(len(classes), device=device)

    def __call__(self, z: Tensor, labels: Tensor) -> Tensor:
        images: Tensor = self.generator(z, self.place[labels])
        return images


class Watch:
    """Best is the lowest FID in the judge's features. Latents are the same at every look.

    Args:
        part: validation images of the generator's classes, with the data's labels. None: the classes are not in the data,
            and only sheets are made.
    """

    def __init__(
        self, ctx: Context, quality: QualityConfig, average: nn.Module, judge: Extractor, part: Split | None, classes: list[int]
    ) -> None:
        self.ctx, self.quality, self.average, self.judge = ctx, quality, average, judge
        self.real = real_features(ctx, quality, part, judge) if part is not None else None
        self.asked = Renumbered(average, classes, ctx.device) if part is not None else None
        self.best: dict[str, Any] = {"step": 0, "metrics": {}, "weights": {}}

    @property
    def fid(self) -> str:
        """The name of the metric that decides which generator is best."""
        return f"fid_{self.judge.name}"

    def look(self, step: int) -> dict[str, float]:
        """Show a sheet and measure the average after `step` steps."""
        self.ctx.image("sheet", class_sheet(self.average, self.ctx), step)
        if self.real is None:
            return {}
        found = score_network(self.ctx, self.quality, self.asked, self.judge, self.real, "evaluation")
        if not self.best["metrics"] or found[self.fid] < self.best["metrics"][self.fid]:
            weights = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
            self.best = {"step": step, "metrics": found, "weights": weights}
        return found

    def keep(self, out: Path, which: str, last: Mapping[str, float], steps: int) -> dict[str, float]:
        """Save the last average, or the best one and the last in a folder `last`; metrics of the one that is the artifact."""
        if which == "last" or not self.best["metrics"]:
            models.save(self.average, out)
            return {**last, "step": float(steps)}
        models.save(self.average, out, self.best["weights"])
        models.save(self.average, out / "last")
        return {**self.best["metrics"], "step": float(self.best["step"])}


class WatchedTraining(GANTraining):
    """A GAN whose averaged generator is looked at each time the engine evaluates it."""

    watch: Watch
    done = 0

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        self.done = step + 1
        return super().step(step, rng)

    def evaluate(self) -> dict[str, float]:
        return self.watch.look(self.done)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.watch.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.watch.best = dict(state["best"])
