"""The generator stage: a class-conditional BigGAN on the real training images."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gankd import models
from gankd.artifact import Artifact
from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.models.sync_batch_norm import synchronise
from gankd.pictures import sheet
from gankd.stages.gan import GANHyperparameters, GANTraining
from gankd.stages.quality import judge_of, load_reference, score_network
from gankd.stages.sections import GanConfig, QualityConfig

ROWS = 8  # images per class on a sheet
CLASSES_SHOWN = 10
EVALUATION_BATCH = 100  # generated images at a time; workers share the batches


def train_generator(ctx: Context, cfg: GanConfig, data: DataSet, judge: Artifact, reference: Artifact) -> dict[str, float]:
    """Train the GAN; the artifact is an averaged generator (EMA), the last or the best one as `cfg.keep` says.

    The other one lies in the subfolder named after it. Sample sheets and all metrics on the validation part are logged on
    the way; the metrics returned are those of the generator that is kept.
    """
    ctx.share(cfg.batch)
    generator, discriminator = build_gan(cfg, data)
    if cfg.sync_batch_norm and ctx.world_size > 1:
        synchronise(generator)
    real = Resident(data.train, ctx.device, flip=cfg.flip)

    def real_batch(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        return real.batch(n, rng, ctx.rank, ctx.world_size)

    training = MeasuredTraining(
        generator.to(ctx.device),
        discriminator.to(ctx.device),
        real_batch,
        hyperparameters(cfg),
        rank=ctx.rank,
        world_size=ctx.world_size,
        reduce=ctx.average,
    )
    watch = training.watch = Watch(ctx, cfg, training.ema.average, judge, reference)
    since = time.perf_counter()
    last = train(ctx, training, steps=cfg.steps, batch=cfg.batch * cfg.d_steps, evaluate_every=watch.every)
    share = watch.seconds / max(time.perf_counter() - since, 1e-9)
    found = watch.keep(ctx.out, last)
    return {**found, "evaluation_share": share, "parameters": float(sum(p.numel() for p in generator.parameters()))}


class Watch:
    """Looks at an averaged generator while it trains: all metrics, sample sheets, and a copy of the best weights so far.

    Best is the lowest FID in the judge's features. Evaluations use the same latents every time, so that they differ by the
    generator alone. `best` goes into checkpoints.

    Attributes:
        every: steps between two looks; a look may be for metrics, for a sheet, or for both.
        seconds: time that looking has taken in this process.
    """

    def __init__(self, ctx: Context, cfg: GanConfig, average: nn.Module, judge: Artifact, reference: Artifact) -> None:
        self.ctx, self.cfg, self.average = ctx, cfg, average
        self.judge, self.reference = judge_of(judge, ctx.device), load_reference(reference, ctx.device)
        self.settings = QualityConfig(images=cfg.evaluation_images, batch=EVALUATION_BATCH)
        self.every, self.looks = looks(cfg.steps, max(cfg.evaluations, cfg.sheets))
        self.best: dict[str, Any] = {"step": 0, "metrics": {}, "weights": {}}
        self.seconds = 0.0

    @property
    def fid(self) -> str:
        """The name of the metric that decides which generator is best."""
        return f"fid_{self.judge.name}"

    def look(self, step: int) -> dict[str, float]:
        """What is due after `step` steps: the metrics, when they are."""
        if self.ctx.device.type == "cuda":
            torch.cuda.synchronize(self.ctx.device)  # training that is still under way is not evaluation
        since = time.perf_counter()
        found: dict[str, float] = {}
        if self._due(step, self.cfg.sheets):
            number = -(-step // self.every)
            self.ctx.image("sheet", class_sheet(self.average, self.ctx), -(-number * self.cfg.sheets // self.looks))
        if self._due(step, self.cfg.evaluations):
            found = score_network(self.ctx, self.settings, self.average, self.judge, self.reference, "evaluation")
            if not self.best["metrics"] or found[self.fid] < self.best["metrics"][self.fid]:
                weights = {name: value.cpu().clone() for name, value in self.average.state_dict().items()}
                self.best = {"step": step, "metrics": found, "weights": weights}
        self.seconds += time.perf_counter() - since
        return found

    def _due(self, step: int, times: int) -> bool:
        """Whether one of `times` events, spread evenly over the looks, falls on this one; the last look has one of each."""
        look = -(-step // self.every)
        return times > 0 and (step == self.cfg.steps or look * times // self.looks > (look - 1) * times // self.looks)

    def keep(self, out: Path, last: Mapping[str, float]) -> dict[str, float]:
        """Save the last and the best generator; metrics and step of the one that is the artifact."""
        best_is_artifact = self.cfg.keep == "best"
        models.save(self.average, out / "last" if best_is_artifact else out)
        models.save(self.average, out if best_is_artifact else out / "best", self.best["weights"])
        metrics, step = (self.best["metrics"], self.best["step"]) if best_is_artifact else (last, self.cfg.steps)
        return {**metrics, "step": float(step), f"best_{self.fid}": self.best["metrics"][self.fid]}


def looks(steps: int, wanted: int) -> tuple[int, int]:
    """Steps between two looks, and how many there are, the last one after the last step: at most `wanted`."""
    every = -(-steps // wanted)
    return every, -(-steps // every)


class MeasuredTraining(GANTraining):
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


def build_gan(cfg: GanConfig, data: DataSet) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator of `cfg` for the images and classes of `data`, freshly initialised."""
    common = {
        "image_size": data.image_size,
        "classes": data.classes,
        "image_channels": data.image_channels,
        "width": cfg.width,
        "attention": list(cfg.attention),
        "sn_eps": cfg.sn_eps,
        "init": cfg.init,
    }
    latent = {"dim_z": cfg.dim_z, "shared_dim": cfg.shared_dim, "bn_eps": cfg.bn_eps}
    if cfg.network == "biggan":
        latent["hierarchical"] = cfg.hierarchical
    return models.build(cfg.network, **common, **latent), models.build(f"{cfg.network}_discriminator", **common)


def hyperparameters(cfg: GanConfig) -> GANHyperparameters:
    """The knobs of a GAN as its training takes them."""
    return GANHyperparameters(
        batch=cfg.batch // cfg.accumulations,
        discriminator_steps=cfg.d_steps,
        discriminator_accumulations=cfg.accumulations,
        generator_accumulations=cfg.accumulations,
        generator_learning_rate=cfg.g_lr,
        discriminator_learning_rate=cfg.d_lr,
        betas=(cfg.beta1, cfg.beta2),
        adam_eps=cfg.adam_eps,
        ema_decay=cfg.ema_decay,
        ema_start=cfg.ema_start,
        generator_orthogonal=cfg.orthogonal,
        diffaugment=cfg.diffaugment,
        precision=cfg.precision,
    )


@torch.no_grad()
def class_sheet(generator: Any, ctx: Context) -> object:
    """A picture with a row per class (the first ones), the same latents every time."""
    shown = min(generator.classes, CLASSES_SHOWN)
    z = torch.randn(shown * ROWS, generator.dim_z, generator=ctx.rng(0, "sheet"), device=ctx.device)
    labels = torch.arange(shown, device=ctx.device).repeat_interleave(ROWS)
    return sheet(generator(z, labels), columns=ROWS)
