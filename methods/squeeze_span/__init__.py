"""Squeeze & Span: an encoder learns from what a generator makes on the way to an image.

Yang, Cheng, Liu, Bilen, Ji: Distilling Representations from GAN Generator via Squeeze and Span (NeurIPS 2022,
arXiv 2211.03000).
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import classifier, quality, real_statistics, tested_generator
from methods.squeeze_span.config import SqueezeSpanConfig

STAGES = "methods.squeeze_span.stages"
CHECKS = "methods.squeeze_span.checks"
# What the control, which sees real images alone, does not look at.
OF_GENERATED = frozenset({
    "recipe", "learner", "teacher", "squeeze_depth", "squeeze_width", "strength", "alpha", "augment_generated",
    "regularise_teacher",
    "standardise", "latent_weight", "augmentation", "fresh", "renew", "forward",
    "simsiam_layers", "predictor_width", "fixed_predictor_lr",
})  # fmt: skip
LEARNED = ("parameters", "val_accuracy")


def probe(encoder: str) -> tuple[Stage, Stage]:
    """The stages that evaluate an encoder: a linear classifier on it, and that on the test part."""
    name = "linear" if encoder == "encoder" else f"linear_{encoder}"
    fitted = Stage(
        name,
        f"{STAGES}:fit_probe",
        inputs=(encoder,),
        section="linear",
        check=f"{CHECKS}:check_linear",
        shares=("batch",),
        metrics=("val_accuracy", "val_top5", "lr", "features"),
    )
    tested = Stage(f"test_{name}", f"{STAGES}:test_probe", inputs=(name,), test=True, metrics=("test_accuracy", "test_top5"))
    return fitted, tested


METHOD = Method(
    name="squeeze_span",
    title="Squeeze & Span",
    summary="learn an encoder without labels, from a generator's images and from what it makes on the way to them",
    config=SqueezeSpanConfig,
    stages=(
        classifier("feature_classifier", per_seed=False),
        real_statistics(),
        Stage(
            "gan",
            f"{STAGES}:train_generator",
            inputs=("feature_classifier",),
            check=f"{CHECKS}:check_generator",
            shares=("batch",),
            metrics=("parameters", "step"),
        ),
        quality("quality", of="gan", by_class=False),
        tested_generator("gan", by_class=False),
        Stage(
            "pool",
            f"{STAGES}:draw_pool",
            inputs=("gan",),
            check=f"{CHECKS}:check_pool",
            metrics=("images", "features"),
        ),
        Stage(
            "encoder",
            f"{STAGES}:train_encoder",
            inputs=("gan", "pool"),
            check=f"{CHECKS}:check_encoder",
            shares=("generated", "real"),
            metrics=LEARNED,
        ),
        # The control: VICReg on real images alone, as many steps of as large batches.
        Stage(
            "control",
            f"{STAGES}:train_control",
            section="encoder",
            ignores=OF_GENERATED,
            check=f"{CHECKS}:check_encoder",
            shares=("batch",),
            metrics=LEARNED,
        ),
        *probe("encoder"),
        *probe("control"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="linear/val_accuracy",
    watched="encoder",
    length="encoder.epochs",
    roles={
        "extractor": "feature_classifier", "generator": "gan", "encoder": "encoder",
        "student": "linear", "control": "linear_control",
    },
    gain=Gain("linear", "linear_control", "val_accuracy", tests=("test_linear", "test_linear_control", "test_accuracy")),
    registered={"encoder": "linear/val_accuracy", "generator": "quality/fid_classifier"},
    networks={
        "resnet18_encoder": "methods.squeeze_span.networks:ResNet18Encoder",
        "encoder": "methods.squeeze_span.networks:ClassifierEncoder",
        "discriminator_encoder": "methods.squeeze_span.networks:DiscriminatorEncoder",
        "linear_probe": "methods.squeeze_span.networks:LinearProbe",
    },
    space="tune_spaces.squeeze_span",
    tables=Path(__file__).parent / "tables",
    measured={"encoder": f"{STAGES}:measure_encoder"},
)  # fmt: skip
