"""The knobs of KD-DLGAN. Where the paper and its released code differ, a profile says which form is meant."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from gankd.config import MethodConfig, Section, Selection, knob
from gankd.errors import UserError
from gankd.stages.sections import FEATURE_CLASSIFIER, ClassifierConfig, Distinct, GanConfig, Policy, Precision, QualityConfig

CODE = "KD-DLGAN code"
KD = "KD-DLGAN"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEMPLATES = ("a {}", "a photo of a {}", "a picture of a {}", "an image of a {}")
UNSEEN = "this is a {}"  # is not trained with: what a teacher scores with it says whether it reads words or sentences

Profile = Literal["code_faithful", "paper_literal", "improved"]
# What each knob of `kd` that is null means. "paper_literal" follows the equations as far as seen: README.
PROFILES: dict[str, dict[str, Any]] = {
    "code_faithful": {
        "distance": "l2", "aggregation": 1.0, "pairing": "index",
        "reduction": "sum", "patterns_of": "both", "normalisation": "row", "centred": False,
        "pd": 10.0, "diversity_in": "nothing",
        "preprocess": "raw", "resize": "nearest", "sees": "augmented", "prompts": "cifar10",
    },
    "paper_literal": {
        "distance": "l1", "aggregation": 0.7, "pairing": "index",
        "reduction": "l1_mean", "patterns_of": "fake", "normalisation": "row", "centred": False,
        "pd": 10.0, "diversity_in": "discriminator",
        "preprocess": "native", "resize": "bicubic", "sees": "augmented", "prompts": "class",
    },
    "improved": {
        "distance": "cosine", "aggregation": 0.7, "pairing": "class",
        "reduction": "batch_mean", "patterns_of": "both", "normalisation": "softmax", "centred": True,
        "pd": 0.0, "diversity_in": "generator",
        "preprocess": "native", "resize": "bilinear", "sees": "clean", "prompts": "templates",
    },
}  # fmt: skip


class TeacherConfig(Section):
    """The image-text teacher: CLIP from a file, or a small one trained on the labelled images at hand."""

    kind: Literal["offline", "open_clip", "mock"] = knob(
        "offline",
        "trained here on the run's own images; a CLIP read from `weights`; or a random projection, for tests only",
        origin="ours; the paper's is CLIP",
    )
    architecture: str = knob("ViT-B-32-quickgelu", "open_clip's name of the network", origin="CLIP ViT-B/32")
    quick_gelu: bool = knob(True, "the weights were trained with QuickGELU, as OpenAI's were", origin="OpenAI CLIP")
    weights: str | None = knob(None, "file with the CLIP's weights; nothing is downloaded", unit="path", origin="ours")
    embed_dim: int = knob(0, "width of the features; 0 = 64, or what the CLIP has", origin="ours", ge=0, le=4096)
    input_size: int = knob(16, "side to which images are resized; a CLIP has its own", unit="pixels", origin="ours", ge=8, le=512)
    widths: Annotated[tuple[Annotated[int, Field(ge=8, le=2048)], ...], Field(min_length=1, max_length=6)] = knob(
        (24, 48, 96), "channels of the image encoder's convolutions, each of stride 2", unit="channels", origin="ours"
    )
    buckets: int = knob(2048, "rows of the text encoder's table of hashed letter groups", origin="ours", ge=64, le=65536)
    text_width: int = knob(128, "hidden width of the text encoder", unit="units", origin="ours", ge=8, le=4096)
    steps: int = knob(600, "optimiser steps", unit="steps", origin="ours", ge=1)
    batch: int = knob(96, "images per step over all workers", unit="images", origin="ours", ge=2)
    lr: float = knob(2e-3, "AdamW's learning rate", origin="ours", gt=0, le=1)
    weight_decay: float = knob(1e-2, "weight decay", origin="ours", ge=0, lt=1)
    evaluations: int = knob(6, "times that it is measured; the best on validation is kept", origin="ours", ge=1, le=1000)
    diffaugment: Policy = knob(
        ("translation", "cutout"), "augmentation of what it learns from, best as the discriminator's", origin="ours"
    )
    flip: bool = knob(True, "random horizontal flips of what it learns from", origin="ours")
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    @model_validator(mode="after")
    def _a_file_for_clip(self) -> Self:
        if self.kind == "open_clip" and not self.weights:
            raise UserError(
                "a teacher of kind open_clip needs a file with its weights (nothing is downloaded): set teacher.weights"
            )
        if self.kind != "open_clip" and self.weights:
            raise UserError(f"teacher.weights is a file for teacher.kind=open_clip, and the kind is {self.kind}")
        return self

    def inert(self) -> frozenset[str]:
        """What only other kinds look at."""
        of_clip = frozenset({"architecture", "weights", "quick_gelu"})
        of_networks = {"widths", "buckets", "text_width"}
        of_training = of_networks | {"steps", "batch", "lr", "weight_decay", "evaluations", "diffaugment", "flip", "precision"}
        if self.kind == "open_clip":
            return frozenset(of_training | {"input_size"})
        return of_clip if self.kind == "offline" else of_clip | of_training


class KdConfig(Section):
    """What the discriminator learns from the teacher."""

    profile: Profile = knob("improved", "what the knobs below that are null mean", origin="ours")
    agkd: float = knob(10.0, "weight of AGKD: features of an image like the teacher's", origin=CODE, ge=0, le=1e4)
    cgkd: float = knob(10.0, "weight of CGKD: similarities to the prompts like the teacher's", origin=CODE, ge=0, le=1e4)
    pd: float | None = knob(None, "weight of PD: patterns of generated images that differ", origin=f"{CODE}: 10", ge=0, le=1e4)
    distance: Literal["l2", "l1", "smooth_l1", "cosine"] | None = knob(None, "AGKD's distance", origin=KD)
    aggregation: float | None = knob(
        None, "probability of an update to also pull towards the other domain's image", origin=KD, ge=0, le=1
    )
    pairing: Literal["index", "class"] | None = knob(
        None, "which real and generated images are paired: any, or of the same class", origin=KD
    )
    reduction: Literal["sum", "batch_mean", "l1_mean"] | None = knob(None, "how CGKD adds up", origin=KD)
    patterns_of: Literal["both", "fake"] | None = knob(None, "whose patterns CGKD compares", origin=KD)
    normalisation: Literal["row", "matrix", "softmax"] | None = knob(None, "of the similarities to the prompts", origin=KD)
    temperature: float = knob(0.1, "of the softmax of similarities", origin="ours", ge=0.01, le=10)
    centred: bool | None = knob(None, "take off the mean prompt and the mean feature of the real images first", origin="ours")
    diversity_in: Literal["nothing", "discriminator", "generator"] | None = knob(
        None, "whose loss PD joins; only in the generator's has it a gradient", origin=KD
    )
    preprocess: Literal["raw", "native"] | None = knob(
        None, "pixels as the discriminator has them, or as the teacher's", origin=KD
    )
    resize: Literal["nearest", "bilinear", "bicubic"] | None = knob(None, "to the teacher's size", origin=KD)
    sees: Literal["augmented", "clean"] | None = knob(
        None, "whether the teacher sees DiffAugment; clean features of real images are computed once", origin=KD
    )
    prompts: Literal["cifar10", "class", "templates"] | None = knob(
        None, "CIFAR-10's ten classes whatever the data, the data's class names, or these in several sentences", origin=KD
    )
    prompt_list: Annotated[tuple[str, ...], Distinct] | None = knob(
        None, "texts of your own in place of `prompts`, one for each class in order", origin="ours"
    )
    head_width: int = knob(
        1024, "hidden width of the head on the discriminator's features", unit="units", origin=CODE, ge=1, le=8192
    )

    @property
    def active(self) -> bool:
        """Whether anything is distilled."""
        return bool(self.agkd or self.cgkd or form(self, "pd"))

    def inert(self) -> frozenset[str]:
        """What the terms that are switched off, and the other normalisations, would read."""
        of_patterns = {"normalisation", "temperature", "centred"}
        none = set() if self.agkd else {"distance", "aggregation"}
        none |= set() if self.cgkd else {"reduction", "patterns_of"}
        none |= set() if form(self, "pd") else {"diversity_in"}
        none |= set() if self.cgkd or form(self, "pd") else of_patterns
        none |= set() if form(self, "normalisation") == "softmax" else {"temperature"}
        return frozenset(none | (set() if self.prompt_list is None else {"prompts"}))


def form(kd: KdConfig | Selection, knob: str) -> Any:
    """The value of a knob of `kd`, by the profile where it is null."""
    value = getattr(kd, knob)
    return PROFILES[kd.profile][knob] if value is None else value


class KdDlganConfig(MethodConfig):
    """All knobs of KD-DLGAN."""

    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    quality: QualityConfig = QualityConfig()
    teacher: TeacherConfig = TeacherConfig()
    kd: KdConfig = KdConfig()
    gan: GanConfig = GanConfig(
        batch=50, d_steps=4, steps=125_000, diffaugment=("translation", "cutout"), lecam_start=1000, ema_start=1000
    )
