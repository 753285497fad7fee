"""A CLIP's weights out of the user's file: nothing is downloaded, nothing in the file is run."""

from __future__ import annotations

from typing import Any

from gankd.errors import UserError
from gankd.models.classifier_import import load_checkpoint
from methods.kd_dlgan.config import TeacherConfig
from methods.kd_dlgan.teachers import clip_config

SIZES = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI's files hold among the weights


def check_clip(cfg: TeacherConfig) -> dict[str, Any]:
    """open_clip's config of the architecture, once the other knobs go with it. Raises UserError."""
    config = clip_config(cfg.architecture)
    if cfg.embed_dim and cfg.embed_dim != config["embed_dim"]:
        raise UserError(
            f"teacher.embed_dim is {cfg.embed_dim}, but {cfg.architecture} has {config['embed_dim']}: set it to 0, or to that"
        )
    if bool(config.get("quick_gelu")) != cfg.quick_gelu:
        has = "QuickGELU" if config.get("quick_gelu") else "no QuickGELU"
        raise UserError(
            f"{cfg.architecture} has {has}, and teacher.quick_gelu is {str(cfg.quick_gelu).lower()}: OpenAI's weights were "
            "trained with it and go with an architecture that ends in -quickgelu; set teacher.architecture or teacher.quick_gelu"
        )
    return config


def load_clip(teacher: Any, cfg: TeacherConfig) -> str:
    """Put the file's weights into the teacher; how they matched, in words. Raises UserError for those of another network."""
    check_clip(cfg)
    assert cfg.weights is not None
    return str(load_checkpoint(teacher.clip, cfg.weights, without=SIZES))
