"""What a sweep of class-incremental RGAL varies by default: the relation terms first, so that the controls are trained once.

Not the number of tasks, though it decides most: fewer tasks are an easier problem, and the fewest would always be the best
trial. The table `tasks` walks through it.
"""

from typing import Any

from ray import tune

from methods.rgal_incremental.config import IncrementalConfig

METRIC, MODE = "student/val_accuracy", "max"


def space(config: IncrementalConfig) -> dict[str, Any]:
    """Refresh intervals go from the preset's downwards and upwards by a factor."""
    refresh = config.student.refresh
    return {
        # lambda_1 in synthesis and lambda_2 in training.
        "synthesis.triplet": tune.loguniform(1e-2, 1.0),
        "student.striplet": tune.loguniform(1e-2, 1.0),
        # The focal window, on the logits of the old classes.
        "synthesis.low": tune.uniform(0.3, 0.7),
        "synthesis.high": tune.uniform(0.8, 1.3),
        "student.refresh": tune.choice([max(1, refresh // 2), refresh, 2 * refresh]),
    }
