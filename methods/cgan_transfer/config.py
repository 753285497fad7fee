"""The knobs of cGANTransfer; the defaults are those of the authors' CIFAR script where it has them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import (
    FEATURE_CLASSIFIER,
    ClassifierConfig,
    GanConfig,
    GanTrainingConfig,
    Policy,
    QualityConfig,
    check_micro_batches,
)

SCRIPT = "cGANTransfer CIFAR script"
# By name; a number in a space or in a program is the text that a user would write.
Classes = tuple[Annotated[str, BeforeValidator(str)], ...]


class TaskConfig(Section):
    """Which classes the GAN is pretrained on, and which it is transferred to."""

    old_classes: Classes = knob(
        (),
        "classes to pretrain on, by name or number; empty = all that are not new, or those of pretrain.checkpoint",
        origin="ours",
    )
    new_classes: Classes = knob((), "classes to transfer to, by name or number; empty = all that are not old", origin="ours")
    images_per_class: int = knob(
        0, "training images of each new class, drawn at random; 0 = all", unit="images", origin="paper: 500 (Places)", ge=0
    )

    @model_validator(mode="after")
    def _disjoint(self) -> Self:
        both = [name for name in self.new_classes if name in self.old_classes]
        if both:
            raise UserError(f"class {both[0]} is in task.old_classes and in task.new_classes; a class can be only one of them")
        for field, names in (("old_classes", self.old_classes), ("new_classes", self.new_classes)):
            twice = [name for place, name in enumerate(names) if name in names[:place]]
            if twice:
                raise UserError(f"class {twice[0]} stands twice in task.{field}")
        return self


class TrainingConfig(GanTrainingConfig):
    """What both stages of the transfer and their controls share: data, discriminator, length."""

    steps: int = knob(5000, "generator steps of both stages together, and of either control", unit="steps", origin="ours", ge=2)
    batch: int = knob(50, "images per update over all workers", unit="images", origin=SCRIPT, ge=2, le=16384)
    d_steps: int = knob(4, "discriminator updates per generator update", origin=f"{SCRIPT}'s flag; its loop takes 1", ge=1, le=32)
    d_frozen_blocks: int = knob(
        0, "blocks of the discriminator, from the image, that stay as pretrained", origin="FreezeD", ge=0, le=6
    )
    ema_decay: float = knob(0.999, "decay of the generator's moving average; 0 = none, as the authors", origin="ours", ge=0, lt=1)
    ema_start: int = knob(0, "steps before which the average is the live generator", unit="steps", origin="ours", ge=0)
    diffaugment: Policy = knob((), "differentiable augmentation of what D sees", origin=SCRIPT)
    flip: bool = knob(False, "random horizontal flips of real images", origin=SCRIPT)
    sample_grids: int = knob(10, "sample grids of either stage", origin="every 100 steps", ge=0, le=100)
    evaluations: int = knob(10, "evaluations of either stage", origin="every 100 steps", ge=1, le=1000)
    keep: Literal["last", "best"] = knob(
        "best", "which averaged generator is the artifact: the last, or that of the lowest FID on validation", origin="authors"
    )

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        check_micro_batches("training.", self.batch, self.accumulations)
        return self

    @model_validator(mode="after")
    def _condition_from_the_start(self) -> Self:
        if self.transition:
            raise UserError(
                "training.transition has no meaning here: a transfer's generator starts from the old classes' conditions"
            )
        return self

    def lasting(self, steps: int, **changes: float) -> Self:
        """The same for a stage of `steps` steps."""
        return self.model_copy(update={"steps": steps, **changes})


class PretrainConfig(GanConfig):
    """The GAN of the old classes: trained here, or the user's own."""

    network: Literal["biggan"] = knob("biggan", "family of both networks", origin="paper")
    checkpoint: str | None = knob(
        None, "generator in BigGAN-PyTorch's layout (G_ema.pth) to use in place of training", unit="path", origin="ours"
    )
    discriminator_checkpoint: str | None = knob(None, "the discriminator that belongs to it (D.pth)", unit="path", origin="ours")

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.checkpoint is None) != (self.discriminator_checkpoint is None):
            raise UserError(
                "pretrain.checkpoint and pretrain.discriminator_checkpoint belong together: give both files, or neither "
                "to train the GAN here"
            )
        return self


class BnConfig(Section):
    """Stage BN: only what belongs to the classes is trained."""

    share: float = knob(0.5, "this stage's share of training.steps; the rest is FT", origin="ours", gt=0, lt=1)
    g_lr: float = knob(2e-4, "generator's learning rate", origin=SCRIPT, gt=0, le=1)
    comb_l1_scale: float = knob(0.01, "weight of the l1 penalty on the combinations", origin=SCRIPT, ge=0, le=1000)
    res_l2_scale: float = knob(0.01, "weight of the l2 penalty on the residuals, in FT too", origin=SCRIPT, ge=0, le=1000)
    variant: Literal["plain", "imagenet", "cifar"] = knob(
        "plain",
        "layer: no spectral norm on the combinations, or that of either form of the authors' code",
        origin="ours",
    )
    start: Literal["nearest", "uniform", "random"] = knob(
        "nearest", "a new class starts as its nearest old classes, as the mean of all, or at random", origin="authors: random"
    )
    neighbours: int = knob(1, "old classes that a new one starts from, for start = nearest", unit="classes", origin="ours", ge=1)
    residual: Literal["zero", "random", "none"] = knob(
        "zero", "residuals start at zero or at random, or are left out", origin="authors: random"
    )
    score_bias: bool = knob(True, "train a bias of the scores, common to all new classes", origin="authors")
    train_base: bool = knob(False, "train the old classes' pairs too", origin="authors: true")
    train_latent: bool = knob(True, "train the layers that read the latent, if it is hierarchical", origin="authors")


class FtConfig(Section):
    """Stage FT: everything else is trained, the combinations stay; its control, plain fine-tuning: everything is."""

    g_lr: float = knob(2e-4, "generator's learning rate", origin=SCRIPT, gt=0, le=1)


class CganTransferConfig(MethodConfig):
    """All knobs of cGANTransfer."""

    task: TaskConfig = TaskConfig()
    training: TrainingConfig = TrainingConfig()
    pretrain: PretrainConfig = PretrainConfig()
    bn: BnConfig = BnConfig()
    ft: FtConfig = FtConfig()
    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _some_steps_in_each(self) -> Self:
        if not 1 <= round(self.bn.share * self.training.steps) < self.training.steps:
            raise UserError(
                f"bn.share = {self.bn.share} of training.steps = {self.training.steps} leaves a stage without a step; "
                "choose a share nearer to 0.5 or more steps"
            )
        return self


def knobs_of_pretrained(generator: str) -> dict[str, str]:
    """The knobs for a generator's file named as by BigGAN-PyTorch: G.pth and G_ema.pth go with D.pth, and so on."""
    file = Path(generator)
    if not file.name.startswith("G"):
        raise UserError(
            f"--pretrained takes a generator's file named G... as BigGAN-PyTorch does, not {generator!r}; for other names set "
            "pretrain.checkpoint and pretrain.discriminator_checkpoint"
        )
    discriminator = file.with_name(file.name.replace("G_ema", "D", 1) if file.name.startswith("G_ema") else f"D{file.name[1:]}")
    return {"pretrain.checkpoint": generator, "pretrain.discriminator_checkpoint": str(discriminator)}
