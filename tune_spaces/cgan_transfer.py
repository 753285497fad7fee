"""What a sweep of cGANTransfer varies by default: the transfer, so that the GAN of the old classes is trained once."""

from ray import tune

METRIC, MODE = "ft/fid_classifier", "min"

SPACE = {
    # Both penalties shrink what belongs to a class, so they are searched together.
    "bn.comb_l1_scale": tune.loguniform(1e-4, 1.0),
    "bn.res_l2_scale": tune.loguniform(1e-3, 10.0),
    # Few parameters are trained in BN, which takes larger rates than all of them in FT.
    "bn.g_lr": tune.loguniform(5e-5, 2e-3),
    "ft.g_lr": tune.loguniform(1e-5, 5e-4),
    "training.d_steps": tune.choice([1, 2]),
    # Where BN ends and FT begins.
    "bn.share": tune.quniform(0.2, 0.8, 0.1),
}
