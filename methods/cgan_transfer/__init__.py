"""cGANTransfer: a new class's batch-norm parameters are a learned combination of the old classes'.

Shahbazi, Huang, Paudel, Chhatkuli, Van Gool: Efficient Conditional GAN Transfer with Knowledge Propagation across Classes
(CVPR 2021, arXiv 2102.06696).
"""

from pathlib import Path

from gankd.method import Method, Stage
from gankd.stages.sections import GENERATED_ONLY
from methods.cgan_transfer.config import CganTransferConfig

STAGES = "methods.cgan_transfer.stages"
CHECKS = "methods.cgan_transfer.checks"
SCORE = "methods.cgan_transfer.scoring:score"
NEW = ("task", "training", "quality")
# Of the pretraining's knobs: a GAN trained from scratch has its networks and learning rates, and the transfer's length.
ONLY_PRETRAINING = frozenset({
    "checkpoint", "discriminator_checkpoint", "steps", "batch", "accumulations", "d_steps", "beta1", "beta2", "adam_eps",
    "ema_decay", "ema_start", "orthogonal", "diffaugment", "flip", "sheets", "evaluations", "evaluation_images", "keep",
    "sync_batch_norm", "precision",
})  # fmt: skip

METHOD = Method(
    name="cgan_transfer",
    title="cGANTransfer",
    summary="transfer a conditional GAN to new classes with few images, by combining the old classes' batch-norm parameters",
    config=CganTransferConfig,
    stages=(
        Stage(
            "judge",
            "gankd.stages.classifier:train_classifier",
            check="gankd.stages.checks:check_classifier",
            shares=("batch",),
        ),
        Stage(
            "pretrain",
            f"{STAGES}:pretrain",
            needs=("judge",),
            reads=("task", "quality"),
            check=f"{CHECKS}:check_pretrain",
            shares=("batch",),
        ),
        Stage(
            "reference",
            f"{STAGES}:measure_new",
            needs=("judge",),
            section="quality",
            ignores=GENERATED_ONLY,
            reads=("task",),
        ),
        Stage(
            "bn",
            f"{STAGES}:train_bn",
            needs=("pretrain", "judge", "reference"),
            reads=NEW,
            check=f"{CHECKS}:check_bn",
            shares=("training.batch",),
        ),
        Stage(
            "ft",
            f"{STAGES}:train_ft",
            needs=("bn", "judge", "reference"),
            reads=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
        # The controls: as many steps as BN and FT together, on the same images, without the method.
        Stage(
            "finetune",
            f"{STAGES}:train_finetune",
            needs=("pretrain", "judge", "reference"),
            reads=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
        Stage(
            "scratch",
            f"{STAGES}:train_scratch",
            needs=("judge", "reference"),
            section="pretrain",
            ignores=ONLY_PRETRAINING,
            reads=NEW,
            check=f"{CHECKS}:check_transfer",
            shares=("training.batch",),
        ),
    ),
    presets=Path(__file__).parent / "presets",
    objective="ft/fid_classifier",
    mode="min",
    progress="ft",
    horizon="training.steps",
    scored={"scratch": SCORE, "finetune": SCORE, "bn": SCORE, "ft": SCORE},
    gain=("ft", "finetune"),
    registered={"generator": "ft"},
    generator_metric=("ft/fid_classifier", "min"),
    space="tune_spaces.cgan_transfer",
)
