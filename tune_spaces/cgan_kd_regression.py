"""What a sweep of cGAN-KD for numbers varies by default: the knobs after the GAN, so that the GAN is trained once.

`--space tune_spaces/cgan_kd_regression_gan.py` varies the GAN's vicinities too, and trains it anew for each.
"""

from typing import Any

from ray import tune

from methods.cgan_kd_regression.config import CganKdRegressionConfig

METRIC, MODE = "student/val_mae", "min"


def space(config: CganKdRegressionConfig) -> dict[str, Any]:
    """Numbers of fakes go from the preset's downwards."""
    fakes, ratio = config.student.fakes, config.student.real_per_fake
    # No number of fakes below 4 has a quarter, and 0 stands for all of them.
    amounts = {"student.fakes": tune.choice([fakes // 4, fakes // 2, fakes])} if fakes >= 4 else {}
    return amounts | {
        # M1: rejection by the density ratio.
        "samples.subsampling": tune.choice([True, False]),
        "density_ratio.lam": tune.choice([1e-3, 1e-2, 1e-1]),
        # M2: the share of fakes that survives the teacher, and whose label they have then.
        "samples.filter_quantile": tune.quniform(0.3, 1.0, 0.1),
        "samples.replace_labels": tune.choice([True, False]),
        # M3: how the student meets them.
        "student.real_per_fake": tune.choice([0.25, 0.5, 1.0, 2.0] if ratio else [None, 0.25, 0.5, 1.0]),
        "student.lr": tune.loguniform(1e-2, 2e-1),
        "student.start": tune.choice(["baseline", "scratch"]),
    }
