"""What a sweep of data-free quantization varies by default: the weights of the relation terms and the focal window.

The bits are a condition rather than a choice, since by accuracy more are always better: they have a space of their own,
`rgal_quantization_bits`, and the table `bits`.
"""

from ray import tune

METRIC, MODE = "student/val_accuracy", "max"
SPACE = {
    # lambda_1 in synthesis, lambda_2 and lambda_3 in training.
    "synthesis.triplet": tune.loguniform(1e-2, 1.0),
    "student.striplet": tune.loguniform(1e-2, 1.0),
    "student.cd": tune.loguniform(1e-2, 1.0),
    # The focal window.
    "synthesis.low": tune.uniform(0.3, 0.7),
    "synthesis.high": tune.uniform(0.8, 1.3),
}
