"""A pretrained GAN from the user's files, and whether it is the one that the knobs describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gankd.data import DataSet
from gankd.errors import UserError
from gankd.models.biggan_import import import_discriminator, import_generator
from gankd.models.checkpoint_file import Checkpoint, open_checkpoint
from methods.cgan_transfer.config import PretrainConfig

ENTRIES = ("output_layer.2.weight", "embed.weight")  # by which a generator and a discriminator are known
KNOBS = ("width", "dim_z", "shared_dim", "hierarchical", "attention")


def import_networks(cfg: PretrainConfig, data: DataSet, old_classes: int = 0) -> tuple[Any, Any, str]:
    """Generator and discriminator of `cfg`'s checkpoints, and a sentence about what was found.

    Raises UserError for files that cannot be read or hold no BigGAN, and for networks of another resolution, number of
    channels, width or number of classes than data and knobs say; it names both.
    """
    files = [open_checkpoint(cfg.checkpoint or ""), open_checkpoint(cfg.discriminator_checkpoint or "")]
    places = [place_of(file, entry) for file, entry in zip(files, ENTRIES, strict=True)]
    # Shapes alone first: whether they are those that the knobs ask for is known before anything is read.
    compare(cfg, data, old_classes, *networks_of(cfg, [file.states[place] for file, place in zip(files, places, strict=True)]))
    generator, discriminator = networks_of(cfg, [file.read(place) for file, place in zip(files, places, strict=True)])
    for network in (generator, discriminator):
        network.recipe = {**network.recipe, "init": cfg.init}  # for what is drawn anew beside it
    entries = len(generator.state_dict()), len(discriminator.state_dict())
    inside = "".join(f", taken from {place!r} in {file.path.name}" for file, place in zip(files, places, strict=True) if place)
    said = (
        f"all {entries[0]} entries of the generator and {entries[1]} of the discriminator matched: BigGAN at "
        f"{generator.image_size} px, width {cfg.width}, {generator.classes} classes{inside}"
    )
    return generator, discriminator, said


def place_of(file: Checkpoint, entry: str) -> str:
    """Where in the file the network with this entry is; the first place when none has it."""
    having = [place for place, state in file.states.items() if any(name.endswith(entry) for name in state)]
    return [*having, *file.states][0]


def networks_of(cfg: PretrainConfig, states: list[Mapping[str, Tensor]]) -> list[Any]:
    """Generator and discriminator; of meta tensors their shapes alone."""
    importers = (lambda s: import_generator(s, cfg.sn_eps, cfg.bn_eps), lambda s: import_discriminator(s, cfg.sn_eps))
    networks = []
    for path, importer, state in zip((cfg.checkpoint, cfg.discriminator_checkpoint), importers, states, strict=True):
        try:
            networks.append(importer(state))
        except UserError as error:
            raise UserError(f"the checkpoint {path!r}: {error}") from error
    return networks


def compare(cfg: PretrainConfig, data: DataSet, old_classes: int, generator: Any, discriminator: Any) -> None:
    """Raises UserError for networks that are not those of the knobs and the data."""
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


def _compare(what: str, found: Any, wanted: Any, unit: str, owner: str, mend: str) -> None:
    if found != wanted:
        raise UserError(f"{what} has {found} {unit}, but {owner} {wanted}; {mend}")
