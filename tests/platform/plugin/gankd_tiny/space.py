"""What a sweep varies."""

from ray import tune

SPACE = {"student.lr": tune.loguniform(1e-2, 1.0)}
