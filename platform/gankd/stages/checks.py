"""What can be known to be wrong before anything trains. No torch, unless a checkpoint has to be looked into."""

from __future__ import annotations

import logging
from collections.abc import Collection

from gankd.config import Section, nearest
from gankd.data import DataSet
from gankd.errors import UserError
from gankd.models import CLASSIFIERS
from gankd.stages.sections import ClassifierConfig, ContinuousQualityConfig, GanConfig, GanTrainingConfig, QualityConfig

GAN_SIZES = {"biggan": (8, 16, 32, 64, 128, 256), "biggan_deep": (32, 64, 128, 256)}


def check_classifier(name: str, cfg: ClassifierConfig, data: DataSet) -> None:
    """The network exists, the batch fits, and the checkpoint, if one is given, fits it and the data's labels, which are known."""
    check_network(name, cfg, data)
    check_batch(name, cfg, data)


def check_network(name: str, cfg: ClassifierConfig, data: DataSet) -> None:
    """As `check_classifier`, whatever it is trained by."""
    check_labelled(name, cfg, data)
    if cfg.network not in CLASSIFIERS:
        raise UserError(
            f"knob '{name}.network' cannot be {cfg.network!r}{nearest(cfg.network, CLASSIFIERS)} "
            f"(known: {', '.join(CLASSIFIERS)})"
        )
    for knob, changed, family in (
        ("width", cfg.width, "small_cnn"),
        ("norm", cfg.norm != "batch", "small_cnn"),
        ("shortcut", cfg.shortcut != "projection", "resnet"),
    ):
        if changed and not cfg.network.startswith(family):
            raise UserError(f"knob '{name}.{knob}' is for {family}; {cfg.network} does not have it, leave it out")
    if cfg.normalisation and {len(numbers) for numbers in cfg.normalisation} != {data.image_channels}:
        raise UserError(
            f"knob '{name}.normalisation' needs {data.image_channels} means and as many stds, not {cfg.normalisation}"
        )
    if cfg.flip and data.classes is None:
        logging.getLogger(__name__).warning(
            "%s.flip mirrors images and leaves their labels, in %s, as they are: set %s.flip=false where a mirrored image has "
            "another label", name, data.label_unit or "no unit", name
        )  # fmt: skip
    if cfg.checkpoint:
        from gankd.stages.classifier import build_classifier, load_user_checkpoint

        matched = load_user_checkpoint(build_classifier(cfg, data), cfg)
        logging.getLogger(__name__).warning("%s checkpoint %s: %s", name, cfg.checkpoint, matched)


def check_classes(name: str, cfg: Section, data: DataSet) -> None:
    """The data has classes, not numbers, as labels."""
    check_labelled(name, cfg, data)
    if data.classes is None:
        what = f"labels in {data.label_unit}" if data.label_unit else "floating-point labels"
        raise UserError(
            f"stage {name!r} needs class labels, but data set {data.name!r} has {what}: store them as integers "
            "(labels.astype('int64')) if they are classes, or take a set of classes"
        )


def check_continuous(name: str, cfg: Section, data: DataSet) -> None:
    """The data has numbers, not classes, as labels."""
    check_labelled(name, cfg, data)
    if data.label_range is None:
        raise UserError(
            f"stage {name!r} needs numbers as labels, but data set {data.name!r} has {data.classes} classes: store them as "
            "floating-point numbers (labels.astype('float32')) if they are numbers, or take a set of numbers, e.g. digits_angle"
        )


def check_labelled(name: str, cfg: Section, data: DataSet) -> None:
    """The data's labels are known."""
    if data.unlabelled:
        raise UserError(
            f"stage {name!r} needs labels, but data set {data.name!r} has none: add them (arrays `labels_train`, ..., or a "
            "folder per class)"
        )


class LargeBatch(UserError):
    """A batch of more images than there are to train on; a sweep collects those of all stages."""

    def __init__(self, knob: str, batch: int, data: DataSet) -> None:
        self.assignment = f"{knob} = {batch}"
        super().__init__(batches_sentence([self.assignment], data))


def batches_sentence(assignments: Collection[str], data: DataSet) -> str:
    """What is wrong with such batches, "teacher.batch = 500", and what to do."""
    many = len(assignments) > 1
    return (
        f"knob{'s' * many} {', '.join(assignments)} {'are' if many else 'is'} more than the {len(data.train)} training images of "
        f"data set {data.name!r}: set {'them' if many else 'it'} to {len(data.train)} or less"
    )


def check_batch(name: str, cfg: Section, data: DataSet, **reads: Section) -> None:
    """A batch holds no more images than there are to train on, where something is trained."""
    batch: int = getattr(cfg, "batch")  # noqa: B009
    if batch > len(data.train) and not getattr(cfg, "checkpoint", None):
        raise LargeBatch(f"{name}.batch", batch, data)


def check_gan(name: str, cfg: GanConfig, data: DataSet) -> None:
    """The family of networks exists at the data's resolution."""
    check_classes(name, cfg, data)
    sizes = GAN_SIZES[cfg.network]
    if data.image_size not in sizes:
        raise UserError(
            f"{cfg.network} makes images of {', '.join(map(str, sizes))} px, but data set {data.name!r} has "
            f"{data.image_size} px; set data.image_size"
        )
    if cfg.hierarchical and not cfg.shared_dim:
        raise UserError(f"knob '{name}.hierarchical' needs an embedding shared by all layers: set {name}.shared_dim, e.g. 128")
    maps = [size for size in (8, 16, 32, 64, 128, 256) if size <= data.image_size]
    if wrong := [size for size in cfg.attention if size not in maps]:
        raise UserError(f"knob '{name}.attention' cannot have {wrong[0]}: at {data.image_size} px there are maps of {maps} px")
    check_ema(name, cfg)
    check_batch(name, cfg, data)


def check_ema(name: str, cfg: GanTrainingConfig) -> None:
    """The average of the generator begins before training ends."""
    if cfg.ema_start >= cfg.steps:
        raise UserError(
            f"knob '{name}.ema_start' cannot be {cfg.ema_start}: it must be below {name}.steps = {cfg.steps}; "
            f"set --set {name}.ema_start={cfg.steps // 4}, or more steps"
        )


def check_quality(name: str, cfg: QualityConfig, data: DataSet) -> None:
    """The labels are of the section's kind, the further extractor can be had, and its file of weights fits."""
    if isinstance(cfg, ContinuousQualityConfig):
        check_continuous(name, cfg, data)
        check_windows(name, cfg, data)
    else:
        check_classes(name, cfg, data)
    if cfg.extractor:
        from gankd.metrics.extractors import from_weights

        if matched := from_weights(cfg.extractor, cfg.weights).matched:
            logging.getLogger(__name__).warning("%s.weights %s: %s", name, cfg.weights, matched)


def check_windows(name: str, cfg: ContinuousQualityConfig, data: DataSet) -> None:
    """A window of labels is no wider than their range."""
    assert data.label_range is not None
    low, high = data.label_range
    widest = (high - low) / 2
    if cfg.window_radius is not None and cfg.window_radius > widest:
        unit = f" {data.label_unit}" if data.label_unit else ""
        raise UserError(
            f"knob '{name}.window_radius' cannot be {cfg.window_radius:g}: the labels of data set {data.name!r} go from {low:g} "
            f"to {high:g}{unit}, so it is at most {widest:g}"
        )
