"""Beside the knobs after the GAN its vicinities: how near a label real images stand in for it. A GAN for each choice."""

from typing import Any

from ray import tune

from methods.cgan_kd_regression.config import CganKdRegressionConfig
from tune_spaces import cgan_kd_regression

METRIC, MODE = cgan_kd_regression.METRIC, cgan_kd_regression.MODE


def space(config: CganKdRegressionConfig) -> dict[str, Any]:
    """In multiples of the preset's own."""
    kappa, sigma = config.ccgan.kappa, config.ccgan.sigma
    return cgan_kd_regression.space(config) | {
        "ccgan.kappa": tune.choice([kappa / 2, kappa, 2 * kappa]),
        "ccgan.sigma": tune.choice([sigma / 2, sigma, 2 * sigma]),
        "ccgan.vicinity": tune.choice(["soft", "hard"]),
    }
