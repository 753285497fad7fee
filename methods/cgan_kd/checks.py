"""What can be known to be wrong before anything trains."""

from __future__ import annotations

from gankd.data import DataSet
from gankd.stages.checks import check_batch, check_classes
from gankd.stages.sections import ClassifierConfig
from methods.cgan_kd.config import StudentConfig


def check_student(name: str, cfg: StudentConfig, data: DataSet, baseline: ClassifierConfig, teacher: ClassifierConfig) -> None:
    """The batch fits, and the maps of student and teacher match where the KD loss compares them."""
    check_batch(name, cfg, data)
    if cfg.kd == "none":
        return
    check_classes(name, cfg, data)
    if cfg.kd == "takd":  # compares no maps, and whose answers they are is the assistant's check
        return

    import torch

    from gankd.stages.classifier import build_classifier
    from methods.cgan_kd.kd.distiller import check_maps
    from methods.cgan_kd.kd.seen import see

    with torch.device("meta"), torch.no_grad():  # shapes alone: nothing is computed
        images = torch.empty(2, data.image_channels, data.image_size, data.image_size)
        student, taught_by = (see(build_classifier(part, data).eval(), images) for part in (baseline, teacher))
    check_maps(cfg.kd, student, taught_by)
