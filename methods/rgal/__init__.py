"""RGAL: distil a teacher without its data, into a student, through images that are inverted out of the teacher.

Liang, Fu: Relation-Guided Adversarial Learning for Data-Free Knowledge Transfer (IJCV 2024, arXiv 2412.11380). Its base, CMI
(Fang et al., Contrastive Model Inversion, IJCAI 2021, arXiv 2105.08584), is the preset `cmi`.
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import QUALITY, classifier, quality, real_statistics, tested
from methods.rgal.config import RgalConfig

STUDENT_METRICS = ("best_val_{task}", "parameters", "teacher_val_{task}", "val_{task}")

METHOD = Method(
    name="rgal",
    title="RGAL",
    summary="distil a teacher without its training images, by inverting it with relation-guided terms",
    config=RgalConfig,
    stages=(
        classifier("teacher"),
        # The student trained on the real images that the method does without: for comparison only.
        classifier("baseline"),
        Stage(
            "student",
            "methods.rgal.stages:train_student",
            inputs=("teacher",),
            sections=("synthesis",),
            check="methods.rgal.checks:check_student",
            shares=("batch", "synthesis.batch"),
            metrics=STUDENT_METRICS,
        ),
        # The control: the same student and the same updates on images of noise, which know nothing of the teacher.
        Stage(
            "noise",
            "methods.rgal.stages:train_on_noise",
            inputs=("teacher",),
            section="student",
            ignores=frozenset(
                {"striplet", "striplet_feature", "striplet_sampling", "margin", "start_layer", "end_layer", "warm_up"}
            ),
            check="methods.rgal.checks:check_pool",
            shares=("batch",),
            metrics=STUDENT_METRICS,
        ),
        # How near the synthetic images come to real ones, by a feature classifier that synthesis has never seen.
        classifier("feature_classifier", per_seed=False),
        real_statistics(),
        quality("pool", of="student", run=f"{QUALITY}:score_images"),
        tested("teacher"),
        tested("baseline"),
        tested("noise"),
        tested("student"),
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
        "control": "noise",
        "student": "student",
    },
    gain=Gain("student", "noise", "val_accuracy", tests=("test_student", "test_noise", "test_accuracy")),
    registered={"student": "student/val_accuracy"},
    space="tune_spaces.rgal",
)
