"""cGAN-KD: knowledge travels from teacher to student only through generated, subsampled and filtered training images.

Ding, Wang, Xu, Wang, Welch: Distilling and Transferring Knowledge via cGAN-generated Samples for Image Classification
and Regression (arXiv 2104.03164). This is the classification method.
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import CLASSIFIER_METRICS, classifier, quality, real_statistics, tested
from methods.cgan_kd.config import CganKdConfig

CHECKS = "gankd.stages.checks"
BATCH = f"{CHECKS}:check_batch"
STUDENT = "methods.cgan_kd.checks:check_student"

METHOD = Method(
    name="cgan_kd",
    title="cGAN-KD",
    summary="distil a teacher into a student through filtered samples of a class-conditional GAN",
    config=CganKdConfig,
    stages=(
        classifier("teacher"),
        classifier("baseline"),
        # TAKD's first hop: only for a student that learns from it.
        Stage(
            "assistant",
            "methods.cgan_kd.stages:train_assistant",
            inputs=("teacher",),
            check=f"{CHECKS}:check_classifier",
            shares=("batch",),
            metrics=CLASSIFIER_METRICS,
            on_demand=True,
        ),
        classifier("feature_classifier", per_seed=False),
        real_statistics(),
        Stage(
            "biggan",
            "gankd.stages.generator:train_generator",
            inputs=("feature_classifier",),
            check=f"{CHECKS}:check_gan",
            shares=("batch",),
            metrics=("parameters", "step"),
        ),
        Stage("extractor", "methods.cgan_kd.stages:train_extractor", check=BATCH, shares=("batch",), metrics=CLASSIFIER_METRICS),
        quality("quality", of="biggan"),
        Stage(
            "density_ratio",
            "methods.cgan_kd.stages:train_density_ratio",
            inputs=("biggan", "extractor"),
            check=BATCH,
            shares=("batch",),
            metrics=(),
        ),
        Stage(
            "samples",
            "methods.cgan_kd.stages:make_samples",
            inputs=("biggan", "extractor", "density_ratio", "teacher"),
            metrics=("acceptance", "draws"),
        ),
        Stage(
            "student",
            "methods.cgan_kd.stages:train_student",
            inputs=("baseline", "samples", "teacher", "assistant"),
            check=STUDENT,
            looks=("baseline", "teacher"),
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        # The control is the student without the method: same start, same steps, same KD loss, real images only.
        Stage(
            "control",
            "methods.cgan_kd.stages:train_control",
            inputs=("baseline", "teacher", "assistant"),
            section="student",
            ignores=frozenset({"fakes", "real_per_fake"}),
            check=STUDENT,
            looks=("baseline", "teacher"),
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        tested("teacher"),
        tested("baseline"),
        tested("control"),
        tested("student"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    mode="max",
    watched="student",
    length="student.length",
    roles={
        "extractor": "feature_classifier",
        "teacher": "teacher",
        "assistant": "assistant",
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
    tables=Path(__file__).parent / "tables",
)
