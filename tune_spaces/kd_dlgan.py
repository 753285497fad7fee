"""What a sweep of KD-DLGAN varies by default: the weights of the distillation first, then its forms, then the GAN's own."""

from typing import Any

from ray import tune

METRIC, MODE = "quality/fid_classifier", "min"

SPACE: dict[str, Any] = {
    "kd.agkd": tune.loguniform(0.1, 30),
    "kd.cgkd": tune.loguniform(0.1, 100),
    "kd.pd": tune.choice([0.0, 0.001, 0.01, 0.1, 1.0]),
    "kd.aggregation": tune.uniform(0.0, 1.0),
    "kd.distance": tune.choice(["l2", "l1", "smooth_l1", "cosine"]),
    # The control is trained with these too.
    "gan.lecam": tune.choice([0.0, 0.1, 0.3]),
    "gan.diffaugment": tune.choice([["translation"], ["translation", "cutout"], ["color", "translation", "cutout"]]),
}
