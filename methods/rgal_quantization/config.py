"""The knobs of data-free quantization: RGAL's synthesis and rounds, the quantizer, and GDFQ's loss of the quantized network."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from gankd.config import MethodConfig, Section, knob
from gankd.errors import UserError
from gankd.stages.sections import ClassifierConfig, Precision
from methods.rgal.config import RoundsConfig, SynthesisConfig

GDFQ = "GDFQ code"


class QuantizerConfig(Section):
    """How the teacher is quantized: W4A4 is bits = 4; W4A8 is bits = 4, activation_bits = 8."""

    bits: int = knob(4, "bits of the weights, and of the activations where those have none of their own", unit="bits",
                     origin="GDFQ: W4A4", ge=2, le=8)  # fmt: skip
    activation_bits: int | None = knob(
        None, "bits of the activations; null = as many as the weights", unit="bits", origin="ours", ge=2, le=8
    )
    input_bits: int = knob(
        8, "bits of the image that the first layer is given", unit="bits", origin="ours; GDFQ does not quantize it", ge=2, le=8
    )
    batch_norm: Literal["frozen", "folded"] = knob(
        "frozen",
        "batch norm keeps the teacher's statistics, behind the quantized layers or folded into their weights",
        origin=f"{GDFQ}: frozen",
    )
    calibration_images: int = knob(
        256, "images that the first ranges of the activations are taken from", unit="images", origin="ours", ge=1, le=100_000
    )


class QuantizedConfig(RoundsConfig):
    """Rounds of synthesis and of training the quantized network. `gdfq` is the same without RGAL's terms."""

    kd_steps: int = knob(200, "steps of the quantized network per round", unit="steps", origin=f"{GDFQ}: of an epoch", ge=1)
    warm_up: int = knob(4, "rounds before them that only fill the pool", origin=GDFQ, ge=0)
    ce: float = knob(1.0, "weight of the cross-entropy to the images' labels", origin=GDFQ, ge=0, le=1000)
    kd: float = knob(
        0.1, "weight of the teacher's answers", origin=f"{GDFQ}: 1, over the number of classes by PyTorch's mean", ge=0, le=1000
    )
    range_rounds: int = knob(
        4, "rounds in which the ranges of the activations follow the images; then they are fixed", origin=GDFQ, ge=0
    )
    range_momentum: float = knob(0.9, "share that a range keeps of itself at each step", origin=GDFQ, ge=0, lt=1)
    lr: float = knob(
        1e-4, "learning rate at the start; a cosine over the rounds follows", origin=f"{GDFQ}: CIFAR-100", gt=0, le=10
    )
    nesterov: bool = knob(True, "Nesterov's momentum", origin=GDFQ)
    precision: Precision = knob("fp32", "bf16 autocast or fp32; bf16 rounds a grid of 8 bits", origin="ours")

    @model_validator(mode="after")
    def _something_to_learn(self) -> QuantizedConfig:
        if not self.ce and not self.kd:
            raise UserError("student.ce and student.kd are both 0, so that the quantized network would learn no answer; set one")
        return self


class RgalQuantizationConfig(MethodConfig):
    """All knobs of the method."""

    teacher: ClassifierConfig = ClassifierConfig(network="resnet20")
    quantizer: QuantizerConfig = QuantizerConfig()
    synthesis: SynthesisConfig = SynthesisConfig(generator="warm")  # GDFQ never resets it
    student: QuantizedConfig = QuantizedConfig()

    @model_validator(mode="after")
    def _statistics_to_freeze(self) -> RgalQuantizationConfig:
        if self.teacher.norm != "batch":
            raise UserError(
                f"the teacher has no batch norm layers (teacher.norm is {self.teacher.norm!r}), whose statistics synthesis "
                "inverts and the quantized network keeps; use teacher.norm=batch"
            )
        return self

    @model_validator(mode="after")
    def _a_control(self) -> RgalQuantizationConfig:
        synthesis = self.synthesis
        if not any((synthesis.bn, synthesis.oh, synthesis.balance, synthesis.act, synthesis.cr)):
            raise UserError(
                "synthesis.bn, synthesis.oh, synthesis.balance, synthesis.act and synthesis.cr are all 0, so that the control, "
                "which has neither the adversarial nor the relation term, would make images of nothing; set one"
            )
        return self
