"""What a sweep of the comparison varies: who teaches, and how the student learns. `--table teachers` has a row for each."""

from typing import Any

from ray import tune

METRIC, MODE = "student/val_accuracy", "max"
SPACE: dict[str, Any] = {
    "student.lesson": tune.choice(["samples", "inverted", "features"]),
    "sampler.kind": tune.choice(["plain", "transferred", "taught"]),
    "student.real_per_fake": tune.choice([0.5, 1.0, 2.0, 4.0]),
    "student.lr": tune.loguniform(1e-2, 2e-1),
}
