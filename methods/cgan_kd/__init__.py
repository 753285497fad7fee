"""cGAN-KD: knowledge travels from teacher to student only through generated, subsampled and filtered training images.

Ding, Wang, Xu, Wang, Welch: Distilling and Transferring Knowledge via cGAN-generated Samples for Image Classification
and Regression (arXiv 2104.03164). This is the classification method.
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.sections import GENERATED_ONLY
from methods.cgan_kd.config import CganKdConfig

CLASSIFIER = "gankd.stages.classifier"
QUALITY = "gankd.stages.quality"
CHECKS = "gankd.stages.checks"
BATCH = f"{CHECKS}:check_batch"
TEST = f"{CLASSIFIER}:test_network"

METHOD = Method(
    name="cgan_kd",
    title="cGAN-KD",
    summary="distil a teacher into a student through filtered samples of a class-conditional GAN",
    config=CganKdConfig,
    stages=(
        Stage("teacher", f"{CLASSIFIER}:train_classifier", check=f"{CHECKS}:check_classifier", shares=("batch",)),
        Stage("baseline", f"{CLASSIFIER}:train_classifier", check=f"{CHECKS}:check_classifier", shares=("batch",)),
        Stage(
            "feature_classifier",
            f"{CLASSIFIER}:train_classifier",
            check=f"{CHECKS}:check_classifier",
            shares=("batch",),
            per_seed=False,
        ),
        Stage(
            "real_statistics",
            f"{QUALITY}:measure_real",
            inputs=("feature_classifier",),
            section="quality",
            ignores=GENERATED_ONLY,
            per_seed=False,
        ),
        Stage(
            "biggan",
            "gankd.stages.generator:train_generator",
            inputs=("feature_classifier",),
            check=f"{CHECKS}:check_gan",
            shares=("batch",),
        ),
        Stage("extractor", "methods.cgan_kd.stages:train_extractor", check=BATCH, shares=("batch",)),
        Stage(
            "quality",
            f"{QUALITY}:score_generator",
            inputs=("feature_classifier", "real_statistics", "biggan"),
            check=f"{CHECKS}:check_quality",
        ),
        Stage(
            "density_ratio",
            "methods.cgan_kd.stages:train_density_ratio",
            inputs=("biggan", "extractor"),
            check=BATCH,
            shares=("batch",),
        ),
        Stage(
            "samples",
            "methods.cgan_kd.stages:make_samples",
            inputs=("biggan", "extractor", "density_ratio", "teacher"),
        ),
        Stage("student", "methods.cgan_kd.stages:train_student", inputs=("baseline", "samples"), check=BATCH, shares=("batch",)),
        # The control is the student without the method: same start, same steps, real images only.
        Stage(
            "control",
            "methods.cgan_kd.stages:train_control",
            inputs=("baseline",),
            section="student",
            ignores=frozenset({"fakes", "real_per_fake"}),
            check=BATCH,
            shares=("batch",),
        ),
        Stage("test_teacher", TEST, inputs=("teacher",), test=True),
        Stage("test_baseline", TEST, inputs=("baseline",), test=True),
        Stage("test_control", TEST, inputs=("control",), test=True),
        Stage("test_student", TEST, inputs=("student",), test=True),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    mode="max",
    watched="student",
    length="student.steps",
    roles={
        "extractor": "feature_classifier",
        "teacher": "teacher",
        "baseline": "baseline",
        "control": "control",
        "student": "student",
        "generator": "biggan",
    },
    gain=Gain("student", "control", "val_accuracy", tests=("test_student", "test_control", "test_accuracy")),
    registered={"generator": "quality/fid_classifier", "student": "student/val_accuracy"},
    networks={
        "feature_extractor": "methods.cgan_kd.networks:FeatureExtractor",
        "density_ratio": "methods.cgan_kd.networks:DensityRatio",
    },
    space="tune_spaces.cgan_kd",
)
