"""What can be known to be wrong with the label embedding and the GAN before anything trains. No torch."""

from __future__ import annotations

import numpy as np

from gankd.config import Section
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages.checks import check_batch, check_continuous, check_ema
from methods.cgan_kd_regression.gan_config import SAGAN_SIZES, CcganConfig, LabelEmbeddingConfig


def check_labels(name: str, cfg: Section, data: DataSet) -> None:
    """The data's labels are numbers, of which two at least differ."""
    check_continuous(name, cfg, data)
    if len(np.unique(data.train.labels)) < 2:
        raise UserError(
            f"stage {name!r} needs two different labels at least, and all of the {len(data.train)} training images of data set "
            f"{data.name!r} have {data.train.labels[0]:g}"
        )


def check_label_embedding(name: str, cfg: LabelEmbeddingConfig, data: DataSet) -> None:
    """The labels are numbers, and the batch fits."""
    check_labels(name, cfg, data)
    check_batch(name, cfg, data)


def check_ccgan(name: str, cfg: CcganConfig, data: DataSet) -> None:
    """The labels are numbers, the networks exist at the data's resolution, and the batch fits."""
    check_labels(name, cfg, data)
    if data.image_size not in SAGAN_SIZES:
        raise UserError(
            f"the SAGAN makes images of {', '.join(map(str, SAGAN_SIZES))} px, but data set {data.name!r} has "
            f"{data.image_size} px; set data.image_size"
        )
    if cfg.ema_decay:
        check_ema(name, cfg)
    check_batch(name, cfg, data)
