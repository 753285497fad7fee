"""The knobs of cGAN-KD for labels that are numbers, with the paper's values on Steering Angle as defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gankd.config import MethodConfig, Section, knob
from gankd.data.config import DataConfig
from gankd.stages.sections import FEATURE_CLASSIFIER, ClassifierConfig, ContinuousQualityConfig, Milestones, Precision
from methods.cgan_kd.config import DensityRatioConfig, TransferConfig
from methods.cgan_kd_regression.gan_config import CcganConfig, LabelEmbeddingConfig

PAPER = "cGAN-KD Steering Angle"
CDR_RS = "cDR-RS"
RATE_STEPS = (150 / 350, 250 / 350)
EPOCHS_150_250 = "epochs 150, 250 of 350"


class ExtractorConfig(Section):
    """A sparse autoencoder that also tells the label: its code is the feature that the density-ratio net reads."""

    width: int = knob(
        64, "channels of the first maps; the last have four times as many", unit="channels", origin=CDR_RS, ge=4, le=512
    )
    sparsity: float = knob(1e-3, "weight of the features' mean", origin=CDR_RS, ge=0, le=100)
    regression: float = knob(1.0, "weight of the label's squared error", origin=CDR_RS, ge=0, le=100)
    epochs: int = knob(200, "passes over the training images", unit="epochs", origin=CDR_RS, ge=1)
    batch: int = knob(128, "images per step over all workers, drawn evenly over the labels", unit="images", origin=CDR_RS, ge=2)
    lr: float = knob(0.01, "learning rate at the start", origin=CDR_RS, gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin=CDR_RS, ge=0, lt=1)
    weight_decay: float = knob(1e-4, "weight decay", origin=CDR_RS, ge=0, lt=1)
    schedule: Literal["multistep", "cosine"] = knob("multistep", "shape of the learning rate", origin=CDR_RS)
    milestones: Milestones = knob(
        (0.25, 0.5, 0.75),
        "where multistep multiplies the rate by 0.1",
        unit="share of the training",
        origin="epochs 50, 100, 150 of 200",
    )
    flip: bool = knob(False, "random horizontal flips, where a mirrored image has the same label", origin=PAPER)
    sync_batch_norm: bool = knob(False, "batch norm over all workers' images instead of each worker's own", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")


class LabelRatioConfig(DensityRatioConfig):
    """psi(phi(x), h(y)), the conditional density ratio p_real / p_generated, by the Softplus loss."""

    widths: tuple[Annotated[int, Field(ge=8, le=8192, multiple_of=8)], ...] = knob(
        (1024, 512, 256, 128, 64), "hidden widths, multiples of 8", unit="units", origin=f"{CDR_RS}: MLP5"
    )
    milestones: Milestones = knob(
        (0.4, 0.75), "where the rate is multiplied by 0.1", unit="share of the training", origin="epochs 80, 150 of 200"
    )
    flip: bool = knob(False, "random horizontal flips of real images", origin=PAPER)
    zeta: float = knob(
        0.0,
        "how far a fake's label may be from the real image's, if the extractor tells it within that too; negative: times the "
        "largest gap between neighbouring labels, 0 = fakes of the same label",
        unit="share of the label's range",
        origin=f"{PAPER}: off; {CDR_RS} on UTKFace: -6",
        ge=-1000,
        le=1,
    )
    zeta_rounds: int = knob(
        10, "with zeta: how often a fake that is told to be outside is drawn anew, before its pair is left out",
        unit="rounds", origin=CDR_RS, ge=1, le=1000,
    )  # fmt: skip

    def inert(self) -> frozenset[str]:
        """Without zeta, what belongs to it."""
        return frozenset() if self.zeta else frozenset({"zeta_rounds"})


class SamplesConfig(Section):
    """M1 and M2: rejection by the density ratio, one label at a time, then the teacher's filter over all, and its labels."""

    spread: Literal["grid", "quantiles", "distinct"] = knob(
        "grid",
        "labels that fakes are made of: evenly over the range, as densely as the training labels, or each of these once",
        origin=f"{PAPER}: grid; UTKFace: distinct",
    )
    labels: int = knob(2000, "how many, for grid and quantiles", unit="labels", origin=PAPER, ge=2, le=1_000_000)
    per_label: int = knob(50, "fakes of each label, before the filter", unit="images", origin=PAPER, ge=1)
    subsampling: bool = knob(True, "M1: rejection sampling by the density ratio", origin=PAPER)
    estimator: Literal["max", "quantile"] = knob(
        "max", "how the largest ratio M is estimated from the burn-in", origin=f"{CDR_RS}: max"
    )
    m_quantile: float = knob(0.99, "the quantile, for estimator = quantile", origin="ours", gt=0.5, le=1)
    burn_in: int = knob(500, "fakes per label from which M is estimated", unit="images", origin=PAPER, ge=2)
    filter_quantile: float = knob(
        0.7,
        "M2: rho, the share of fakes with the smallest teacher error that is kept; 1 = no filter",
        origin=PAPER,
        gt=0,
        le=1,
    )
    replace_labels: bool = knob(True, "M2: label = the teacher's answer instead of the label asked for", origin=PAPER)
    batch: int = knob(500, "fakes drawn at a time", unit="images", origin=PAPER, ge=1, le=100_000)
    max_draws: int = knob(
        200, "give up on a label after this many times the fakes wanted", unit="x", origin="ours; the reference never does", ge=2
    )
    reference_compat: bool = knob(
        False,
        "as the reference: M grows while sampling, strict < at the quantile, grey levels truncated, and so the teacher's answers "
        "where all training labels are whole numbers",
        origin="cGAN-KD code",
    )

    def inert(self) -> frozenset[str]:
        """How many labels, where they are the training images'."""
        return frozenset({"labels"}) if self.spread == "distinct" else frozenset()

    @property
    def draw_limit(self) -> int:
        """Fakes of a label after which sampling is given up."""
        return self.burn_in + self.max_draws * max(self.per_label, self.batch)


class StudentConfig(TransferConfig):
    """M3: the student on real and processed fake images. `control` is the same without the fakes."""

    steps: int = knob(
        160_000, "optimiser steps, the control's too", unit="steps", origin="350 epochs of about 60,000 images", ge=1
    )
    fakes: int = knob(50_000, "processed fakes used, drawn at random; 0 = all", unit="images", origin=PAPER, ge=0)
    milestones: Milestones = knob(
        RATE_STEPS, "where multistep multiplies the rate by 0.1", unit="share of the training", origin=EPOCHS_150_250
    )
    flip: bool = knob(False, "random horizontal flips, where a mirrored image has the same label", origin=PAPER)
    crop_padding: int = knob(0, "zero padding before a random crop; 0 = no crop", unit="pixels", origin=PAPER, ge=0, le=32)


def regressor(network: str) -> ClassifierConfig:
    """A network as the paper trains it for numbers, on real images alone."""
    return ClassifierConfig(
        network=network, head=(512, 512), epochs=350, batch=128, lr=0.01, milestones=RATE_STEPS, flip=False, crop_padding=0
    )


class CganKdRegressionConfig(MethodConfig):
    """All knobs of cGAN-KD for labels that are numbers."""

    data: DataConfig = DataConfig(name="digits_angle")
    teacher: ClassifierConfig = regressor("vgg19")
    baseline: ClassifierConfig = regressor("resnet20")
    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER.model_copy(update={"flip": False, "crop_padding": 0})
    label_embedding: LabelEmbeddingConfig = LabelEmbeddingConfig()
    ccgan: CcganConfig = CcganConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    quality: ContinuousQualityConfig = ContinuousQualityConfig()
    density_ratio: LabelRatioConfig = LabelRatioConfig()
    samples: SamplesConfig = SamplesConfig()
    student: StudentConfig = StudentConfig()
