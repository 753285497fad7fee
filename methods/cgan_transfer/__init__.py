"""cGANTransfer: a new class's batch-norm parameters are a learned combination of the old classes'.

Shahbazi, Huang, Paudel, Chhatkuli, Van Gool: Efficient Conditional GAN Transfer with Knowledge Propagation across Classes
(CVPR 2021, arXiv 2102.06696).
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.sections import GENERATED_ONLY
from methods.cgan_transfer.config import CganTransferConfig

STAGES = "methods.cgan_transfer.stages"
CHECKS = "methods.cgan_transfer.checks"
NEW = ("task", "training", "quality")
# Of the pretraining's knobs: a GAN trained from scratch has its networks and learning rates, and the transfer's length.
ONLY_PRETRAINING = frozenset({
    "checkpoint", "discriminator_checkpoint", "steps", "batch", "accumulations", "d_steps", "beta1", "beta2", "adam_eps",
    "ema_decay", "ema_start", "orthogonal", "diffaugment", "flip", "sample_grids", "evaluations", "evaluation_images", "keep",
    "sync_batch_norm", "precision",
})  # fmt: skip

METHOD = Method(
    name="cgan_transfer",
    title="cGANTransfer",
    summary="transfer a conditional GAN to new classes with few images, by combining the old classes' batch-norm parameters",
    config=CganTransferConfig,
    stages=(
        Stage(
            "feature_classifier",
            "gankd.stages.classifier:train_classifier",
            check="gankd.stages.checks:check_classifier",
            shares=("batch",),
        ),
        Stage(
            "pretrain",
            f"{STAGES}:pretrain",
            inputs=("feature_classifier",),
            sections=("task", "quality"),
            check=f"{CHECKS}:check_pretrain",
            shares=("batch",),
        ),
        Stage(
            "real_statistics",
            f"{STAGES}:measure_new",
            inputs=("feature_classifier",),
            section="quality",
            ignores=GENERATED_ONLY,
            sections=("task",),
        ),
        Stage(
            "bn",
            f"{STAGES}:train_bn",
            inputs=("pretrain", "feature_classifier", "real_statistics"),
            sections=NEW,
            check=f"{CHECKS}:check_bn",
            shares=("training.batch",),
        ),
        Stage(
            "ft",
            f"{STAGES}:train_ft",
            inputs=("bn", "feature_classifier", "real_statistics"),
            sections=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
        # The controls: as many steps as BN and FT together, on the same images, without the method.
        Stage(
            "finetune",
            f"{STAGES}:train_finetune",
            inputs=("pretrain", "feature_classifier", "real_statistics"),
            sections=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
        Stage(
            "scratch",
            f"{STAGES}:train_scratch",
            inputs=("feature_classifier", "real_statistics"),
            section="pretrain",
            ignores=ONLY_PRETRAINING,
            sections=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
    ),
    presets=Path(__file__).parent / "presets",
    objective="ft/fid_classifier",
    mode="min",
    watched="ft",
    length="training.steps",
    roles={"control": "finetune", "generator": "ft"},
    gain=Gain("ft", "finetune", "fid_classifier"),
    registered={"generator": "ft/fid_classifier"},
    pretrained="methods.cgan_transfer.config:knobs_of_pretrained",
    space="tune_spaces.cgan_transfer",
)
