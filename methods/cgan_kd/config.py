"""The knobs of cGAN-KD, with the paper's CIFAR-100 values as defaults. Section numbers: docs of the method's README."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import FEATURE_CLASSIFIER, ClassifierConfig, Fraction, GanConfig, Milestones, Precision, QualityConfig

PAPER = "cGAN-KD CIFAR-100"
CDR_RS = "cDR-RS"
KD = "null: the paper's value for the loss"
WIDTHS = ("MLP3", "MLP5", "MLP7", "MLP9")

KdName = Literal[
    "none", "blkd", "takd", "fitnet", "at", "sp", "vid", "rkd", "pkt", "ab", "ft", "crd", "cc", "nst", "fsp", "kdsvd", "reviewkd",
    "sskd",
]  # fmt: skip
# What each knob of `student` that is null means for a loss: the paper's; cc and nst: RepDistiller's script; kdsvd: ours.
KD_FORMS: dict[str, dict[str, float]] = {
    name: {"kd_ce": ce, "kd_soft": soft, "kd_weight": weight, "kd_pretraining": before, "kd_warmup": 0.0, "kd_temperature": 4.0}
    for name, ce, soft, weight, before in (
        ("blkd", 0.1, 0.9, 0.0, 0.0), ("takd", 0.5, 0.5, 0.0, 0.0),
        ("fitnet", 1.0, 1.0, 100.0, 0.0), ("at", 1.0, 1.0, 1000.0, 0.0),
        ("sp", 1.0, 1.0, 3000.0, 0.0), ("vid", 1.0, 1.0, 1.0, 0.0), ("rkd", 1.0, 1.0, 1.0, 0.0),
        ("pkt", 1.0, 1.0, 30_000.0, 0.0), ("ab", 1.0, 1.0, 0.0, 30 / 240), ("ft", 1.0, 1.0, 200.0, 30 / 240),
        ("crd", 1.0, 1.0, 0.8, 0.0), ("cc", 1.0, 1.0, 0.02, 0.0), ("nst", 1.0, 1.0, 50.0, 0.0),
        ("fsp", 1.0, 1.0, 0.0, 30 / 240), ("kdsvd", 1.0, 1.0, 1.0, 0.0), ("reviewkd", 1.0, 0.0, 5.0, 0.0),
        ("sskd", 0.1, 0.9, 1.0, 60 / 240),
    )
}  # fmt: skip
KD_FORMS["reviewkd"]["kd_warmup"] = 20 / 240
KD_FORMS["takd"]["kd_temperature"] = 10.0
TWO_PHASES = frozenset({"ab", "ft", "fsp", "sskd"})
WITHOUT_TERM = frozenset({"blkd", "takd", "ab", "fsp"})  # no term of their own once the student itself trains


class AssistantConfig(ClassifierConfig):
    """TAKD's assistant, between teacher and student in size: made only for `student.kd=takd`."""

    network: str = knob("vgg13", "network by name (`gankd.models.CLASSIFIERS`)", origin="cGAN-KD: DenseNet121 to ResNet20")
    soft: float = knob(0.5, "weight of the teacher's soft targets; cross-entropy has the rest", origin="TAKD", ge=0, le=1)
    temperature: float = knob(10.0, "T of the soft targets", origin="TAKD", ge=0.1, le=100)

    def inert(self) -> frozenset[str]:
        """Without soft targets, their temperature."""
        return super().inert() | (frozenset() if self.soft else frozenset({"temperature"}))


class ExtractorConfig(ClassifierConfig):
    """The classifier whose features the density-ratio net reads."""

    network: Literal["feature_extractor"] = knob("feature_extractor", "ResNet-34 with a wide feature layer", origin=CDR_RS)
    trunk: Literal["resnet34", "small"] = knob("resnet34", "body of the network; `small` for 8 to 16 px", origin=CDR_RS)
    dropout: float = knob(0.5, "dropout in the classifier's tail", origin=CDR_RS, ge=0, lt=1)
    epochs: int = knob(350, "passes over the training images", unit="epochs", origin=CDR_RS, ge=1)
    batch: int = knob(256, "images per step over all workers", unit="images", origin=PAPER, ge=1)
    lr: float = knob(0.1, "learning rate at the start", origin=CDR_RS, gt=0, le=10)
    weight_decay: float = knob(1e-4, "weight decay", origin=CDR_RS, ge=0, lt=1)
    milestones: Milestones = knob(
        (150 / 350, 250 / 350),
        "where the rate is multiplied by 0.1",
        unit="share of the training",
        origin="epochs 150, 250 of 350",
    )


class DensityRatioConfig(Section):
    """psi(phi(x), y), the conditional density ratio p_real / p_generated, by the Softplus loss."""

    widths: Literal["MLP3", "MLP5", "MLP7", "MLP9"] | tuple[Annotated[int, Field(ge=8, le=8192)], ...] = knob(
        "MLP5", "hidden widths (multiples of 8), or a name of the paper's table", unit="units", origin=CDR_RS
    )
    output: Literal["softplus", "relu"] = knob(
        "softplus",
        "last activation; the reference's relu can die at 0 for all inputs",
        origin="ours",
    )
    lam: float = knob(1e-2, "weight of (mean ratio - 1)^2", origin=PAPER, ge=0, le=100)
    epochs: int = knob(200, "passes over the training images", unit="epochs", origin=PAPER, ge=1)
    batch: int = knob(256, "images per step over all workers", unit="images", origin=PAPER, ge=1)
    lr: float = knob(1e-4, "Adam's learning rate", origin=PAPER, gt=0, le=1)
    beta1: float = knob(0.5, "Adam's first decay", origin=PAPER, ge=0, lt=1)
    beta2: float = knob(0.999, "Adam's second decay", origin=PAPER, gt=0, lt=1)
    weight_decay: float = knob(1e-4, "weight decay", origin=PAPER, ge=0, lt=1)
    milestones: tuple[Fraction, ...] = knob(
        (0.4, 0.75), "where the rate is multiplied by 0.1", unit="share of the training", origin="epochs 80, 150 of 200"
    )
    dropout: float = knob(0.5, "dropout", origin=CDR_RS, ge=0, lt=1)
    flip: bool = knob(True, "random horizontal flips of real images", origin=PAPER)
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")


class SamplesConfig(Section):
    """M1 and M2: rejection by the density ratio, then the teacher's filter. One class at a time."""

    per_class: int = knob(1000, "processed fakes kept per class", unit="images", origin="100,000 used of 500,000 made", ge=1)
    subsampling: bool = knob(True, "M1: rejection sampling by the density ratio", origin=PAPER)
    estimator: Literal["max", "quantile"] = knob(
        "max", "how the largest ratio M is estimated from the burn-in", origin=f"{CDR_RS}: max"
    )
    m_quantile: float = knob(0.99, "the quantile, for estimator = quantile", origin="ours", gt=0.5, le=1)
    burn_in: int = knob(5000, "fakes per class from which M is estimated", unit="images", origin=PAPER, ge=2)
    filter_quantile: float = knob(
        0.9,
        "M2: rho, the share of fakes with the smallest teacher error that is kept; 1 = no filter",
        origin=PAPER,
        gt=0,
        le=1,
    )
    filter_burn_in: int = knob(1000, "fakes per class from which the threshold is taken", unit="images", origin=PAPER, ge=2)
    replace_labels: bool = knob(False, "label = the teacher's arg-max instead of the class asked for", origin=PAPER)
    batch: int = knob(600, "fakes drawn at a time", unit="images", origin=PAPER, ge=1, le=100_000)
    max_draws: int = knob(
        200,
        "give up on a class after this many times the fakes wanted",
        unit="x",
        origin="ours; the reference never does",
        ge=2,
    )
    reference_compat: bool = knob(
        False,
        "as the reference: M grows while sampling, strict < at the quantile, grey levels truncated",
        origin="cDR-RS code",
    )

    @property
    def draw_limit(self) -> int:
        """Fakes of a class after which sampling is given up: burn-in, filter's burn-in and what is wanted."""
        return self.burn_in + self.max_draws * (self.filter_burn_in + self.per_class)


class TransferConfig(Section):
    """M3: the student on real and processed fake images. `control` is the same without the fakes."""

    start: Literal["baseline", "scratch"] = knob("baseline", "weights at the start", origin=PAPER)
    steps: int = knob(281_280, "optimiser steps, the control's too", unit="steps", origin="240 epochs of 150,000 images", ge=1)
    batch: int = knob(128, "images per step over all workers", unit="images", origin=PAPER, ge=1)
    fakes: int = knob(100_000, "processed fakes used, spread evenly over the classes; 0 = all", unit="images", origin=PAPER, ge=0)
    real_per_fake: float | None = knob(
        None,
        "real images per fake in a batch; null = as many as there are of each",
        unit="ratio",
        origin=PAPER,
        gt=0.001,
        lt=1000,
    )
    lr: float = knob(0.01, "learning rate at the start", origin=PAPER, gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin=PAPER, ge=0, lt=1)
    weight_decay: float = knob(5e-4, "weight decay", origin=PAPER, ge=0, lt=1)
    schedule: Literal["multistep", "cosine"] = knob("multistep", "shape of the learning rate", origin=PAPER)
    milestones: Milestones = knob(
        (0.625, 0.75, 0.875),
        "where multistep multiplies the rate by 0.1",
        unit="share of the training",
        origin="epochs 150, 180, 210 of 240",
    )
    flip: bool = knob(True, "random horizontal flips", origin=PAPER)
    crop_padding: int = knob(4, "zero padding before a random crop; 0 = no crop", unit="pixels", origin=PAPER, ge=0, le=32)
    sync_batch_norm: bool = knob(False, "batch norm over all workers' images instead of each worker's own", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    @property
    def length(self) -> int:
        """All steps."""
        return self.steps


class StudentConfig(TransferConfig):
    """M3 for classes. With `kd`, both also learn from the teacher's answers: `control` is then that loss alone, `student`
    cGAN-KD + that loss."""

    kd: KdName = knob("none", "loss by which the student also learns from the teacher, on real images and fakes", origin=PAPER)
    kd_ce: float | None = knob(None, "weight of cross-entropy", origin=KD, ge=0, le=1000)
    kd_soft: float | None = knob(None, "weight of soft targets: T^2 KL of the answers at temperature T", origin=KD, ge=0, le=1000)
    kd_weight: float | None = knob(None, "weight of the loss itself", origin=KD, ge=0, le=1e6)
    kd_temperature: float | None = knob(None, "T of the soft targets", origin=f"{KD}, 4", ge=0.1, le=100)
    kd_pretraining: float | None = knob(
        None,
        "steps before the student's own, for ab, ft, fsp and sskd, which prepare something",
        unit="share of student.steps",
        origin=f"{KD}: 30 of 240 epochs, sskd 60",
        ge=0,
        le=1,
    )
    kd_warmup: float | None = knob(
        None,
        "steps over which the loss's weight rises from 0",
        unit="share of student.steps",
        origin=f"{KD}: reviewkd 20 of 240 epochs",
        ge=0,
        le=1,
    )
    kd_negatives: int = knob(
        16_384, "crd: images of other classes that each is told from, at most as many as there are", origin="CRD", ge=1, le=2**20
    )
    kd_width: int = knob(128, "crd, cc: width of the embeddings", unit="units", origin="CRD", ge=2, le=4096)

    @property
    def pretraining_steps(self) -> int:
        """Steps in which what the loss needs is prepared."""
        return round(kd_form(self, "kd_pretraining") * self.steps) if self.kd in TWO_PHASES else 0

    @property
    def length(self) -> int:
        """All steps."""
        return self.pretraining_steps + self.steps

    def unread(self) -> frozenset[str]:
        """Whoever does not teach: by TAKD the assistant does, by all other losses the teacher."""
        who = {"none": frozenset[str](), "takd": frozenset({"assistant"})}.get(self.kd, frozenset({"teacher"}))
        return frozenset({"teacher", "assistant"}) - who

    def inert(self) -> frozenset[str]:
        """What the loss does not look at."""
        if self.kd == "none":
            return frozenset({"kd_negatives", "kd_width", *KD_FORMS["blkd"]})
        none = {"kd_weight", "kd_warmup"} if self.kd in WITHOUT_TERM else set()
        none |= set() if kd_form(self, "kd_soft") else {"kd_temperature"}
        none |= set() if self.kd in TWO_PHASES else {"kd_pretraining"}
        none |= set() if self.kd == "crd" else {"kd_negatives"}
        none |= set() if self.kd in ("crd", "cc") else {"kd_width"}
        return frozenset(none)


def kd_form(cfg: StudentConfig, knob: str) -> float:
    """The value of a `kd_` knob, by the loss where it is null."""
    value: float | None = getattr(cfg, knob)
    return KD_FORMS[cfg.kd][knob] if value is None else value


class CganKdConfig(MethodConfig):
    """All knobs of cGAN-KD."""

    teacher: ClassifierConfig = ClassifierConfig(network="densenet121")
    baseline: ClassifierConfig = ClassifierConfig(network="resnet20")
    assistant: AssistantConfig = AssistantConfig()
    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    biggan: GanConfig = GanConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    quality: QualityConfig = QualityConfig()
    density_ratio: DensityRatioConfig = DensityRatioConfig()
    samples: SamplesConfig = SamplesConfig()
    student: StudentConfig = StudentConfig()

    # These two stand here because the section's own code is in the keys of its stage.

    @field_validator("density_ratio", mode="before")
    @classmethod
    def _widths_that_can_be_built(cls, section: Any) -> Any:
        """One sentence for names and lists, where the union would complain of each."""
        if not isinstance(section, Mapping) or "widths" not in section:
            return section
        widths = section["widths"]
        listed = isinstance(widths, list | tuple) and 1 <= len(widths) <= 16
        fit = listed and all(isinstance(width, int) and 8 <= width <= 8192 and width % 8 == 0 for width in widths)
        if not fit and not (isinstance(widths, str) and widths in WIDTHS):
            raise UserError(
                f"knob 'density_ratio.widths' cannot be {widths!r}: it is {', '.join(WIDTHS)}, or a list of 1 to 16 widths, "
                "each a multiple of 8 up to 8192"
            )
        return section

    @field_validator("density_ratio")
    @classmethod
    def _milestones_in_order(cls, section: DensityRatioConfig) -> DensityRatioConfig:
        if any(one >= other for one, other in pairwise(section.milestones)):
            raise UserError(
                f"knob 'density_ratio.milestones' cannot be {section.milestones}: each entry must be larger than the one before"
            )
        return section
