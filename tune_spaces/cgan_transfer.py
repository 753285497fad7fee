"""What a sweep of cGANTransfer varies by default: the transfer, so that the GAN of the old classes is trained once."""

from typing import Any

from ray import tune

from methods.cgan_transfer.config import CganTransferConfig

METRIC, MODE = "quality_ft/fid_classifier", "min"


def space(config: CganTransferConfig) -> dict[str, Any]:
    """The ranges reach as far as the preset's own values."""
    return {
        # Both penalties shrink what belongs to a class, so they are searched together.
        "bn.comb_l1_scale": tune.loguniform(1e-4, 1.0),
        "bn.res_l2_scale": tune.loguniform(1e-3, 10.0),
        # Few parameters are trained in BN: it takes larger rates than FT, the larger the shorter it is.
        "bn.g_lr": tune.loguniform(min(1e-3, config.bn.g_lr), 5e-2),
        # Plain fine-tuning has this rate too: the control is tuned as the method is.
        "ft.g_lr": tune.loguniform(2e-5, 4e-4),
        # This one is the controls' too, which are trained anew for each value.
        "training.d_steps": tune.choice(sorted({config.training.d_steps, 2, 4})),
        # As is this one: what it does to the transfer and to fine-tuning differs.
        "training.mode_seeking": tune.choice(sorted({config.training.mode_seeking, 0.0, 0.05, 0.2})),
        # Where BN ends and FT begins.
        "bn.share": tune.quniform(0.2, 0.8, 0.1),
    }
