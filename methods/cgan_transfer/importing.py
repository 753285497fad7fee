"""A pretrained GAN from the user's files, and whether it is the one that the knobs describe."""

from __future__ import annotations

from typing import Any

from gankd.data import DataSet
from gankd.errors import UserError
from gankd.models.biggan_import import import_discriminator, import_generator
from gankd.models.classifier_import import read_state_dict
from methods.cgan_transfer.config import PretrainConfig

KNOBS = ("width", "dim_z", "shared_dim", "hierarchical", "attention")


def import_networks(cfg: PretrainConfig, data: DataSet, old_classes: int = 0) -> tuple[Any, Any, str]:
    """Generator and discriminator of `cfg`'s checkpoints, and a sentence about what was found.

    Raises UserError for files that cannot be read or hold no BigGAN, and for networks of another resolution, number of
    channels, width or number of classes than data and knobs say; it names both.
    """
    state, other = read_state_dict(cfg.checkpoint or ""), read_state_dict(cfg.discriminator_checkpoint or "")
    generator: Any = import_generator(state, cfg.sn_eps, cfg.bn_eps)
    discriminator: Any = import_discriminator(other, cfg.sn_eps)
    if generator.recipe["name"] != "biggan":
        raise UserError(f"the checkpoint {cfg.checkpoint!r} is itself a transferred generator; give that of a BigGAN")
    for network, file in ((generator, cfg.checkpoint), (discriminator, cfg.discriminator_checkpoint)):
        _compare(f"the checkpoint {file!r}", network.image_size, data.image_size, "px", "the data has", "set data.image_size")
        _compare(
            f"the checkpoint {file!r}", network.image_channels, data.image_channels, "image channels", "the data has",
            "set data.image_channels",
        )  # fmt: skip
        _compare(f"the checkpoint {file!r}", network.recipe["width"], cfg.width, "channels a unit", "pretrain.width is", "set it")
        if old_classes:
            _compare(
                f"the checkpoint {file!r}", network.classes, old_classes, "classes", "task.old_classes has",
                "leave that list out or give the classes it was trained on",
            )  # fmt: skip
    _compare(
        f"the discriminator in {cfg.discriminator_checkpoint!r}", discriminator.classes, generator.classes, "classes",
        "the generator has", "give the two files of one GAN",
    )  # fmt: skip
    for knob in KNOBS:
        found, wanted = generator.recipe[knob], getattr(cfg, knob)
        wanted = list(wanted) if knob == "attention" else wanted
        if found != wanted:
            raise UserError(f"the checkpoint {cfg.checkpoint!r} has {knob} = {found}, but pretrain.{knob} is {wanted}; set it")
    for network in (generator, discriminator):
        network.recipe = {**network.recipe, "init": cfg.init}  # for what is drawn anew beside it
    entries = len(generator.state_dict()), len(discriminator.state_dict())
    said = (
        f"all {entries[0]} entries of the generator and {entries[1]} of the discriminator matched: BigGAN at "
        f"{generator.image_size} px, width {cfg.width}, {generator.classes} classes"
    )
    return generator, discriminator, said


def _compare(what: str, found: Any, wanted: Any, unit: str, owner: str, mend: str) -> None:
    if found != wanted:
        raise UserError(f"{what} has {found} {unit}, but {owner} {wanted}; {mend}")
