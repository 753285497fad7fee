"""What can be known to be wrong before anything trains. No torch, unless a CLIP has to be looked into."""

from __future__ import annotations

import logging
from typing import Any

from gankd.data import DataSet
from gankd.errors import UserError
from gankd.stages import checks
from gankd.stages.sections import GanConfig
from methods.kd_dlgan.config import CIFAR10, KdConfig, TeacherConfig, form


def check_teacher(name: str, cfg: TeacherConfig, data: DataSet) -> None:
    """The data has classes and enough images; a CLIP's file is one of that architecture."""
    checks.check_classes(name, cfg, data)
    if cfg.kind == "offline":
        checks.check_batch(name, cfg, data)
    if cfg.kind == "open_clip":
        from methods.kd_dlgan.clip_file import check_clip, load_clip
        from methods.kd_dlgan.teachers import ClipTeacher

        check_clip(cfg)
        matched = load_clip(ClipTeacher(cfg.architecture), cfg)
        logging.getLogger(__name__).warning("%s.weights %s: %s", name, cfg.weights, matched)


def check_prompts(name: str, cfg: KdConfig, data: DataSet, gan: Any) -> None:
    """There is a prompt for each class."""
    classes = data.classes or 0
    if cfg.prompt_list is not None and len(cfg.prompt_list) != classes:
        raise UserError(
            f"kd.prompt_list has {len(cfg.prompt_list)} prompts, and the data has {classes} classes: give one for each"
        )
    if cfg.prompt_list is None and form(cfg, "prompts") == "cifar10" and tuple(data.class_names) != CIFAR10:
        logging.getLogger(__name__).warning(
            "kd.prompts = cifar10 asks about %s for images of %s, as the released code does; set kd.prompts=class",
            ", ".join(CIFAR10[:3]) + ", ...", data.name,
        )  # fmt: skip


def check_gan(name: str, cfg: GanConfig, data: DataSet, kd: KdConfig) -> None:
    """As for any GAN; patterns of two images at least, where pairs of them are compared."""
    checks.check_gan(name, cfg, data)
    if form(kd, "pd") and cfg.batch // cfg.accumulations < 2:
        raise UserError(f"kd.pd compares pairs of images: {name}.batch / {name}.accumulations must be 2 or more")
