"""What can be known to be wrong before anything trains. No torch, unless a file has to be looked into."""

from __future__ import annotations

import logging
import os

from gankd.config import nearest
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.models import CLASSIFIERS
from gankd.models.file_kinds import in_bytes
from gankd.stages import checks
from methods.squeeze_span.config import EncoderConfig, GeneratorConfig, LinearConfig, PoolConfig

RESNETS = ("resnet18_cifar", "resnet18")


def check_generator(name: str, cfg: GeneratorConfig, data: DataSet) -> None:
    """The networks exist at the data's resolution; a file holds a generator of it."""
    if cfg.checkpoint:
        from gankd.models.stylegan2_import import read_stylegan2

        found = read_stylegan2(cfg.checkpoint)
        logging.getLogger(__name__).warning("%s.checkpoint %s: %s", name, cfg.checkpoint, found.matched)
        made = (found.generator.image_size, found.generator.image_channels)
        if made != (data.image_size, data.image_channels):
            raise UserError(
                f"the generator in {cfg.checkpoint!r} makes images of {made[0]} px with {made[1]} channels, and data set "
                f"{data.name!r} has {data.image_size} px and {data.image_channels}: set data.image_size={made[0]} and "
                f"data.image_channels={made[1]}"
            )
        return
    checks.check_classes(name, cfg, data)  # by whose classifier it is watched
    if cfg.network == "biggan" and data.image_size not in checks.GAN_SIZES["biggan"]:
        sizes = ", ".join(map(str, checks.GAN_SIZES["biggan"]))
        raise UserError(
            f"biggan makes images of {sizes} px, but data set {data.name!r} has {data.image_size} px; set data.image_size"
        )
    if cfg.network == "stylegan2" and data.image_size & (data.image_size - 1):
        raise UserError(
            f"stylegan2 makes images of 8, 16, ... px, and data set {data.name!r} has {data.image_size} px; set data.image_size"
        )
    if cfg.network == "stylegan2" and cfg.transition:
        raise UserError(f"knob '{name}.transition' fades in the condition on a class, which stylegan2 has not: leave it out")
    checks.check_ema(name, cfg)
    checks.check_batch(name, cfg, data)


def check_pool(name: str, cfg: PoolConfig, data: DataSet) -> None:
    """The pool's images alone are smaller than this machine's memory."""
    check_memory(cfg.images, data.image_channels * data.image_size**2)


def check_memory(images: int, each: int) -> None:
    """UserError when so many images of so many bytes are more than this machine's memory."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if images * each > there:
        raise UserError(
            f"pool.images = {images:,} generated images and what is kept of each take {in_bytes(images * each)}, and this "
            f"machine has {in_bytes(there)} of memory: lower pool.images, and set encoder.renew to see more images than are kept"
        )


def check_encoder(name: str, cfg: EncoderConfig, data: DataSet) -> None:
    """The network exists, and the batch fits the data."""
    checks.check_classes(name, cfg, data)
    if cfg.network not in (*RESNETS, *CLASSIFIERS):
        known = (*RESNETS, *CLASSIFIERS)
        raise UserError(
            f"knob '{name}.network' cannot be {cfg.network!r}{nearest(cfg.network, known)} (known: {', '.join(known)})"
        )
    if cfg.width and cfg.network != "small_cnn":
        raise UserError(f"knob '{name}.width' is for small_cnn; {cfg.network} does not have it, leave it out")
    if cfg.normalisation and {len(numbers) for numbers in cfg.normalisation} != {data.image_channels}:
        raise UserError(
            f"knob '{name}.normalisation' needs {data.image_channels} means and as many stds, not {cfg.normalisation}"
        )
    checks.check_batch(name, cfg, data)


def check_linear(name: str, cfg: LinearConfig, data: DataSet) -> None:
    """There are classes, and enough images."""
    checks.check_classes(name, cfg, data)
    checks.check_batch(name, cfg, data)
