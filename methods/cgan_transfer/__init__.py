"""cGANTransfer: a new class's batch-norm parameters are a learned combination of the old classes'.

Shahbazi, Huang, Paudel, Chhatkuli, Van Gool: Efficient Conditional GAN Transfer with Knowledge Propagation across Classes
(CVPR 2021, arXiv 2102.06696).
"""

from pathlib import Path

from gankd.method import Gain, Method, Stage
from gankd.stages.declared import GENERATED_METRICS, classifier, quality, real_statistics, tested_generator
from gankd.stages.sections import GanNetworkConfig
from methods.cgan_transfer.config import CganTransferConfig

STAGES = "methods.cgan_transfer.stages"
CHECKS = "methods.cgan_transfer.checks"
CLASSES = ("task.old_classes", "task.new_classes")
TRAINED = ("parameters", "parameters_trained", "step")
# A GAN trained from scratch has pretraining's networks and learning rates; all else is as in the transfer.
OF_PRETRAINING = tuple(f"pretrain.{knob}" for knob in (*GanNetworkConfig.model_fields, "g_lr", "d_lr"))


def transfer(
    name: str, inputs: tuple[str, ...], section: str = "", sections: tuple[str, ...] = (), check: str = "check_transfer"
) -> Stage:
    """A stage that trains a generator of the new classes."""
    return Stage(
        name,
        f"{STAGES}:train_{name}",
        inputs=(*inputs, "feature_classifier"),
        section=section,
        sections=("task", "training", *sections),
        check=f"{CHECKS}:{check}",
        shares=("training.batch",),
        metrics=(*TRAINED, *GENERATED_METRICS),
    )


def measured(generator: str) -> tuple[Stage, Stage]:
    """The stages that measure a generator, on validation images and, of what is chosen, on test images."""
    return quality(f"quality_{generator}", of=generator), tested_generator(generator)


METHOD = Method(
    name="cgan_transfer",
    title="cGANTransfer",
    summary="transfer a conditional GAN to new classes with few images, by combining the old classes' batch-norm parameters",
    config=CganTransferConfig,
    stages=(
        classifier("feature_classifier", per_seed=False),
        real_statistics(f"{STAGES}:measure_new", CLASSES),
        Stage(
            "pretrain",
            f"{STAGES}:pretrain",
            inputs=("feature_classifier",),
            sections=CLASSES,
            check=f"{CHECKS}:check_pretrain",
            shares=("batch",),
            metrics=TRAINED,
        ),
        transfer("bn", ("pretrain",), check="check_bn"),
        transfer("ft", ("bn",)),
        # The controls: as many steps as BN and FT together, on the same images, without the method. Fine-tuning has FT's rate.
        transfer("finetune", ("pretrain",), section="ft"),
        transfer("scratch", (), sections=OF_PRETRAINING),
        *measured("bn"),
        *measured("ft"),
        *measured("finetune"),
        *measured("scratch"),
    ),
    presets=Path(__file__).parent / "presets",
    objective="quality_ft/fid_classifier",
    mode="min",
    watched="ft",
    length="training.steps",
    roles={"extractor": "feature_classifier", "control": "finetune", "generator": "ft"},
    gain=Gain("quality_ft", "quality_finetune", "fid_classifier", tests=("test_ft", "test_finetune", "test_fid_classifier")),
    registered={"generator": "quality_ft/fid_classifier"},
    pretrained="methods.cgan_transfer.config:knobs_of_pretrained",
    space="tune_spaces.cgan_transfer",
)
