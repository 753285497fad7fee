"""Data-free quantization with RGAL's relations: a trained network is quantized without an image of its training data.

The host is GDFQ (Xu et al.: Generative Low-bitwidth Data Free Quantization, ECCV 2020); synthesis, rounds, pool and relation
terms are those of RGAL (Liang, Fu, IJCV 2024, arXiv 2412.11380), which names this application in its abstract.
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import classifier, tested
from methods.rgal.config import SynthesisConfig
from methods.rgal_quantization.config import RgalQuantizationConfig

STAGES, CHECKS = "methods.rgal_quantization.stages", "methods.rgal_quantization.checks"
CALIBRATED = ("parameters", "val_{task}")
TRAINED = ("best_val_{task}", "parameters", "teacher_val_{task}", "val_{task}")
# RGAL's part of synthesis, and of training, which the control does without.
IN_SYNTHESIS = {
    *("adv", "triplet", "relation_mode", "triplet_target", "start_layer", "end_layer", "margin"),
    *("sampler", "low", "high", "sampling_space", "dimension_cap"),
}
IN_TRAINING = frozenset(
    {"cd", "gram", "striplet", "striplet_feature", "striplet_sampling", "start_layer", "end_layer", "margin", "custom_share"}
)

METHOD = Method(
    name="rgal_quantization",
    title="RGAL quantization",
    summary="quantize a network to few bits without its training images, by inverting it with relation-guided terms",
    config=RgalQuantizationConfig,
    stages=(
        classifier("teacher"),
        Stage(
            "ptq_noise",
            f"{STAGES}:calibrate_on_noise",
            inputs=("teacher",),
            section="quantizer",
            check=f"{CHECKS}:check_quantizer",
            looks=("teacher",),
            metrics=CALIBRATED,
        ),
        # With real images: a bound for comparison only.
        Stage("ptq_real", f"{STAGES}:calibrate_on_images", inputs=("teacher",), section="quantizer", metrics=CALIBRATED),
        # The control: GDFQ's losses alone, by the same rounds, from the same start.
        Stage(
            "gdfq",
            f"{STAGES}:train_without_relations",
            inputs=("teacher", "ptq_noise"),
            section="student",
            sections=tuple(f"synthesis.{name}" for name in SynthesisConfig.model_fields if name not in IN_SYNTHESIS),
            ignores=IN_TRAINING,
            check=f"{CHECKS}:check_rounds",
            shares=("batch", "synthesis.batch"),
            metrics=TRAINED,
        ),
        Stage(
            "student",
            f"{STAGES}:train_student",
            inputs=("teacher", "ptq_noise"),
            sections=("synthesis",),
            check=f"{CHECKS}:check_student",
            looks=("teacher",),
            shares=("batch", "synthesis.batch"),
            metrics=TRAINED,
        ),
        # What the bits save, in bytes, and on the CPU's int8 kernels in time.
        Stage(
            "int8",
            f"{STAGES}:measure_int8",
            inputs=("teacher", "student"),
            per_seed=False,
            metrics=("bytes", "teacher_bytes"),
        ),
        tested("teacher"),
        tested("ptq_noise"),
        tested("ptq_real"),
        tested("gdfq"),
        tested("student"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    mode="max",
    watched="student",
    length="student.steps",
    roles={"teacher": "teacher", "baseline": "ptq_noise", "bound": "ptq_real", "control": "gdfq", "student": "student"},
    gain=Gain("student", "gdfq", "val_accuracy", tests=("test_student", "test_gdfq", "test_accuracy")),
    registered={"student": "student/val_accuracy"},
    networks={"quantized": "methods.rgal_quantization.networks:QuantizedClassifier"},
    space="tune_spaces.rgal_quantization",
    tables=Path(__file__).parent / "tables",
)
