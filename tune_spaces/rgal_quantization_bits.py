"""Bits beside the weights of the relation terms, for a curve: `--space tune_spaces/rgal_quantization_bits.py`."""

from ray import tune

METRIC, MODE = "student/val_accuracy", "max"
SPACE = {
    "quantizer.bits": tune.grid_search([8, 5, 4, 3, 2]),
    "synthesis.triplet": tune.loguniform(1e-2, 1.0),
    "student.striplet": tune.loguniform(1e-2, 1.0),
}
