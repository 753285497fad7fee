"""KD-DLGAN: a discriminator that has few images learns from an image-text model what they show.

Cui, Yu, Zhan, Liao, Lu, Xing: KD-DLGAN: Data Limited Image Generation via Knowledge Distillation (CVPR 2023,
arXiv 2303.17158).
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import classifier, quality, real_statistics, tested_generator
from methods.kd_dlgan.config import KdConfig, KdDlganConfig

STAGES = "methods.kd_dlgan.stages"
CHECKS = "methods.kd_dlgan.checks"
# What the teacher's features of images and prompts depend on.
EMBEDDED = {"profile", "centred", "preprocess", "resize", "sees", "prompts", "prompt_list"}

METHOD = Method(
    name="kd_dlgan",
    title="KD-DLGAN",
    summary="train a GAN on few images, with a discriminator that also learns from an image-text teacher",
    config=KdDlganConfig,
    stages=(
        classifier("feature_classifier", per_seed=False),
        real_statistics(),
        Stage(
            "teacher",
            f"{STAGES}:train_teacher",
            check=f"{CHECKS}:check_teacher",
            metrics=("val_accuracy", "val_accuracy_unseen", "prompt_cosine", "feature_norm", "parameters"),
        ),
        Stage(
            "embeddings",
            f"{STAGES}:embed_data",
            inputs=("teacher",),
            section="kd",
            ignores=frozenset(KdConfig.model_fields) - EMBEDDED,
            sections=("gan.flip",),
            check=f"{CHECKS}:check_prompts",
            metrics=("images", "prompts"),
        ),
        Stage(
            "gan",
            f"{STAGES}:train_gan",
            inputs=("teacher", "embeddings", "feature_classifier"),
            sections=("kd",),
            check=f"{CHECKS}:check_gan",
            shares=("batch",),
            metrics=("parameters", "step"),
        ),
        # The control: the same GAN, with the same augmentation and LeCam, without the teacher.
        Stage(
            "control",
            "gankd.stages.generator:train_generator",
            inputs=("feature_classifier",),
            section="gan",
            check="gankd.stages.checks:check_gan",
            shares=("batch",),
            metrics=("parameters", "step"),
        ),
        quality("quality", of="gan"),
        quality("quality_control", of="control"),
        tested_generator("gan"),
        tested_generator("control"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="quality/fid_classifier",
    mode="min",
    watched="gan",
    length="gan.steps",
    roles={"extractor": "feature_classifier", "control": "control", "generator": "gan"},
    gain=Gain("quality", "quality_control", "fid_classifier", tests=("test_gan", "test_control", "test_fid_classifier")),
    registered={"generator": "quality/fid_classifier"},
    networks={
        "offline_teacher": "methods.kd_dlgan.teachers:OfflineTeacher",
        "clip_teacher": "methods.kd_dlgan.teachers:ClipTeacher",
        "mock_teacher": "methods.kd_dlgan.teachers:MockTeacher",
    },
    space="tune_spaces.kd_dlgan",
    tables=Path(__file__).parent / "tables",
)
