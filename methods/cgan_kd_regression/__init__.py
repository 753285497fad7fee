"""cGAN-KD for labels that are numbers: a teacher's knowledge in generated images, filtered by it and labelled by it.

Ding, Wang, Xu, Wang, Welch: Distilling and Transferring Knowledge via cGAN-generated Samples for Image Classification
and Regression (arXiv 2104.03164). This is the regression method; `cgan_kd` is the one for classes.
"""

from dataclasses import replace
from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import CLASSIFIER_METRICS, classifier, quality, real_statistics, tested
from methods.cgan_kd_regression.config import CganKdRegressionConfig

HERE = "methods.cgan_kd_regression"
TRAINING = f"{HERE}.checks:check_training"


def regressor(name: str) -> Stage:
    """Trains a network that tells the labels of real images."""
    return replace(classifier(name), check=f"{HERE}.checks:check_regressor")


METHOD = Method(
    name="cgan_kd_regression",
    title="cGAN-KD, regression",
    summary="distil a teacher that tells a number into a student, through filtered and relabelled samples of a CcGAN",
    config=CganKdRegressionConfig,
    stages=(
        regressor("teacher"),
        regressor("baseline"),
        replace(regressor("feature_classifier"), per_seed=False),
        real_statistics(continuous=True),
        Stage(
            "label_embedding",
            f"{HERE}.label_embedding:train_label_embedding",
            check=f"{HERE}.gan_checks:check_label_embedding",
            shares=("batch", "label_batch"),
            metrics=("label_mae", "parameters", "val_mae"),
        ),
        Stage(
            "ccgan",
            f"{HERE}.ccgan:train_ccgan",
            inputs=("label_embedding", "feature_classifier"),
            check=f"{HERE}.gan_checks:check_ccgan",
            shares=("batch",),
            metrics=("parameters", "radius", "sigma", "step"),
        ),
        quality("quality", of="ccgan", continuous=True),
        Stage("extractor", f"{HERE}.autoencoder:train_extractor", check=TRAINING, shares=("batch",), metrics=CLASSIFIER_METRICS),
        Stage(
            "density_ratio",
            f"{HERE}.stages:train_density_ratio",
            inputs=("label_embedding", "ccgan", "extractor"),
            check=TRAINING,
            shares=("batch",),
            metrics=(),
        ),
        Stage(
            "samples",
            f"{HERE}.stages:make_samples",
            inputs=("label_embedding", "ccgan", "extractor", "density_ratio", "teacher"),
            metrics=("acceptance", "draws", "error", "fakes", "threshold"),
        ),
        Stage(
            "student",
            f"{HERE}.stages:train_student",
            inputs=("baseline", "samples"),
            check=TRAINING,
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        # The control is the student without the method: same start, same steps, real images only.
        Stage(
            "control",
            f"{HERE}.stages:train_control",
            inputs=("baseline",),
            section="student",
            ignores=frozenset({"fakes", "real_per_fake"}),
            check=TRAINING,
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        tested("teacher"),
        tested("baseline"),
        tested("control"),
        tested("student"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_mae",
    mode="min",
    watched="student",
    length="student.length",
    roles={
        "extractor": "feature_classifier",
        "teacher": "teacher",
        "baseline": "baseline",
        "control": "control",
        "student": "student",
        "generator": "ccgan",
    },
    gain=Gain("student", "control", "val_mae", tests=("test_student", "test_control", "test_mae")),
    registered={"generator": "quality/fid_regressor", "student": "student/val_mae"},
    networks={
        "label_embedding": f"{HERE}.label_embedding:LabelEmbedding",
        "fourier_features": f"{HERE}.label_embedding:FourierFeatures",
        "sagan": f"{HERE}.sagan:Generator",
        "sagan_discriminator": f"{HERE}.sagan:Discriminator",
        "sparse_autoencoder": f"{HERE}.autoencoder:SparseAutoencoder",
        "label_density_ratio": f"{HERE}.density_ratio:LabelRatio",
    },
    space="tune_spaces.cgan_kd_regression",
    tables=Path(__file__).parent / "tables",
)
