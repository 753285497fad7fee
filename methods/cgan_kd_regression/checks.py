"""What can be known to be wrong before anything trains. No torch."""

from __future__ import annotations

from gankd.config import Section
from gankd.data import DataSet
from gankd.stages.checks import check_batch, check_classifier
from gankd.stages.sections import ClassifierConfig
from methods.cgan_kd_regression.gan_checks import check_labels


def check_regressor(name: str, cfg: ClassifierConfig, data: DataSet) -> None:
    """The labels are numbers, and network, batch and checkpoint fit them."""
    check_labels(name, cfg, data)
    check_classifier(name, cfg, data)


def check_training(name: str, cfg: Section, data: DataSet) -> None:
    """The labels are numbers, and the batch fits."""
    check_labels(name, cfg, data)
    check_batch(name, cfg, data)
