"""The tiny method with a tiny GAN beside it and without a test: what is interrupted, resumed and spread over workers."""

from dataclasses import replace

from gankd.method import Stage
from gankd.stages.sections import GENERATED_ONLY, ClassifierConfig, GanConfig, QualityConfig
from gankd_tiny import METHOD as TINY
from gankd_tiny.config import TinyConfig


class TinyGanConfig(TinyConfig):
    """All knobs."""

    feature_classifier: ClassifierConfig = ClassifierConfig(
        width=8, epochs=1, batch=50, schedule="cosine", flip=False, crop_padding=1
    )
    biggan: GanConfig = GanConfig(
        width=4, dim_z=16, steps=20, batch=20, d_steps=1, ema_decay=0.9, ema_start=5, flip=False, sample_grids=1, evaluations=2,
        evaluation_images=50, keep="best",
    )  # fmt: skip
    quality: QualityConfig = QualityConfig()


METHOD = replace(
    TINY,
    name="tiny_gan",
    title="Tiny GAN",
    config=TinyGanConfig,
    stages=(
        Stage("feature_classifier", "gankd.stages.classifier:train_classifier", shares=("batch",)),
        Stage(
            "real_statistics",
            "gankd.stages.quality:measure_real",
            inputs=("feature_classifier",),
            section="quality",
            ignores=GENERATED_ONLY,
        ),
        Stage(
            "biggan",
            "gankd.stages.generator:train_generator",
            inputs=("feature_classifier",),
            shares=("batch",),
        ),
        *(stage for stage in TINY.stages if not stage.test),
    ),
    roles=TINY.roles | {"generator": "biggan"},
    registered=TINY.registered | {"generator": "biggan/fid_classifier"},
)
