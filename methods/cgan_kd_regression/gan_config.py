"""The knobs of cGAN-KD's GAN for continuous labels: the label embedding and CcGAN, as in the paper on Steering Angle."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from gankd.config import Section, knob
from gankd.errors import UserError
from gankd.stages.sections import GanTrainingConfig, Milestones, Policy, Precision

ILI = "CcGAN, improved label input"
STEERING = "cGAN-KD Steering Angle script"
SAGAN_SIZES = (16, 32, 64)  # pixels


class LabelEmbeddingConfig(Section):
    """h, what a label becomes. Learned: by two networks, image -> h -> label, and label -> h, which inverts the first one's head
    and is kept. Fourier: cosines and sines of the label's place in its range."""

    kind: Literal["learned", "fourier"] = knob(
        "learned", "h by two networks (ILI), or cosines and sines of the label, of which none is trained", origin=ILI
    )
    frequencies: int = knob(
        6, "with fourier: cosines and sines of up to so many half periods over the range", origin="ours", ge=1, le=64
    )
    dim: int = knob(128, "width of h, what a label becomes", unit="numbers", origin=ILI, ge=32, le=1024, multiple_of=8)
    trunk: Literal["resnet34", "small"] = knob("resnet34", "body of the image network; `small` for 16 or 32 px", origin=ILI)
    width: int = knob(16, "width of the trunk `small`", unit="channels", origin="ours", ge=1, le=512)
    epochs: int = knob(200, "passes over the training images", unit="epochs", origin=ILI, ge=1)
    batch: int = knob(256, "images per step over all workers", unit="images", origin=ILI, ge=2)
    milestones: Milestones = knob(
        (0.3, 0.6),
        "where the image network's rate is multiplied by 0.1",
        unit="share of the training",
        origin="epochs 60, 120 of 200",
    )
    label_epochs: int = knob(500, "passes of the label network over the distinct labels", unit="epochs", origin=ILI, ge=1)
    label_batch: int = knob(128, "labels per step over all workers", unit="labels", origin=ILI, ge=1)
    label_milestones: Milestones = knob(
        (0.3, 0.5, 0.7),
        "where the label network's rate is multiplied by 0.1",
        unit="share of the training",
        origin="epochs 150, 250, 350 of 500",
    )
    label_noise: float = knob(
        0.2, "standard deviation of the noise on labels", unit="share of the label's range", origin=ILI, ge=0, le=1
    )
    lr: float = knob(0.01, "learning rate of both at the start", origin=ILI, gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin=ILI, ge=0, lt=1)
    weight_decay: float = knob(1e-4, "weight decay", origin=ILI, ge=0, lt=1)
    flip: bool = knob(False, "random horizontal flips, where a mirrored image has the same label", origin=STEERING)
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    def inert(self) -> frozenset[str]:
        """Of Fourier features only their number counts."""
        if self.kind == "fourier":
            return frozenset(type(self).model_fields) - {"kind", "frequencies"}
        return frozenset({"frequencies", "width"} if self.trunk == "resnet34" else {"frequencies"})


class CcganConfig(GanTrainingConfig):
    """A GAN with continuous labels: a SAGAN by the vicinal losses of CcGAN."""

    width: int = knob(64, "channel multiplier of both networks", unit="channels", origin=STEERING, ge=8, le=256)
    dim_z: int = knob(256, "width of the latent", unit="numbers", origin=STEERING, ge=1, le=1024)
    attention: bool = knob(True, "self-attention at half the image's size in both networks", origin="SAGAN")
    vicinity: Literal["soft", "hard"] = knob(
        "soft", "real images near a label stand in for it: the nearer the more (SVDL), or all alike (HVDL)", origin=STEERING
    )
    kappa: float = knob(
        -5.0,
        "width of a label's vicinity; negative: times the largest gap between neighbouring labels",
        unit="share of the label's range",
        origin=STEERING,
        ge=-1000,
        le=1,
    )
    soft_cut: float = knob(1e-3, "weight at which a soft vicinity ends", origin=STEERING, gt=0, lt=1)
    sigma: float = knob(
        -1.0,
        "standard deviation of the noise on labels; negative: times the rule of thumb",
        unit="share of the label's range",
        origin=STEERING,
        ge=-100,
        le=1,
    )
    reference_compat: bool = knob(
        False,
        "labels with noise may leave the range, and the discriminator's shortcuts see what its in-place ReLUs leave",
        origin="CcGAN code",
    )
    g_lr: float = knob(1e-4, "generator's learning rate", origin=STEERING, gt=0, le=1)
    d_lr: float = knob(1e-4, "discriminator's learning rate", origin=STEERING, gt=0, le=1)
    steps: int = knob(20_000, "generator steps", unit="steps", origin=STEERING, ge=1)
    batch: int = knob(512, "images per update over all workers", unit="images", origin=STEERING, ge=2)
    d_steps: int = knob(2, "discriminator updates per generator update", origin=STEERING, ge=1, le=32)
    beta1: float = knob(0.5, "Adam's first decay", origin=STEERING, ge=0, lt=1)
    ema_decay: float = knob(0.0, "decay of the generator's moving average; 0 = none", origin=STEERING, ge=0, lt=1)
    ema_start: int = knob(0, "steps before which the average is the live generator", unit="steps", origin="ours", ge=0)
    diffaugment: Policy = knob(("color", "translation", "cutout"), "differentiable augmentation of what D sees", origin=STEERING)
    flip: bool = knob(False, "random horizontal flips, where a mirrored image has the same label", origin=STEERING)

    def inert(self) -> frozenset[str]:
        soft = frozenset() if self.vicinity == "soft" else frozenset({"soft_cut"})
        average = frozenset() if self.ema_decay else frozenset({"ema_start"})
        return super().inert() | soft | average

    @model_validator(mode="after")
    def _some_vicinity(self) -> Self:
        if not self.kappa:
            raise UserError(
                "kappa cannot be 0: no real image has just the label that noise makes; give a width above 0, or a negative "
                "multiple of the largest gap between labels, e.g. -5"
            )
        return self

    @model_validator(mode="after")
    def _no_classes_to_fade_in(self) -> Self:
        if self.transition:
            raise UserError(
                f"transition = {list(self.transition)} fades in the condition on a class, and labels here are numbers"
            )
        return self
