"""How an encoder learns without labels: Squeeze & Span, and what it is compared with, VICReg and SimSiam.

An epoch is as many steps as the training images fill batches, whatever a batch is mixed from, as in the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.data.views import Blur, ColourJitter, Flip, Grey, Operation, ResizedCrop, View, apply, draw, rows, viewed
from gankd.engine import Algorithm, autocast, update
from gankd.errors import UserError
from gankd.models.sync_batch_norm import synchronise
from gankd.stages.schedule import cosine
from methods.squeeze_span.config import EncoderConfig, form
from methods.squeeze_span.losses import Weights, simsiam_loss, span_loss, spread, squeeze_loss
from methods.squeeze_span.neighbours import accuracy_of_neighbours
from methods.squeeze_span.networks import Student
from methods.squeeze_span.teacher import Generated

BLUR_SIGMA, BLUR_KERNEL = (0.1, 2.0), 9  # 4 sigma + 1 pixels
Terms = dict[str, Tensor]  # scalars that add up to the loss
Source = Callable[[int, int], Generated]  # (n, step) -> this worker's part of n generated images


def view_of(cfg: EncoderConfig) -> View:
    """The augmentation A: a resized crop, colour jitter, grey, blur, a flip."""
    wanted: list[Operation] = [] if cfg.crop_area == 1 else [ResizedCrop((cfg.crop_area, 1))]
    if strong := cfg.jitter:
        wanted.append(ColourJitter(0.4 * strong, 0.4 * strong, 0.4 * strong, 0.1 * strong, 0.8))
    wanted += [Grey(cfg.grey)] if cfg.grey else []
    wanted += [Blur(BLUR_SIGMA, BLUR_KERNEL, cfg.blur)] if cfg.blur else []
    return [*wanted, Flip()] if cfg.flip else wanted


def steps_an_epoch(cfg: EncoderConfig, data: DataSet) -> int:
    """Whole batches that the training images fill."""
    return max(1, len(data.train) // cfg.batch)


def squeeze_and_span(
    student: nn.Module, squeeze: nn.Module, shown: Tensor, target: Sequence[Tensor], views: Sequence[Tensor], weights: Weights,
    alpha: float, *, regularise_teacher: bool = False, together: bool = False,
) -> tuple[Terms, Tensor]:  # fmt: skip
    """alpha L_squeeze + (1 - alpha) L_span, and the student's z of the generated images.

    shown: generated images (n, C, H, W), augmented; target: what their generator made on the way, see `SqueezeModule`.
    views: two augmentations of the real images (m, C, H, W); none for the squeeze alone, which then counts whole.
    together: one pass of the student over all, with common batch statistics, in place of three.
    """
    images = [shown, *views]
    found = student(torch.cat(images)).split([len(part) for part in images]) if together else [student(part) for part in images]
    terms = {"loss_squeeze": squeeze_loss(found[0], squeeze(target), weights, regularise_teacher=regularise_teacher)}
    if views:
        terms = {"loss_squeeze": alpha * terms["loss_squeeze"], "loss_span": (1 - alpha) * span_loss(found[1], found[2], weights)}
    return terms, found[0]


def vicreg(student: nn.Module, one: Tensor, other: Tensor, weights: Weights) -> tuple[Terms, Tensor]:
    """VICReg on two views, and the z of the first."""
    z = student(one)
    return {"loss_vicreg": span_loss(z, student(other), weights)}, z


def simsiam(student: Student, one: Tensor, other: Tensor) -> tuple[Terms, Tensor]:
    """SimSiam on two views, and the z of the first."""
    assert student.predictor is not None
    z1, z2 = student(one), student(other)
    return {"loss_simsiam": simsiam_loss(student.predictor(z1), z1, student.predictor(z2), z2)}, z1


class Pretraining(Algorithm):
    """SGD on one of the losses above, with the rate falling by epochs; its nearest neighbours are asked on the way.

    Several workers each have a part of the batch, of which the variances and covariances are its own.

    Args:
        generated: what gives generated images; None where the learner takes none.
        squeeze: the module on the generator's side, or what stands in its place; None for other learners.
    """

    def __init__(
        self, ctx: Context, cfg: EncoderConfig, data: DataSet, student: Student, generated: Source | None = None,
        squeeze: nn.Module | None = None,
    ) -> None:  # fmt: skip
        self.ctx, self.cfg, self.generated, self.classes = ctx, cfg, generated, data.classes or 0
        self.student = student.to(ctx.device).to(memory_format=torch.channels_last)
        self.modules = {"student": self.student} | ({} if squeeze is None else {"squeeze": squeeze.to(ctx.device)})
        if cfg.sync_batch_norm and ctx.world_size > 1:
            for module in self.modules.values():
                synchronise(module)
        self.real, self.validation = Resident(data.train, ctx.device), Resident(data.val, ctx.device)
        self.view, self.order = view_of(cfg), ctx.seed_for(0, "order")
        self.synthetic, self.others = cfg.generated, cfg.real
        for part, what in ((self.synthetic, "generated"), (self.others, "real")):
            if ctx.share(part, f"the number of {what} images") == 1:
                raise UserError(
                    f"of the {part} {what} images of a batch each of {ctx.world_size} workers has one, which has no variance: "
                    "raise encoder.batch"
                )
        self.steps_an_epoch = steps_an_epoch(cfg, data)
        self.weights = Weights(*(form(cfg, name) for name in ("distillation", "variance", "covariance")))
        self.optimizers = {"student": self.sgd()}

    @property
    def steps(self) -> int:
        return self.cfg.epochs * self.steps_an_epoch

    def sgd(self) -> torch.optim.SGD:
        """All parameters at the one rate, but for SimSiam's predictor, whose rate stays, in a group of its own."""
        predictor = self.student.predictor if self.cfg.fixed_predictor_lr else None
        still = set() if predictor is None else set(predictor.parameters())
        every = [p for module in self.modules.values() for p in module.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in every if p not in still]},
            {"params": [p for p in every if p in still], "still": True},
        ]
        cfg, there = self.cfg, [group for group in groups if group["params"]]
        return torch.optim.SGD(there, cfg.rate, momentum=cfg.momentum, weight_decay=cfg.weight_decay, fused=True)

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        for module in self.modules.values():
            module.train()
        epoch = step // self.steps_an_epoch
        for group in self.optimizers["student"].param_groups:
            group["lr"] = self.cfg.rate * (1 if group.get("still") else cosine(epoch, self.cfg.epochs))
        terms, z = self.losses(step, rng)
        total = torch.stack(list(terms.values())).sum()
        update(self.ctx, total, self.optimizers["student"], *self.modules.values())
        return {name: term.detach() for name, term in terms.items()} | {"spread": spread(z)}

    def clock(self, step: int) -> int:
        """Epochs, in which trials are compared."""
        return step // self.steps_an_epoch

    def losses(self, step: int, rng: torch.Generator) -> tuple[Terms, Tensor]:
        """The terms of this step's loss, and a z by which a collapse is seen."""
        made = self.generated(self.synthetic, step) if self.generated and self.synthetic else None
        real = self.real_images(step)
        cfg = self.cfg
        if form(cfg, "learner") == "squeeze":
            assert made is not None
            target = [made.latent] if form(cfg, "teacher") == "latent" else made.features
            shown = self.of_generated(made.images, rng)
            views = [] if real is None else [self.of_real(real, rng) for _ in range(2)]
            with autocast(self.ctx.device, cfg.precision):
                return squeeze_and_span(
                    self.student, self.modules["squeeze"], shown, target, views, self.weights, form(cfg, "alpha"),
                    regularise_teacher=cfg.regularise_teacher, together=cfg.forward == "concatenated",
                )  # fmt: skip
        one, other = (self.mixed(made, real, rng) for _ in range(2))
        with autocast(self.ctx.device, cfg.precision):
            if form(cfg, "learner") == "simsiam":
                return simsiam(self.student, one, other)
            return vicreg(self.student, one, other, self.weights)

    def real_images(self, step: int) -> Tensor | None:
        """This worker's real images of the step, (n, C, H, W) in [-1, 1], as they are."""
        if not self.others:
            return None
        images, _ = self.real.epoch_batch(step, self.others, None, self.order, self.ctx.rank, self.ctx.world_size)
        return images

    def of_real(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """A view of each real image."""
        return self.contiguous(viewed(self.view, images, rng, self.mine(self.others), self.others))

    def of_generated(self, images: Tensor, rng: torch.Generator) -> Tensor:
        """A view of each generated image; one for all of them where the reference's slip is asked for."""
        if not form(self.cfg, "augment_generated"):
            return self.contiguous(images)
        if self.cfg.augmentation == "sample":
            return self.contiguous(viewed(self.view, images, rng, self.mine(self.synthetic), self.synthetic))
        alike = [drawn.expand(len(images), *drawn.shape[1:]) for drawn in draw(self.view, 1, images.shape[-1], rng)]
        return self.contiguous(apply(self.view, images, rows(alike, slice(None))))

    def mixed(self, made: Generated | None, real: Tensor | None, rng: torch.Generator) -> Tensor:
        """A view of all images, the generated ones first."""
        parts = [] if made is None else [self.of_generated(made.images, rng)]
        return torch.cat(parts + ([] if real is None else [self.of_real(real, rng)]))

    def mine(self, n: int) -> slice:
        share = n // self.ctx.world_size
        return slice(self.ctx.rank * share, (self.ctx.rank + 1) * share)

    @staticmethod
    def contiguous(images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last)

    def evaluate(self, step: int) -> dict[str, float]:
        """Top-1 in percent of the nearest training images' votes, on the validation part."""
        cfg = self.cfg
        found = accuracy_of_neighbours(
            self.student.backbone, self.real, self.validation, self.classes, cfg.neighbours, cfg.temperature
        )
        return {"val_accuracy": found}
