"""RGAL's relations in class-incremental learning without exemplars: images made out of the old network replay the old classes.

The relations: Liang, Fu: Relation-Guided Adversarial Learning for Data-Free Knowledge Transfer (IJCV 2024, arXiv 2412.11380). How
its authors added them to which hosts was not at hand: this is a design of ours, on the losses of ABD (Smith et al.: Always Be
Dreaming, ICCV 2021) or R-DFCIL (Gao et al., ECCV 2022).
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import CLASSIFIER_METRICS
from methods.rgal.config import SynthesisConfig
from methods.rgal_incremental.config import RELATING, RELATION, REPLAYING, IncrementalConfig

STAGES = "methods.rgal_incremental.stages"
CHECKS = "methods.rgal_incremental.checks"
MEASURED = ("accuracy", "average_accuracy", "forgetting")
HOST_SYNTHESIS = tuple(f"synthesis.{knob}" for knob in SynthesisConfig.model_fields if knob not in RELATION)


def loop(name: str, check: str, *, ignores: frozenset[str] = frozenset(), sections: tuple[str, ...] = ()) -> Stage:
    """A way of going on from the first task."""
    return Stage(
        name,
        f"{STAGES}:train_{name}",
        inputs=("first",),
        section="student",
        sections=sections,
        ignores=ignores,
        check=f"{CHECKS}:{check}",
        looks=("first",),
        shares=("batch", "synthesis.batch") if sections else ("batch",),
        metrics=("parameters", *(f"val_{name}" for name in MEASURED)),
    )


def tested(network: str) -> Stage:
    """Measures it, and the networks after each task, on the test part."""
    metrics = tuple(f"test_{name}" for name in MEASURED)
    return Stage(f"test_{network}", f"{STAGES}:test_tasks", inputs=("first", network), test=True, metrics=metrics)


METHOD = Method(
    name="rgal_incremental",
    title="RGAL, class-incremental",
    summary="learn classes task after task without stored images, replaying old ones by inversion with relation-guided terms",
    config=IncrementalConfig,
    stages=(
        Stage(
            "first",
            f"{STAGES}:train_first",
            sections=("student.tasks",),
            check=f"{CHECKS}:check_first",
            shares=("batch",),
            metrics=CLASSIFIER_METRICS,
        ),
        # From there on: the new classes' images alone; those of all classes; the host; the host with RGAL's relations.
        loop("finetuning", "check_tasks", ignores=REPLAYING),
        loop("joint", "check_tasks", ignores=REPLAYING),
        loop("host", "check_host", ignores=RELATING, sections=HOST_SYNTHESIS),
        loop("student", "check_student", sections=("synthesis",)),
        tested("finetuning"),
        tested("joint"),
        tested("host"),
        tested("student"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="student/val_accuracy",
    mode="max",
    watched="student",
    length="student.steps",
    roles={"teacher": "joint", "baseline": "finetuning", "control": "host", "student": "student"},
    gain=Gain("student", "host", "val_accuracy", tests=("test_student", "test_host", "test_accuracy")),
    registered={"student": "student/val_accuracy"},
    space="tune_spaces.rgal_incremental",
    tables=Path(__file__).parent / "tables",
)
