"""What a sweep of cGAN-KD varies by default: the knobs after the GAN, so that the GAN is trained once."""

from ray import tune

METRIC, MODE = "student/val_accuracy", "max"

SPACE = {
    # M1: rejection by the density ratio, and how its maximum is estimated.
    "samples.subsampling": tune.choice([True, False]),
    "samples.estimator": tune.choice(["max", "quantile"]),
    "density_ratio.lam": tune.choice([1e-3, 1e-2, 1e-1]),
    # M2: the share of fakes that survives the teacher.
    "samples.filter_quantile": tune.quniform(0.5, 1.0, 0.1),
    # M3: how the student meets them.
    "student.fakes": tune.choice([500, 1000, 2000]),
    "student.real_per_fake": tune.choice([0.5, 1.0, 2.0, 4.0]),
    "student.lr": tune.loguniform(1e-2, 2e-1),
    "student.start": tune.choice(["baseline", "scratch"]),
}
