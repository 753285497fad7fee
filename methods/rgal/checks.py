"""What can be known to be wrong before anything is trained. No torch."""

from __future__ import annotations

import math
from typing import Any

import psutil

from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages.checks import check_classes, check_network
from gankd.stages.sections import ClassifierConfig
from methods.rgal.config import StudentConfig, SynthesisConfig

MEMORY_SHARE = 0.8  # of what is free, that the pool may take


def check_student(name: str, cfg: StudentConfig, data: DataSet, synthesis: SynthesisConfig) -> None:
    """The student exists, the generator can make images of this size, the related blocks exist, the pool fits."""
    check_classes(name, cfg, data)
    check_network(name, ClassifierConfig(network=cfg.network, width=cfg.width), data)
    check_image_size(data)
    if synthesis.relates and synthesis.triplet_target == "student":
        check_layers("synthesis", synthesis.start_layer, cfg.network, data)
    if cfg.striplet and "features" in cfg.striplet_feature:
        check_layers(name, cfg.start_layer, cfg.network, data)
    check_pool(name, cfg, data)


def check_image_size(data: DataSet) -> None:
    """The generator can make images of this size."""
    if data.image_size % 4:
        raise UserError(
            f"synthesis makes images of 8, 12, 16, ... px, but data set {data.name!r} has {data.image_size} px; "
            "set data.image_size"
        )


def check_layers(section: str, start: int, network: str, data: DataSet) -> None:
    """The network has a block number `start`."""
    count = block_count(network, data.image_size)
    if start >= count:
        raise UserError(
            f"knob '{section}.start_layer' cannot be {start}: {network} has the blocks 0 to {count - 1} at {data.image_size} px"
        )


def block_count(network: str, image_size: int) -> int:
    """Number of block outputs of a classifier (`Classifier.block_outputs`)."""
    if network == "small_cnn":
        return 1 + max(0, math.ceil(math.log2(image_size / 2)))
    counts = {"resnet": 3, "ResNet": 4, "vgg": 5, "wrn": 3, "MobileNet": 7, "Shuffle": 3, "densenet": 4}
    return next(count for family, count in counts.items() if network.startswith(family))


def check_pool(name: str, cfg: Any, data: DataSet) -> None:
    """The pool of images, `cfg.pool`, fits into this machine's memory, and `cfg.batch` is no more than the pool."""
    if cfg.batch > cfg.pool:
        raise UserError(f"knob '{name}.batch' cannot be {cfg.batch}: the pool keeps {name}.pool = {cfg.pool} images")
    needed = cfg.pool * data.image_channels * data.image_size**2
    free = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"knob '{name}.pool' cannot be {cfg.pool}: that many images of {data.image_size} px take {needed / 2**30:.1f} GiB, "
            f"and {free / 2**30:.1f} GiB of memory are free; choose at most {int(cfg.pool * MEMORY_SHARE * free / needed)}"
        )
