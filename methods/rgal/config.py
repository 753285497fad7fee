"""The knobs of RGAL, with the values of the released README command as defaults."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import FEATURE_CLASSIFIER, ClassifierConfig, Distinct, Precision, QualityConfig

README = "RGAL README command"
CODE = "RGAL code"
CMI = "CMI scratch script"


class SynthesisConfig(Section):
    """Images out of the teacher: a generator and its latents, trained anew in every round."""

    g_steps: int = knob(400, "generator steps per round", unit="steps", origin=README, ge=1)
    batch: int = knob(256, "images made per round, over all workers", unit="images", origin=README, ge=2, le=65_536)
    lr_g: float = knob(1e-3, "Adam's learning rate of the generator", origin=README, gt=0, le=1)
    lr_z: float = knob(1e-3, "Adam's learning rate of the latents", origin=README, gt=0, le=1)
    beta1: float = knob(0.5, "Adam's first decay", origin=CODE, ge=0, lt=1)
    beta2: float = knob(0.999, "Adam's second decay", origin=CODE, gt=0, lt=1)
    nz: int = knob(256, "width of the latent", origin=CODE, ge=1, le=4096)
    ngf: int = knob(64, "channels of the generator's last maps", unit="channels", origin=CODE, ge=1, le=512)
    generator: Literal["reset", "warm"] = knob("reset", "a new generator every round, or only new latents", origin=README)
    bn: float = knob(1.0, "weight of the batch norm statistics", origin=README, ge=0, le=1000)
    oh: float = knob(1.0, "weight of the cross-entropy to the drawn labels (one-hot)", origin=README, ge=0, le=1000)
    adv: float = knob(1.0, "weight of disagreement between teacher and student", origin=README, ge=0, le=1000)
    triplet: float = knob(0.1, "weight of the relation term (lambda_1)", origin=README, ge=0, le=1000)
    balance: float = knob(0.0, "weight of class balance: minus the entropy of the mean answer", origin=CODE, ge=0, le=1000)
    act: float = knob(0.0, "weight of large teacher features", origin=f"{CODE}: not used", ge=0, le=1000)
    relation_mode: Literal["adversarial", "cooperative", "off"] = knob(
        "adversarial",
        "adversarial: spread a class, confuse classes; cooperative: the reverse, as the released code does",
        origin="paper; the code differs",
    )
    triplet_target: Literal["student", "teacher"] = knob("student", "whose embeddings are related", origin=README)
    start_layer: int = knob(2, "first block that is related, from 0", origin=README, ge=0, le=16)
    end_layer: int = knob(4, "block before which it ends", origin=CODE, ge=1, le=16)
    margin: float = knob(0.2, "margin of the triplets", origin=CODE, ge=0, le=2)
    sampler: Literal["focal", "distance"] = knob("focal", "how negatives are drawn: focal or distance weighted", origin=README)
    low: float = knob(0.5, "smallest distance of a negative (focal)", origin=CODE, ge=0, lt=2)
    high: float = knob(1.0, "largest distance of a negative (focal)", origin=CODE, gt=0, le=2)
    sampling_space: Literal["logits", "features"] = knob(
        "logits", "what of the teacher the distances to negatives are taken in", origin=f"{CODE}; the paper's figure: features"
    )
    dimension_cap: int = knob(0, "most dimensions in the sampler's density; 0 = all", origin="ours", ge=0, le=4096)
    targets: Literal["iid", "balanced", "grouped"] = knob(
        "iid", "drawn labels: independent, equally many of each class, or `group` of each drawn class", origin=README
    )
    group: int = knob(4, "images per drawn class, for targets = grouped", unit="images", origin="ours", ge=1)
    cr: float = knob(0.0, "weight of CMI's contrast to all images so far", origin=README, ge=0, le=1000)
    cr_T: float = knob(0.1, "temperature of the contrast", origin=CMI, gt=0, le=100)
    bank: int = knob(40_960, "images that the contrast remembers", unit="images", origin=CMI, ge=1, le=10_000_000)
    negatives: int = knob(4096, "remembered images per step", unit="images", origin=CMI, ge=1, le=1_000_000)
    head: int = knob(256, "width of the contrast's embedding", origin=CMI, ge=1, le=4096)
    flip: bool = knob(True, "random horizontal flips before the networks", origin=CODE)
    crop_padding: int = knob(4, "black border before a random crop; 0 = no crop", unit="pixels", origin=CODE, ge=0, le=32)
    best: Literal["prior", "total", "last"] = knob(
        "prior",
        "the iterate that is kept: smallest bn and oh terms, smallest total, or the last",
        origin="ours; RGAL code: total",
    )
    reference_compat: bool = knob(False, "truncate grey levels instead of rounding them", origin=CODE)
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    @property
    def uses_statistics(self) -> bool:
        """Whether a term reads what flows into the teacher's batch norm layers."""
        return self.bn > 0 or self.cr > 0

    @property
    def relates(self) -> bool:
        return self.triplet > 0 and self.relation_mode != "off"

    @model_validator(mode="after")
    def _consistent(self) -> SynthesisConfig:
        if not any((self.bn, self.oh, self.adv, self.balance, self.act, self.cr)) and not self.relates:
            raise UserError(
                "all weights of section 'synthesis' are 0 (bn, oh, adv, triplet, balance, act, cr), so that nothing would be "
                "learned; set at least one"
            )
        if self.low >= self.high:
            raise UserError(f"knob 'synthesis.low' cannot be {self.low}: it must be below synthesis.high = {self.high}")
        if self.start_layer >= self.end_layer:
            raise UserError(
                f"knob 'synthesis.start_layer' cannot be {self.start_layer}: it must be below synthesis.end_layer = "
                f"{self.end_layer}"
            )
        return self


class StudentNetworkConfig(Section):
    """The student's network."""

    network: str = knob("wrn_16_1", "network by name (`gankd.models.CLASSIFIERS`)", origin=README)
    width: int = knob(0, "width of `small_cnn`; 0 for networks without one", unit="channels", origin="ours", ge=0, le=512)


class RoundsConfig(Section):
    """Rounds of synthesis and distillation, whatever the student is."""

    rounds: int = knob(200, "rounds of synthesis and distillation", origin=README, ge=1)
    warm_up: int = knob(0, "rounds before them that only fill the pool", origin=CODE, ge=0)
    kd_steps: int = knob(400, "student steps per round", unit="steps", origin=README, ge=1)
    batch: int = knob(128, "images of the pool per step, over all workers", unit="images", origin=README, ge=2)
    paired: bool = knob(True, "two views of each image, so that every batch holds pairs", origin=README)
    pool: int = knob(51_200, "images that are kept, the newest", unit="images", origin=f"{README}: all of them", ge=2)
    T: float = knob(20.0, "temperature of the distillation", origin=README, gt=0, le=1000)
    cd: float = knob(0.1, "weight of the squared difference of pooled maps (lambda_3)", origin=README, ge=0, le=1000)
    gram: float = knob(0.0, "weight of the Gram-masked difference of maps", origin=README, ge=0, le=1000)
    striplet: float = knob(0.1, "weight of the triplets that gather a class (lambda_2)", origin=README, ge=0, le=1000)
    striplet_feature: Annotated[tuple[Literal["features", "global", "logits"], ...], Distinct] = knob(
        ("global",), "what is gathered: block outputs, pooled embedding, logits", origin=README, min_length=1
    )
    striplet_sampling: Literal["student", "teacher"] = knob(
        "student", "whose logits negatives are drawn by", origin=f"{CODE}; the paper's figure: teacher"
    )
    start_layer: int = knob(2, "first block that is gathered, for features", origin=README, ge=0, le=16)
    end_layer: int = knob(4, "block before which it ends", origin=CODE, ge=1, le=16)
    margin: float = knob(0.2, "margin of the triplets", origin=CODE, ge=0, le=2)
    custom_share: float = knob(1.0, "rounds in which cd, gram and striplet act", unit="share", origin=README, ge=0, le=1)
    lr: float = knob(0.1, "learning rate at the start; a cosine over the rounds follows", origin=README, gt=0, le=10)
    momentum: float = knob(0.9, "momentum of SGD", origin=CODE, ge=0, lt=1)
    weight_decay: float = knob(1e-4, "weight decay", origin=CODE, ge=0, lt=1)
    nesterov: bool = knob(False, "Nesterov's momentum", origin=CODE)
    flip: bool = knob(True, "random horizontal flips", origin=CODE)
    crop_padding: int = knob(4, "black border before a random crop; 0 = no crop", unit="pixels", origin=CODE, ge=0, le=32)
    teacher_floor: float | None = knob(
        None, "validation accuracy below which a teacher is refused; null = twice chance", unit="%", origin="ours", ge=0, le=100
    )
    precision: Precision = knob("auto", "bf16 autocast or fp32; auto = bf16 on a GPU", origin="ours")

    @model_validator(mode="after")
    def _some_block(self) -> Self:
        if "features" in self.striplet_feature and self.start_layer >= self.end_layer:
            raise UserError(
                f"knob 'student.start_layer' cannot be {self.start_layer}: it must be below student.end_layer = {self.end_layer}"
            )
        return self

    @property
    def steps(self) -> int:
        """Student steps in all: what a trial's progress is counted in."""
        return self.rounds * self.kd_steps


class StudentConfig(RoundsConfig, StudentNetworkConfig):
    """A new network by rounds of synthesis and distillation. `noise` is the same distillation on images of noise."""


class RgalConfig(MethodConfig):
    """All knobs of RGAL."""

    teacher: ClassifierConfig = ClassifierConfig(network="wrn_40_2")
    baseline: ClassifierConfig = ClassifierConfig(network="wrn_16_1")
    synthesis: SynthesisConfig = SynthesisConfig()
    student: StudentConfig = StudentConfig()
    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    quality: QualityConfig = QualityConfig()

    @model_validator(mode="after")
    def _consistent(self) -> RgalConfig:
        if self.teacher.norm != "batch" and self.synthesis.uses_statistics:
            raise UserError(
                f"the teacher has no batch norm layers (teacher.norm is {self.teacher.norm!r}), but synthesis.bn or synthesis.cr "
                "is above 0 and reads their statistics; use teacher.norm=batch, or set both to 0"
            )
        ours, real = ((s.network, s.width) for s in (self.student, self.baseline))
        if ours != real:
            raise UserError(
                f"student is {ours[0]!r} of width {ours[1]} but baseline, the same network trained on real images, is "
                f"{real[0]!r} of width {real[1]}; give both sections the same network and width"
            )
        return self
