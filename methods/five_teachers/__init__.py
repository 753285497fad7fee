"""Five kinds of teachers for one student: what each of the platform's methods can teach it, on the same images, in as many steps.

A sampler (cGAN-KD: Ding et al., arXiv 2104.03164), by its own GAN or by one that was transferred class by class (cGANTransfer:
Shahbazi et al., CVPR 2021) or had an image-text teacher (KD-DLGAN: Cui et al., CVPR 2023); a classifier that is inverted (RGAL:
Liang, Fu, IJCV 2024); a generator's features (Squeeze & Span: Yang et al., NeurIPS 2022). No method of its own: a comparison.
"""

from dataclasses import replace
from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import (
    CLASSIFIER_METRICS,
    GENERATED_METRICS,
    QUALITY,
    classifier,
    quality,
    real_statistics,
    tested,
    tested_generator,
)
from methods.five_teachers.config import FiveTeachersConfig
from methods.kd_dlgan import EMBEDDED
from methods.kd_dlgan.config import KdConfig

HERE, CHECKS = "methods.five_teachers.stages", "gankd.stages.checks"
BATCH, STUDENT = f"{CHECKS}:check_batch", "methods.cgan_kd.checks:check_student"
TRANSFER, RGAL, SPAN, DLGAN = (f"methods.{name}" for name in ("cgan_transfer", "rgal", "squeeze_span", "kd_dlgan"))
TRAINED, TRANSFERRED = ("parameters", "step"), ("parameters", "parameters_trained", "step")
TEXT_TEACHER = ("val_accuracy", "val_accuracy_unseen", "prompt_cosine", "feature_norm", "parameters")
CLASSES = ("task.old_classes", "task.new_classes")


def transfer(name: str, after: str, check: str) -> Stage:
    """A stage of cGANTransfer: the generator of the new classes."""
    return Stage(
        name,
        f"{TRANSFER}.stages:train_{name}",
        inputs=(after, "feature_classifier"),
        sections=("task", "training"),
        check=f"{TRANSFER}.checks:{check}",
        shares=("training.batch",),
        metrics=(*TRANSFERRED, *GENERATED_METRICS),
        on_demand=True,
    )


METHOD = Method(
    name="five_teachers",
    title="Five teachers",
    summary="compare what five kinds of teachers bring one student, on one data set, in one budget of steps",
    config=FiveTeachersConfig,
    stages=(
        classifier("teacher"),
        classifier("baseline"),
        classifier("feature_classifier", per_seed=False),
        real_statistics(),
        # The plain GAN: samples for cGAN-KD, features for Squeeze & Span.
        Stage(
            "gan",
            "gankd.stages.generator:train_generator",
            inputs=("feature_classifier",),
            check=f"{CHECKS}:check_gan",
            shares=("batch",),
            metrics=TRAINED,
            on_demand=True,
        ),
        # cGANTransfer: a GAN of half of the classes, transferred to the other half.
        Stage(
            "pretrain",
            f"{TRANSFER}.stages:pretrain",
            inputs=("feature_classifier",),
            sections=CLASSES,
            check=f"{TRANSFER}.checks:check_pretrain",
            shares=("batch",),
            metrics=TRANSFERRED,
            on_demand=True,
        ),
        transfer("bn", "pretrain", "check_bn"),
        transfer("ft", "bn", "check_transfer"),
        # KD-DLGAN: the plain GAN, whose discriminator also learns from an image-text teacher.
        Stage(
            "text_teacher",
            f"{DLGAN}.stages:train_teacher",
            check=f"{DLGAN}.checks:check_teacher",
            metrics=TEXT_TEACHER,
            on_demand=True,
        ),
        Stage(
            "embeddings",
            f"{HERE}:embed_data",
            inputs=("text_teacher",),
            section="kd",
            ignores=frozenset(KdConfig.model_fields) - EMBEDDED,
            sections=("gan.flip",),
            check=f"{DLGAN}.checks:check_prompts",
            metrics=("images", "prompts"),
            on_demand=True,
        ),
        Stage(
            "taught_gan",
            f"{HERE}:train_taught_gan",
            inputs=("text_teacher", "embeddings", "feature_classifier"),
            section="gan",
            sections=("kd",),
            check=f"{DLGAN}.checks:check_gan",
            shares=("batch",),
            metrics=TRAINED,
            on_demand=True,
        ),
        # Whichever of the three generators is sampled: from here on they are treated alike.
        Stage("sampler", f"{HERE}:choose_sampler", inputs=("gan", "pretrain", "ft", "taught_gan"), metrics=()),
        quality("quality", of="sampler"),
        tested_generator("sampler"),
        Stage(
            "extractor",
            "methods.cgan_kd.stages:train_extractor",
            check=BATCH,
            shares=("batch",),
            metrics=CLASSIFIER_METRICS,
            on_demand=True,
        ),
        Stage(
            "density_ratio",
            f"{HERE}:train_density_ratio",
            inputs=("sampler", "extractor"),
            check=BATCH,
            shares=("batch",),
            metrics=(),
            on_demand=True,
        ),
        Stage(
            "samples",
            f"{HERE}:make_samples",
            inputs=("sampler", "extractor", "density_ratio", "teacher"),
            metrics=("acceptance", "draws"),
            on_demand=True,
        ),
        # RGAL: its own student, which sees no real image, and the images that it was taught by.
        Stage(
            "inversion",
            f"{RGAL}.stages:train_student",
            inputs=("teacher",),
            sections=("synthesis",),
            check=f"{RGAL}.checks:check_student",
            shares=("batch", "synthesis.batch"),
            metrics=("best_val_{task}", "parameters", "teacher_val_{task}", "val_{task}"),
            on_demand=True,
        ),
        replace(quality("quality_inverted", of="inversion", run=f"{QUALITY}:score_images"), on_demand=True),
        # Squeeze & Span: the student's network learns from what the GAN makes on the way to an image, before it sees a label.
        Stage(
            "pool",
            f"{SPAN}.stages:draw_pool",
            inputs=("gan",),
            check=f"{SPAN}.checks:check_pool",
            metrics=("images", "features"),
            on_demand=True,
        ),
        Stage(
            "encoder",
            f"{SPAN}.stages:train_encoder",
            inputs=("gan", "pool"),
            check=f"{SPAN}.checks:check_encoder",
            shares=("generated", "real"),
            metrics=("parameters", "val_accuracy"),
            on_demand=True,
        ),
        Stage(
            "student",
            f"{HERE}:train_student",
            inputs=("baseline", "samples", "inversion", "encoder", "teacher"),
            check=STUDENT,
            looks=("baseline", "teacher"),
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        # The control: the same start, the same steps, real images only; with `student.kd` it is that plain distillation.
        Stage(
            "control",
            "methods.cgan_kd.stages:train_control",
            inputs=("baseline", "teacher"),
            section="student",
            ignores=frozenset({"lesson", "fakes", "real_per_fake"}),
            check=STUDENT,
            looks=("baseline", "teacher"),
            shares=("batch",),
            metrics=("val_{task}",),
        ),
        tested("teacher"),
        tested("baseline"),
        tested("control"),
        tested("inversion"),
        tested("student"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    watched="student",
    length="student.length",
    roles={
        "extractor": "feature_classifier",
        "teacher": "teacher",
        "baseline": "baseline",
        "control": "control",
        "student": "student",
        "generator": "sampler",
    },
    gain=Gain("student", "control", "val_accuracy", tests=("test_student", "test_control", "test_accuracy")),
    registered={"student": "student/val_accuracy"},
    networks={
        "by_class": "methods.five_teachers.by_class:ByClass",
        "feature_extractor": "methods.cgan_kd.networks:FeatureExtractor",
        "density_ratio": "methods.cgan_kd.networks:DensityRatio",
        "encoder": "methods.squeeze_span.networks:ClassifierEncoder",
        "offline_teacher": f"{DLGAN}.teachers:OfflineTeacher",
        "clip_teacher": f"{DLGAN}.teachers:ClipTeacher",
        "mock_teacher": f"{DLGAN}.teachers:MockTeacher",
    },
    space="tune_spaces.five_teachers",
    tables=Path(__file__).parent / "tables",
)
