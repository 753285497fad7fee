"""What a sweep of RGAL varies by default: the relation terms first, then the other weights. The teacher is trained once."""

from ray import tune

METRIC, MODE = "student/val_accuracy", "max"

SPACE = {
    # The relation terms: lambda_1 in synthesis, lambda_2 in distillation, and their direction.
    "synthesis.triplet": tune.loguniform(1e-2, 1.0),
    "student.striplet": tune.loguniform(1e-2, 1.0),
    "synthesis.relation_mode": tune.choice(["adversarial", "cooperative", "off"]),
    "synthesis.margin": tune.uniform(0.05, 0.5),
    # The focal window.
    "synthesis.low": tune.uniform(0.3, 0.7),
    "synthesis.high": tune.uniform(0.8, 1.3),
    # What the images are asked for.
    "synthesis.targets": tune.choice(["iid", "balanced", "grouped"]),
    "synthesis.bn": tune.loguniform(1e-1, 10),
    "synthesis.oh": tune.loguniform(1e-1, 2),
    "synthesis.adv": tune.loguniform(1e-1, 3),
    # Distillation.
    "student.T": tune.loguniform(1, 30),
}
