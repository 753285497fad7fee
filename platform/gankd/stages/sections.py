"""Config sections of the stages that methods share. No torch here: the command line reads this."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from gankd.config import Section, knob
from gankd.errors import UserError


def _distinct(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) < len(values):
        raise ValueError("no entry may stand twice")
    return values


def _increasing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if any(one >= other for one, other in pairwise(values)):
        raise ValueError("each entry must be larger than the one before")
    return values


Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Milestones = Annotated[tuple[Fraction, ...], Field(max_length=100), AfterValidator(_increasing)]
Distinct = AfterValidator(_distinct)
Policy = Annotated[tuple[Literal["color", "translation", "cutout"], ...], Distinct]  # of DiffAugment
Mean = Annotated[float, Field(ge=0, le=1)]
Deviation = Annotated[float, Field(gt=0, le=1)]
Precision = Literal["auto", "fp32", "bf16"]


class ClassifierConfig(Section):
    """A network that tells the labels, classes or a number, trained with SGD."""

    network: str = knob("small_cnn", "network by name (`gankd.models.CLASSIFIERS`)", origin="ours")
    width: int = knob(0, "width of `small_cnn`; 0 for networks without one", unit="channels", origin="ours", ge=0, le=512)
    checkpoint: str | None = knob(None, "file with weights to use in place of training", unit="path", origin="ours")
    normalisation: tuple[tuple[Mean, ...], tuple[Deviation, ...]] | None = knob(
        None, "mean and std per channel that the checkpoint's network expects, for pixels in 0..1", origin="ours"
    )
    norm: Literal["batch", "group", "none"] = knob("batch", "normalisation layers of `small_cnn`", origin="ours")
    shortcut: Literal["projection", "pad"] = knob(
        "projection",
        "how a CIFAR resnet's shortcut changes width; public CIFAR checkpoints often `pad`",
        origin="RepDistiller",
    )
    head: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = knob(
        (), "widths of hidden layers, each with batch norm and ReLU, before the last one; cGAN-KD's regressors: 512, 512",
        unit="units", origin="RepDistiller: none",
    )  # fmt: skip
    epochs: int = knob(240, "passes over the training images", unit="epochs", origin="RepDistiller script", ge=1)
    batch: int = knob(64, "images per step over all workers", unit="images", origin="RepDistiller script", ge=1)
    lr: float = knob(0.05, "learning rate at the start", origin="RepDistiller script", gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin="RepDistiller script", ge=0, lt=1)
    weight_decay: float = knob(5e-4, "weight decay", origin="RepDistiller script", ge=0, lt=1)
    schedule: Literal["multistep", "cosine"] = knob("multistep", "shape of the learning rate", origin="RepDistiller script")
    milestones: Milestones = knob(
        (0.625, 0.75, 0.875),
        "where multistep multiplies the rate by 0.1",
        unit="share of the training",
        origin="epochs 150, 180, 210 of 240",
    )
    flip: bool = knob(True, "random horizontal flips", origin="RepDistiller script")
    crop_padding: int = knob(
        4, "zero padding before a random crop; 0 = no crop", unit="pixels", origin="RepDistiller script", ge=0, le=32
    )
    sync_batch_norm: bool = knob(False, "batch norm over all workers' images instead of each worker's own", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")
    reference_compat: bool = knob(
        False, "decay one epoch later, as RepDistiller's `epoch > milestone` does", origin="RepDistiller"
    )

    def inert(self) -> frozenset[str]:
        """No hidden layers are as if there were no such knob."""
        return frozenset() if self.head else frozenset({"head"})


class GanNetworkConfig(Section):
    """Generator and discriminator of a class-conditional GAN."""

    network: Literal["biggan", "biggan_deep"] = knob("biggan", "family of both networks", origin="BigGAN")
    width: int = knob(64, "channel multiplier of both networks", unit="channels", origin="BigGAN CIFAR script", ge=1, le=256)
    dim_z: int = knob(128, "width of the latent", origin="BigGAN CIFAR script", ge=1, le=1024)
    shared_dim: int = knob(
        0,
        "width of a class embedding shared by all layers; 0 = a table per layer",
        origin="BigGAN CIFAR script",
        ge=0,
        le=1024,
    )
    hierarchical: bool = knob(False, "give every block a chunk of the latent", origin="BigGAN CIFAR script")
    attention: Annotated[tuple[int, ...], Distinct] = knob(
        (), "resolutions with self-attention", unit="pixels", origin="BigGAN CIFAR script"
    )
    init: Literal["N02", "ortho", "xavier"] = knob("N02", "weight initialisation", origin="BigGAN CIFAR script")
    sn_eps: float = knob(1e-8, "epsilon of spectral normalisation", origin="BigGAN CIFAR script", gt=0, lt=1)
    bn_eps: float = knob(1e-5, "epsilon of batch normalisation", origin="BigGAN", gt=0, lt=1)


# Knobs and the input by which a generator is only looked at while it trains.
EVALUATING = frozenset({"evaluations", "evaluation_images", "feature_classifier"})


LECAM = frozenset({"lecam_decay", "lecam_start"})


class GanTrainingConfig(Section):
    """How a GAN is trained, and how it is looked at meanwhile; whose the generator's rate is, says the stage."""

    steps: int = knob(38_000, "generator steps", unit="steps", origin="cGAN-KD CIFAR-100: EMA at 38k", ge=1)
    batch: int = knob(512, "images per update over all workers", unit="images", origin="cGAN-KD CIFAR-100", ge=2)
    accumulations: int = knob(1, "micro-batches per update", origin="cGAN-KD CIFAR-100", ge=1, le=1024)
    d_steps: int = knob(4, "discriminator updates per generator update", origin="cGAN-KD CIFAR-100", ge=1, le=32)
    d_lr: float = knob(2e-4, "discriminator's learning rate", origin="cGAN-KD CIFAR-100", gt=0, le=1)
    beta1: float = knob(0.0, "Adam's first decay", origin="BigGAN", ge=0, lt=1)
    beta2: float = knob(0.999, "Adam's second decay", origin="BigGAN", gt=0, lt=1)
    adam_eps: float = knob(1e-8, "Adam's epsilon", origin="BigGAN CIFAR script", gt=0, lt=1)
    loss: Literal["hinge", "softplus"] = knob("hinge", "adversarial loss", origin="BigGAN")
    ema_decay: float = knob(0.9999, "decay of the generator's moving average", origin="BigGAN", ge=0, lt=1)
    ema_start: int = knob(
        1000, "steps before which the average is the live generator", unit="steps", origin="BigGAN CIFAR script", ge=0
    )
    orthogonal: float = knob(0.0, "strength of modified orthogonal regularisation", origin="BigGAN scripts", ge=0, lt=1)
    diffaugment: Policy = knob(
        ("color", "translation", "cutout"), "differentiable augmentation of what D sees", origin="cGAN-KD CIFAR-100"
    )
    ada_target: float | None = knob(
        None,
        "augment with a probability that starts at 0 and grows while D's mean sign on real images is above this; null = always",
        origin="ADA: 0.6",
        gt=-1,
        lt=1,
    )
    ada_images: int = knob(
        500_000, "real images shown to D over which that probability can go from 0 to 1", unit="images", origin="ADA", ge=1
    )
    mode_seeking: float = knob(
        0.0,
        "weight of mode seeking: images of one class with two latents shall differ",
        origin="Mao et al. 2019: 1",
        ge=0,
        le=100,
    )
    lecam: float = knob(0.0, "weight of LeCam's regulariser of D", origin="LeCam CIFAR scripts: 0.3", ge=0, le=100)
    lecam_decay: float = knob(0.9, "decay of LeCam's anchors", origin="LeCam CIFAR scripts", ge=0, lt=1)
    lecam_start: int = knob(1000, "steps before LeCam acts", unit="steps", origin="LeCam CIFAR scripts", ge=0)
    r1: float = knob(0.0, "gamma of R1, the penalty on D's gradient at real images", origin="Mescheder et al. 2018", ge=0, le=1e4)
    r1_every: int = knob(
        16, "discriminator updates of which one has R1, that many times as strong", unit="updates", origin="StyleGAN2", ge=1
    )
    transition: tuple[Share, Share] | None = knob(
        None,
        "from when to when the condition on the class fades in; null = it is there from the start",
        unit="share of the training",
        origin="Shahbazi et al. 2022: over 2k of 4k kimg",
    )
    flip: bool = knob(True, "random horizontal flips of real images", origin="cGAN-KD CIFAR-100")
    sample_grids: int = knob(4, "sample grids logged while training", origin="ours", ge=0, le=100)
    evaluations: int = knob(10, "times that the averaged generator is measured while training", origin="ours", ge=1, le=1000)
    evaluation_images: int = knob(
        500, "images generated for each of them", unit="images", origin="ours: less than 2 % of the time", ge=10, le=100_000
    )
    keep: Literal["last", "best"] = knob(
        "last",
        "which averaged generator is the artifact: the last, or that of the lowest FID, with the last kept beside it",
        origin="cGAN-KD takes the last",
    )
    sync_batch_norm: bool = knob(False, "batch norm over all workers' images instead of each worker's own", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    def inert(self) -> frozenset[str]:
        """Evaluating changes nothing of a generator that is the last one."""
        evaluating = EVALUATING if self.keep == "last" else frozenset()
        ada = frozenset() if self.ada_target is not None else frozenset({"ada_images"})
        r1 = frozenset() if self.r1 else frozenset({"r1", "r1_every"})
        return frozenset({"sample_grids"}) | evaluating | ada | r1 | (frozenset() if self.lecam else LECAM)

    @model_validator(mode="after")
    def _whole_micro_batches(self) -> Self:
        check_micro_batches("the GAN's ", self.batch, self.accumulations)
        return self

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.mode_seeking and self.batch // self.accumulations % 2:
            raise UserError(
                f"mode_seeking compares pairs of images, and the GAN's micro-batch of {self.batch // self.accumulations} is odd"
            )
        return self

    @model_validator(mode="after")
    def _transition_in_order(self) -> Self:
        if self.transition and self.transition[0] >= self.transition[1]:
            raise UserError(f"transition = {list(self.transition)} must begin before it ends, e.g. [0.2, 0.5]")
        if self.transition and self.transition[1] * self.steps > self.steps - 1:
            raise UserError(f"transition = {list(self.transition)} leaves no step with the whole condition: let it end earlier")
        return self

    @model_validator(mode="after")
    def _time_for_lecam(self) -> Self:
        if self.lecam and self.lecam_start + 1 >= self.steps:
            raise UserError(
                f"lecam acts after lecam_start = {self.lecam_start} steps, and there are {self.steps}: lower lecam_start"
            )
        return self

    @model_validator(mode="after")
    def _something_to_adapt(self) -> Self:
        if self.ada_target is not None and not self.diffaugment:
            raise UserError("ada_target steers how often diffaugment acts, and diffaugment is empty")
        return self


class GanConfig(GanTrainingConfig, GanNetworkConfig):
    """A class-conditional BigGAN: hinge loss, spectral norm, DiffAugment, EMA."""

    g_lr: float = knob(2e-4, "generator's learning rate", origin="cGAN-KD CIFAR-100", gt=0, le=1)


def check_micro_batches(whose: str, batch: int, accumulations: int) -> None:
    """UserError unless a batch can be cut into so many equal parts; `whose` stands before both names."""
    if batch % accumulations:
        raise UserError(f"{whose}batch = {batch} cannot be cut into {whose}accumulations = {accumulations} equal parts")


class QualityConfig(Section):
    """Measuring a generator on the validation part, in the features of a classifier, and of one more extractor if asked for."""

    images: int = knob(2000, "generated images", unit="images", origin="ours", ge=10, le=1_000_000)
    batch: int = knob(500, "images at a time", unit="images", origin="ours", ge=1, le=100_000)
    labels: Literal["real", "uniform"] = knob(
        "real", "labels of the generated images: in the real images' proportions, or equally often", origin="ours"
    )
    keep: int = knob(
        10_000,
        "images whose features are kept, for the metrics that compare pairs or classes",
        unit="images",
        origin="ours",
        ge=10,
        le=100_000,
    )
    splits: int = knob(10, "runs of the inception score", origin="Salimans et al.", ge=1, le=100)
    neighbours: int = knob(3, "k of precision, recall, density, coverage", origin="Kynkaanniemi et al.", ge=1, le=100)
    kid_subsets: int = knob(100, "random subsets of KID", origin="torch-fidelity", ge=1, le=10_000)
    kid_subset_size: int = knob(1000, "images of a subset of KID", unit="images", origin="torch-fidelity", ge=2, le=100_000)
    kmmd_sigma: float = knob(1.0, "KMMD's sigma, in units of the real images' spread", origin="GAN-Metrics", gt=0, le=1000)
    kmmd_bandwidth: float | None = knob(
        None, "a squared sigma of your own, for a further `kmmd_fixed`; null = none", origin="ours", gt=0
    )
    extractor: Literal["inception_torchvision", "inception_tf_ported", "clip"] | None = knob(
        None, "a further feature extractor beside the feature classifier; needs `weights`", origin="ours"
    )
    weights: str | None = knob(None, "file with the further extractor's weights", unit="path", origin="ours")

    @model_validator(mode="after")
    def _weights_for_an_extractor(self) -> QualityConfig:
        if self.extractor and not self.weights:
            raise UserError(f"the extractor {self.extractor!r} needs a file with its weights: set quality.weights")
        if self.weights and not self.extractor:
            raise UserError("quality.weights is a file for quality.extractor, which is not set")
        return self


class ContinuousQualityConfig(QualityConfig):
    """The same where labels are numbers: by windows of labels in place of classes."""

    windows: int = knob(
        20, "windows of labels, evenly spaced over the real images' range", origin="ours (CcGAN: 1000; 60)", ge=1, le=10_000
    )
    window_radius: float | None = knob(
        None,
        "how far a window reaches to either side of its centre; null = a twentieth of the range",
        unit="the labels'",
        origin="ours (CcGAN: 2 of 186 degrees; 0 years)",
        ge=0,
    )


# What of `quality` the real side does not depend on: a stage `real_statistics` ignores it, and is made once.
GENERATED_ONLY = frozenset(QualityConfig.model_fields) - {"batch", "keep", "splits"}
BY_WINDOW = frozenset(ContinuousQualityConfig.model_fields) - frozenset(QualityConfig.model_fields)

# The classifier that measures generators: one for all methods, so that with the same data and seed they share it.
FEATURE_CLASSIFIER = ClassifierConfig(network="resnet20", epochs=60, batch=128, lr=0.1, schedule="cosine")
