"""What a sweep of RGAL varies by default: the relation terms first, then the other weights. The teacher is trained once."""

from typing import Any

from ray import tune

from methods.rgal.config import RgalConfig

METRIC, MODE = "student/val_accuracy", "max"


def space(config: RgalConfig) -> dict[str, Any]:
    """CMI is RGAL without its relation terms: where a preset leaves them out, so does its sweep."""
    relations = {
        # lambda_1 in synthesis, lambda_2 in distillation, and their direction.
        "synthesis.triplet": tune.loguniform(1e-2, 1.0),
        "student.striplet": tune.loguniform(1e-2, 1.0),
        "synthesis.relation_mode": tune.choice(["adversarial", "cooperative", "off"]),
        "synthesis.margin": tune.uniform(0.05, 0.5),
        # The focal window.
        "synthesis.low": tune.uniform(0.3, 0.7),
        "synthesis.high": tune.uniform(0.8, 1.3),
    }
    others = {
        # What the images are asked for.
        "synthesis.targets": tune.choice(["iid", "balanced", "grouped"]),
        "synthesis.bn": tune.loguniform(1e-1, 10),
        "synthesis.oh": tune.loguniform(1e-1, 2),
        "synthesis.adv": tune.loguniform(1e-1, 3),
        # Distillation.
        "student.T": tune.loguniform(1, 30),
    }
    return relations | others if config.synthesis.triplet or config.student.striplet else others
