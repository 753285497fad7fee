"""What a sweep of cGAN-KD varies by default: the knobs after the GAN, so that the GAN is trained once."""

from typing import Any

from ray import tune

from methods.cgan_kd.config import CganKdConfig

METRIC, MODE = "student/val_accuracy", "max"


def space(config: CganKdConfig) -> dict[str, Any]:
    """Numbers of fakes go from the preset's downwards."""
    fakes, ratio = config.student.fakes, config.student.real_per_fake
    # No number of fakes below 4 has a quarter, and 0 stands for all of them.
    amounts = {"student.fakes": tune.choice([fakes // 4, fakes // 2, fakes])} if fakes >= 4 else {}
    return amounts | {
        # M1: rejection by the density ratio, and how its maximum is estimated.
        "samples.subsampling": tune.choice([True, False]),
        "samples.estimator": tune.choice(["max", "quantile"]),
        "density_ratio.lam": tune.choice([1e-3, 1e-2, 1e-1]),
        # M2: the share of fakes that survives the teacher.
        "samples.filter_quantile": tune.quniform(0.5, 1.0, 0.1),
        # M3: how the student meets them.
        "student.real_per_fake": tune.choice([0.5, 1.0, 2.0, 4.0] if ratio else [None, 0.5, 1.0, 2.0]),
        "student.lr": tune.loguniform(1e-2, 2e-1),
        "student.start": tune.choice(["baseline", "scratch"]),
    }
