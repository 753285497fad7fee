"""The knobs of Squeeze & Span. A recipe says which row of the paper's tables is meant; each of its knobs can be set by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import (
    FEATURE_CLASSIFIER,
    ClassifierConfig,
    Deviation,
    GanTrainingConfig,
    Mean,
    Precision,
    QualityConfig,
    Share,
)

CODE, PAPER = "Squeeze & Span code", "Squeeze & Span"
SCRIPT = "Squeeze & Span CIFAR scripts"
STYLEGAN = "StyleGAN2-ADA, cifar"

STRENGTH = "strength"  # stands for the knob of that name, which differs by data set where VICReg's weights do not
# Rows of tables 1, 2 and 3. `weights` are lambda, mu and nu; `alpha` is the share of generated images.
_SQUEEZE: dict[str, Any] = {
    "learner": "squeeze", "teacher": "features", "squeeze_depth": 3,
    "distillation": STRENGTH, "variance": STRENGTH, "covariance": 1.0, "alpha": 1.0, "augment_generated": True,
}  # fmt: skip
_VANILLA = _SQUEEZE | {"squeeze_depth": 0, "distillation": 1.0, "variance": 0.0, "covariance": 0.0}
_LATENT = {"teacher": "latent"}
_SIMSIAM, _ENCODE = (_SQUEEZE | {"learner": learner} for learner in ("simsiam", "encode"))
_VICREG = _SQUEEZE | {"learner": "vicreg", "distillation": 25.0, "variance": 25.0}
_ALONE = _SQUEEZE | {"alpha": 0.0}
RECIPES: dict[str, dict[str, Any]] = {
    "squeeze_span": _SQUEEZE | {"alpha": 0.5},
    "squeeze": _SQUEEZE,
    "vanilla": _VANILLA,
    "latent_squeeze_span": _SQUEEZE | _LATENT | {"alpha": 0.5},
    "latent_squeeze": _SQUEEZE | _LATENT,
    "latent_vanilla": _VANILLA | _LATENT,
    "vanilla_unaugmented": _VANILLA | {"augment_generated": False},
    "squeeze_unregularised": _SQUEEZE | {"distillation": 1.0, "variance": 0.0, "covariance": 0.0},
    "squeeze_variance": _SQUEEZE | {"covariance": 0.0},
    "vicreg_real": _VICREG | {"alpha": 0.0}, "vicreg_generated": _VICREG, "vicreg_mixed": _VICREG | {"alpha": 0.5},
    "simsiam_real": _SIMSIAM | {"alpha": 0.0}, "simsiam_generated": _SIMSIAM, "simsiam_mixed": _SIMSIAM | {"alpha": 0.5},
    "encode_generated": _ENCODE, "encode_mixed": _ENCODE | {"alpha": 0.5},
    "discriminator": _ALONE | {"learner": "discriminator"}, "discriminator_multi": _ALONE | {"learner": "discriminator_multi"},
    "random": _ALONE | {"learner": "random"},
}  # fmt: skip
Recipe = Literal[
    "squeeze_span", "squeeze", "vanilla", "latent_squeeze_span", "latent_squeeze", "latent_vanilla", "vanilla_unaugmented",
    "squeeze_unregularised", "squeeze_variance", "vicreg_real", "vicreg_generated", "vicreg_mixed", "simsiam_real",
    "simsiam_generated", "simsiam_mixed", "encode_generated", "encode_mixed", "discriminator", "discriminator_multi", "random",
]  # fmt: skip
Learner = Literal["squeeze", "vicreg", "simsiam", "encode", "discriminator", "discriminator_multi", "random"]


class GeneratorConfig(GanTrainingConfig):
    """The generator that teaches, and its discriminator: trained here, or an official StyleGAN2-ADA file."""

    network: Literal["stylegan2", "biggan"] = knob(
        "stylegan2", "unconditional StyleGAN2, or a class-conditional BigGAN, which has seen labels", origin=PAPER
    )
    checkpoint: str | None = knob(
        None, "an official StyleGAN2-ADA .pkl in place of training; no code in it is run", unit="path", origin="ours"
    )
    g_lr: float = knob(2.5e-3, "generator's learning rate", origin=STYLEGAN, gt=0, le=1)
    dim_z: int = knob(512, "width of the latent", origin=STYLEGAN, ge=1, le=1024)
    dim_w: int = knob(512, "width of StyleGAN2's intermediate latent", origin=STYLEGAN, ge=1, le=1024)
    mapping_layers: int = knob(2, "layers of StyleGAN2's mapping", origin=STYLEGAN, ge=1, le=16)
    channel_base: int = knob(
        32768, "StyleGAN2's channels at a resolution, times that resolution", unit="channels", origin=STYLEGAN, ge=32, le=2**17
    )
    channel_max: int = knob(512, "most channels of StyleGAN2's maps", unit="channels", origin=STYLEGAN, ge=4, le=1024)
    discriminator: Literal["orig", "resnet", "skip"] = knob("orig", "shape of StyleGAN2's discriminator", origin=STYLEGAN)
    mbstd_group: int = knob(32, "images that its minibatch-std compares", unit="images", origin=STYLEGAN, ge=1, le=1024)
    width: int = knob(64, "BigGAN's channel multiplier", unit="channels", origin="BigGAN CIFAR script", ge=1, le=256)
    shared_dim: int = knob(
        0, "width of BigGAN's class embedding, which is then part of its latent; 0 = a table per layer",
        origin="BigGAN CIFAR script", ge=0, le=1024,
    )  # fmt: skip

    def inert(self) -> frozenset[str]:
        """What only the other family of networks looks at, and of a file all training."""
        stylegan = {"dim_w", "mapping_layers", "channel_base", "channel_max", "discriminator", "mbstd_group"}
        if self.checkpoint:
            return frozenset(type(self).model_fields) - {"checkpoint"} | {"feature_classifier"}
        return super().inert() | ({"width", "shared_dim"} if self.network == "stylegan2" else stylegan)


class PoolConfig(Section):
    """Generated images and what the generator makes on the way to them, drawn once and kept."""

    images: int = knob(50_000, "generated images that are kept", unit="images", origin="ours; the paper has each once", ge=2)
    batch: int = knob(256, "images generated at a time", unit="images", origin="ours", ge=1, le=100_000)


# What a learner reads beside the network.
_TRAINING = {"epochs", "batch", "lr", "momentum", "weight_decay", "recalibrate", "sync_batch_norm", "precision", "alpha"}
_VIEWS = {"crop_area", "jitter", "grey", "blur", "flip"}
_REGULARISED = _TRAINING | _VIEWS | {"head_layers", "dim", "distillation", "variance", "covariance", "strength"}
READS: dict[str, set[str]] = {
    "squeeze": _REGULARISED | {"teacher", "squeeze_depth", "squeeze_width", "regularise_teacher", "standardise", "forward"},
    "vicreg": _REGULARISED,
    "simsiam": _TRAINING | _VIEWS | {"dim", "simsiam_layers", "predictor_width", "fixed_predictor_lr"},
    "encode": _TRAINING | {"latent_weight"},
}
_OF_NETWORK = {"network", "width", "normalisation"}
_ALWAYS = {"recipe", "learner", "neighbours", "temperature"}


class EncoderConfig(Section):
    """The encoder, what it learns from, and how."""

    recipe: Recipe = knob("squeeze_span", "row of the paper's tables: what the knobs that are null mean", origin=PAPER)
    learner: Learner | None = knob(None, "what is learned", origin=PAPER)
    teacher: Literal["features", "latent"] | None = knob(
        None, "what teaches: the generator's maps, averaged over space, or its latent w", origin=PAPER
    )
    squeeze_depth: int | None = knob(
        None, "layers of the squeeze module; 0 = none, the target is the features in a row", unit="layers",
        origin=f"{SCRIPT}: 3", ge=0, le=8,
    )  # fmt: skip
    distillation: float | None = knob(None, "lambda, the weight of the distance", origin=f"{SCRIPT}: 25", ge=0, le=1e4)
    variance: float | None = knob(None, "mu, the weight of the variances", origin=f"{SCRIPT}: 25", ge=0, le=1e4)
    covariance: float | None = knob(None, "nu, the weight of the covariances", origin=f"{SCRIPT}: 1", ge=0, le=1e4)
    strength: float = knob(
        25.0, "lambda and mu of the recipes that squeeze with regularisers", origin=f"{SCRIPT}: 25, CIFAR-100 10", ge=0, le=1e4
    )
    alpha: float | None = knob(None, "generated images", unit="share of the batch", origin=f"{PAPER}: 0.5", ge=0, le=1)
    augment_generated: bool | None = knob(None, "augment generated images too", origin=SCRIPT)

    network: str = knob("resnet18_cifar", "encoder by name: resnet18_cifar, resnet18, or a classifier", origin=SCRIPT)
    width: int = knob(0, "width of `small_cnn`; 0 for networks without one", unit="channels", origin="ours", ge=0, le=512)
    normalisation: tuple[tuple[Mean, ...], tuple[Deviation, ...]] | None = knob(
        None, "mean and std per channel of pixels in 0..1; null leaves [-1, 1]", origin="ours"
    )
    head_layers: int = knob(5, "layers of the head", unit="layers", origin=SCRIPT, ge=1, le=16)
    simsiam_layers: int = knob(2, "layers of SimSiam's projector in its place", unit="layers", origin=SCRIPT, ge=1, le=16)
    predictor_width: int = knob(512, "hidden width of SimSiam's predictor", unit="units", origin=SCRIPT, ge=1, le=8192)
    dim: int = knob(2048, "width M of the representation that losses compare", unit="units", origin=SCRIPT, ge=2, le=16384)
    squeeze_width: int = knob(2048, "hidden width of the squeeze module", unit="units", origin=SCRIPT, ge=1, le=16384)
    regularise_teacher: bool = knob(
        False, "variance and covariance of the squeeze module's side too, as the paper has it", origin="the code leaves it out"
    )
    standardise: bool = knob(
        False, "bring each of the generator's features to mean 0 and deviation 1 over the pool first", origin="ours"
    )

    epochs: int = knob(800, "training images of total batch seen, in passes", unit="epochs", origin=SCRIPT, ge=1)
    batch: int = knob(512, "generated and real images per step over all workers", unit="images", origin=SCRIPT, ge=4)
    lr: float = knob(0.03, "learning rate at the start, for each 256 images of a batch", origin=SCRIPT, gt=0, le=100)
    momentum: float = knob(0.9, "momentum of SGD", origin=SCRIPT, ge=0, lt=1)
    weight_decay: float = knob(5e-4, "weight decay, of all parameters", origin=SCRIPT, ge=0, lt=1)
    fixed_predictor_lr: bool = knob(True, "the rate of SimSiam's predictor stays", origin=SCRIPT)
    latent_weight: float = knob(1.0, "weight of the latent's distance in latent encoding", origin=CODE, ge=0, le=1e4)

    augmentation: Literal["sample", "batch"] = knob(
        "sample", "augment every image by itself, or all generated ones of a batch alike", origin="the code: batch"
    )
    crop_area: float = knob(0.2, "smallest area of a random crop; 1 = none", unit="share", origin=SCRIPT, gt=0, le=1)
    jitter: float = knob(1.0, "strength of the colour jitter, of 0.4, 0.4, 0.4, 0.1; 0 = none", origin=SCRIPT, ge=0, le=2.5)
    grey: float = knob(0.2, "probability of losing the colour", origin=SCRIPT, ge=0, le=1)
    blur: float = knob(0.0, "probability of a Gaussian blur", origin="0.5 for STL10", ge=0, le=1)
    flip: bool = knob(True, "random horizontal flips", origin=SCRIPT)

    fresh: bool = knob(False, "generate anew for each step and leave the pool alone, as the code does", origin="ours")
    renew: Share = knob(0.0, "the pool's images that each epoch replaces by new ones", unit="share", origin="ours")
    forward: Literal["separate", "concatenated"] = knob(
        "separate", "whether generated images and the two views are passes of their own, with batch statistics of their own",
        origin=CODE,
    )  # fmt: skip
    recalibrate: bool = knob(False, "measure the batch norms' statistics anew on real images at the end", origin="ours")
    evaluations: int = knob(20, "times that its nearest neighbours are asked meanwhile", origin=f"{CODE}: 40", ge=1, le=1000)
    neighbours: int = knob(200, "neighbours that are asked", unit="images", origin=SCRIPT, ge=1, le=10_000)
    temperature: float = knob(0.1, "of their votes", origin=SCRIPT, gt=0, le=100)
    sync_batch_norm: bool = knob(False, "batch norm over all workers' images instead of each worker's own", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    @property
    def generated(self) -> int:
        """Generated images of a batch, over all workers."""
        return int(self.batch * form(self, "alpha"))

    @property
    def rate(self) -> float:
        """The learning rate at the start."""
        return self.lr * self.batch / 256

    @property
    def real(self) -> int:
        """Real images of a batch, over all workers."""
        return self.batch - self.generated

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return form(self, "learner") not in ("discriminator", "discriminator_multi", "random")

    def inert(self) -> frozenset[str]:
        """What the learner does not look at, and how often it is watched."""
        learner = form(self, "learner")
        read = _ALWAYS | READS.get(learner, set()) | (set() if learner.startswith("discriminator") else _OF_NETWORK)
        if self.trains and self.generated:
            read |= {"fresh", "renew"} | ({"augmentation", "augment_generated"} if learner != "encode" else set())
        if learner == "squeeze" and not form(self, "squeeze_depth"):
            read -= {"dim", "squeeze_width"}
        return frozenset(set(type(self).model_fields) - read)

    def unread(self) -> frozenset[str]:
        """The generator and the pool, where nothing of them is seen."""
        if form(self, "learner").startswith("discriminator"):
            return frozenset({"pool"})
        if not (self.trains and self.generated):
            return frozenset({"gan", "pool"})
        return frozenset({"pool"}) if self.fresh and not self.standardise else frozenset()

    @model_validator(mode="after")
    def _enough_of_each(self) -> Self:
        learner, synthetic, real = form(self, "learner"), self.generated, self.real
        if learner in ("squeeze", "encode") and not synthetic:
            raise UserError(
                f"the recipe {self.recipe!r} learns from generated images, and alpha = {form(self, 'alpha')} leaves none in a "
                "batch: raise alpha, or take a recipe such as vicreg_real"
            )
        if self.trains and 1 in (synthetic, real):
            raise UserError(f"alpha = {form(self, 'alpha')} of batch {self.batch} leaves a single image of a kind: change either")
        return self

    @model_validator(mode="after")
    def _a_pool_to_renew(self) -> Self:
        if self.fresh and self.renew:
            raise UserError(
                "encoder.fresh generates all images anew, so there is no pool of which encoder.renew could be a share"
            )
        return self


def form(encoder: EncoderConfig, knob: str) -> Any:
    """The value of a knob of `encoder`, by the recipe where it is null."""
    value = getattr(encoder, knob)
    if value is None:
        value = RECIPES[encoder.recipe][knob]
    return encoder.strength if value == STRENGTH else value


Rates = Annotated[tuple[Annotated[float, Field(gt=0, le=1e4)], ...], Field(min_length=1, max_length=64)]


class LinearConfig(Section):
    """A linear classifier on the features of an encoder that stays as it is."""

    epochs: int = knob(90, "passes over the labelled training images", unit="epochs", origin=SCRIPT, ge=1)
    batch: int = knob(256, "images per step over all workers", unit="images", origin=SCRIPT, ge=1)
    lrs: Rates = knob(
        (30.0,), "learning rates at the start for each 256 images, tried at once; the best on validation is kept", origin=SCRIPT
    )
    optimiser: Literal["sgd", "lars"] = knob("sgd", "SGD, or SGD behind LARS", origin="the STL10 script: lars")
    momentum: float = knob(0.9, "momentum of SGD", origin=SCRIPT, ge=0, lt=1)
    weight_decay: float = knob(0.0, "weight decay", origin=SCRIPT, ge=0, lt=1)
    augment: bool = knob(True, "random crops and flips; without, an image's features are computed once", origin=SCRIPT)
    crop_area: float = knob(0.08, "smallest area of a random crop", unit="share", origin=SCRIPT, gt=0, le=1)
    flip: bool = knob(True, "random horizontal flips", origin=SCRIPT)
    precision: Precision = knob("auto", "bf16 autocast or fp32 of the encoder; auto = bf16 on a GPU", origin="ours")

    def inert(self) -> frozenset[str]:
        return frozenset() if self.augment else frozenset({"crop_area", "flip", "precision"})


class SqueezeSpanConfig(MethodConfig):
    """All knobs of Squeeze & Span."""

    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    quality: QualityConfig = QualityConfig()
    gan: GeneratorConfig = GeneratorConfig(
        loss="softplus", d_lr=2.5e-3, beta2=0.99, d_steps=1, batch=64, steps=200_000, r1=0.01, r1_every=16, precision="auto"
    )
    pool: PoolConfig = PoolConfig()
    encoder: EncoderConfig = EncoderConfig()
    linear: LinearConfig = LinearConfig()

    @model_validator(mode="after")
    def _latents_to_encode(self) -> Self:
        if form(self.encoder, "learner") == "encode" and self.gan.network == "biggan" and not self.gan.checkpoint:
            raise UserError(
                f"the recipe {self.encoder.recipe!r} rebuilds images from StyleGAN2's w, and gan.network is biggan: set "
                "gan.network=stylegan2, or take another recipe"
            )
        return self
