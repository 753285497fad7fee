"""The knobs of the comparison: those of the five methods, and which of them teaches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import FEATURE_CLASSIFIER, ClassifierConfig, GanConfig, QualityConfig
from methods.cgan_kd.config import DensityRatioConfig, ExtractorConfig, SamplesConfig, StudentConfig
from methods.cgan_transfer.config import BnConfig, FtConfig, PretrainConfig, TaskConfig, TrainingConfig
from methods.kd_dlgan.config import KdConfig, TeacherConfig
from methods.rgal.config import StudentConfig as InversionConfig
from methods.rgal.config import SynthesisConfig
from methods.squeeze_span.config import EncoderConfig, PoolConfig

LESSONS = {"samples": {"samples"}, "inverted": {"inversion"}, "features": {"encoder"}}
SAMPLERS = {"plain": {"gan"}, "transferred": {"pretrain", "ft"}, "taught": {"taught_gan"}}


class SamplerConfig(Section):
    """Whose images the student is shown."""

    kind: Literal["plain", "transferred", "taught"] = knob(
        "plain",
        "the plain GAN, one transferred to half of the classes (cGANTransfer), or one with an image-text teacher (KD-DLGAN)",
        origin="ours",
    )

    def unread(self) -> frozenset[str]:
        """The other generators."""
        return frozenset(set[str]().union(*SAMPLERS.values()) - SAMPLERS[self.kind])


class LessonConfig(StudentConfig):
    """cGAN-KD's M3, whatever teaches."""

    lesson: Literal["samples", "inverted", "features"] = knob(
        "samples",
        "what is added to the real images: a sampler's images, those inverted from the teacher, or nothing but a start that a "
        "generator's features have taught",
        origin="ours",
    )

    def unread(self) -> frozenset[str]:
        """What the other lessons give; where features are the start, the baseline too."""
        others = set[str]().union(*LESSONS.values()) - LESSONS[self.lesson]
        return super().unread() | others | ({"baseline"} if self.lesson == "features" else set())

    def inert(self) -> frozenset[str]:
        """Without fakes, how many there are and how they are mixed; the start that the lesson has."""
        return super().inert() | ({"fakes", "real_per_fake", "start"} if self.lesson == "features" else set())


class FiveTeachersConfig(MethodConfig):
    """All knobs of the comparison."""

    teacher: ClassifierConfig = ClassifierConfig(network="densenet121")
    baseline: ClassifierConfig = ClassifierConfig(network="resnet20")
    feature_classifier: ClassifierConfig = FEATURE_CLASSIFIER
    quality: QualityConfig = QualityConfig()
    gan: GanConfig = GanConfig()
    task: TaskConfig = TaskConfig()
    training: TrainingConfig = TrainingConfig()
    pretrain: PretrainConfig = PretrainConfig()
    bn: BnConfig = BnConfig()
    ft: FtConfig = FtConfig()
    text_teacher: TeacherConfig = TeacherConfig()
    kd: KdConfig = KdConfig()
    sampler: SamplerConfig = SamplerConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    density_ratio: DensityRatioConfig = DensityRatioConfig()
    samples: SamplesConfig = SamplesConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    inversion: InversionConfig = InversionConfig(network="resnet20")
    pool: PoolConfig = PoolConfig()
    encoder: EncoderConfig = EncoderConfig(network="resnet20")
    student: LessonConfig = LessonConfig(steps=80_000)

    @model_validator(mode="after")
    def _one_student(self) -> FiveTeachersConfig:
        """All rows of a comparison have the same network and as many steps. Nobody but the teacher answers."""
        if self.student.kd == "takd":
            raise UserError("student.kd = takd learns from an assistant, which this comparison has not; take another loss")

        def network(section: Any) -> str:
            return section.network + (f" of width {section.width}" if section.width else "")

        for name in ("inversion", "encoder"):
            ours, real = network(getattr(self, name)), network(self.baseline)
            if ours != real:
                raise UserError(f"{name} is {ours} but baseline is {real}: one student is compared, give both the same network")
        if self.inversion.steps != self.student.steps:
            raise UserError(
                f"inversion trains its student for {self.inversion.rounds} rounds of {self.inversion.kd_steps} steps, but "
                f"student.steps is {self.student.steps}: one budget is compared, make them equal"
            )
        return self
