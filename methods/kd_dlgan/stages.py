"""The stages of KD-DLGAN: the teacher, what it says of the data, the GAN that learns from it, and the same GAN that does not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gankd import models
from gankd.config import Selection
from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.stages.generator import build_gan, fit_gan, gan_training, train_generator
from gankd.stages.sections import GanConfig
from gankd.store.artifact import Artifact
from methods.kd_dlgan.clip_file import load_clip
from methods.kd_dlgan.config import KdConfig, TeacherConfig, form
from methods.kd_dlgan.contrast import BATCH, ContrastiveTraining, zero_shot
from methods.kd_dlgan.distillation import KdHead, KdTraining, Knowledge
from methods.kd_dlgan.prompts import text_features
from methods.kd_dlgan.teachers import Teacher, load_teacher

EMBEDDINGS, CARD = "embeddings.safetensors", "teacher.json"
OFFLINE_WIDTH = 64


def train_teacher(ctx: Context, cfg: TeacherConfig, data: DataSet, gan: Selection) -> dict[str, float]:
    """The image-text teacher. Makes a saved network, and teacher.json: what it is, in words, and how good."""
    teacher, weights = build_teacher(ctx, cfg, data), None
    if cfg.kind == "offline":
        training = ContrastiveTraining(ctx, cfg, data, teacher, gan.diffaugment, gan.flip)
        train(ctx, training, steps=cfg.steps, batch=cfg.batch, evaluate_every=-(-cfg.steps // cfg.evaluations))
        weights = training.best["weights"]
        teacher.load_state_dict(weights)
    metrics = zero_shot(teacher, data.val, data.class_names)
    models.save(teacher, ctx.out)
    card = {"teacher": in_words(cfg, data), "fingerprint": teacher.fingerprint(), "data": data.fingerprint, "seed": ctx.seed}
    (ctx.out / CARD).write_text(json.dumps(card | metrics, indent=1, sort_keys=True))
    return metrics | {"parameters": float(sum(p.numel() for p in teacher.parameters()))}


def build_teacher(ctx: Context, cfg: TeacherConfig, data: DataSet) -> Teacher:
    """The teacher before its training, on the context's device; a CLIP with the weights of its file."""
    if cfg.kind == "open_clip":
        teacher = models.build("clip_teacher", architecture=cfg.architecture)
        load_clip(teacher, cfg)
    elif cfg.kind == "mock":
        teacher = models.build(
            "mock_teacher",
            image_channels=data.image_channels,
            embed_dim=cfg.embed_dim or OFFLINE_WIDTH,
            input_size=cfg.input_size,
        )
    else:
        teacher = models.build(
            "offline_teacher",
            image_channels=data.image_channels,
            embed_dim=cfg.embed_dim or OFFLINE_WIDTH,
            input_size=cfg.input_size,
            widths=list(cfg.widths),
            buckets=cfg.buckets,
            text_width=cfg.text_width,
        )
    built: Teacher = teacher.to(ctx.device)
    return built


def in_words(cfg: TeacherConfig, data: DataSet) -> str:
    """What the teacher knows: no report may take one trained on the run's own images for CLIP."""
    if cfg.kind == "open_clip":
        return f"open_clip {cfg.architecture}, weights from a file"
    if cfg.kind == "mock":
        return "mock: a random projection, for tests only"
    return f"offline: trained on the same {len(data.train)} labelled images, not CLIP; no knowledge comes from elsewhere"


def embed_data(ctx: Context, cfg: KdConfig, data: DataSet, gan: Selection, teacher: Artifact) -> dict[str, float]:
    """What the teacher says of prompts and clean real images, mirrored ones too where the GAN is shown them.

    Makes embeddings.safetensors: text (K, M), centre (M,), and, where the teacher sees clean images, images (R, M) in fp16.
    """
    network = load_teacher(teacher, ctx.device, form(cfg, "preprocess"), form(cfg, "resize"))
    images = with_mirrored(data.train, gan.flip)
    batches = (network.encode_image(batch) for batch, _ in Resident(images, ctx.device).in_order(BATCH))
    table = torch.cat(list(batches))
    tensors = {"text": text_features(network, cfg, data.class_names), "centre": table.mean(0)}
    if form(cfg, "sees") == "clean":
        tensors["images"] = table.half()
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, ctx.out / EMBEDDINGS)
    return {"images": float(len(images)), "prompts": float(len(tensors["text"]))}


def with_mirrored(images: Split, flip: bool) -> Split:
    """The images, and behind them, if asked for, all of them mirrored left to right; labels are row numbers."""
    pixels = np.asarray(images.images)
    both = np.concatenate([pixels, pixels[..., ::-1]]) if flip else pixels
    return Split(both, np.arange(len(both)))


def train_gan(
    ctx: Context, cfg: GanConfig, data: DataSet, kd: KdConfig,
    teacher: Artifact, embeddings: Artifact, feature_classifier: Artifact,
) -> dict[str, float]:  # fmt: skip
    """The GAN whose discriminator learns from the teacher too. Makes its averaged generator."""
    if not kd.active:
        return train_generator(ctx, cfg, data, feature_classifier)
    training = distilling(ctx, cfg, kd, data, teacher, embeddings)
    return fit_gan(ctx, training, feature_classifier, data.val)


def distilling(ctx: Context, cfg: GanConfig, kd: KdConfig, data: DataSet, teacher: Artifact, embeddings: Artifact) -> KdTraining:
    """The training of `train_gan`, before its first step."""
    generator, discriminator = build_gan(cfg, data)  # before the teacher: drawn as without one
    network = load_teacher(teacher, ctx.device, form(kd, "preprocess"), form(kd, "resize"))
    knowledge = read_knowledge(embeddings, data, ctx.device)
    head = kd_head(ctx, cfg, kd, discriminator, network.embed_dim)
    training: Any = gan_training(
        ctx, cfg.model_copy(update={"flip": False}), cfg.g_lr, generator, discriminator, with_mirrored(data.train, cfg.flip),
        kind=KdTraining, joined={"discriminator": {"kd_head": head}},
    )  # fmt: skip
    training.distil(kd, network, knowledge, head)
    made: KdTraining = training
    return made


def kd_head(ctx: Context, cfg: GanConfig, kd: KdConfig, discriminator: Any, embed_dim: int) -> KdHead:
    """The head on the discriminator's features, drawn apart from the networks."""
    width = discriminator.linear.in_features
    return KdHead(width, kd.head_width, embed_dim, sn_eps=cfg.sn_eps, init=cfg.init, rng_seed=ctx.seed_for(0, "kd head"))


def read_knowledge(embeddings: Artifact, data: DataSet, device: torch.device) -> Knowledge:
    """What `embed_data` made."""
    tensors = {name: tensor.to(device) for name, tensor in load_file(embeddings.file(EMBEDDINGS)).items()}
    rows = int(embeddings.metrics["images"])
    labels: Tensor = torch.tensor(np.asarray(data.train.labels), device=device)
    return Knowledge(tensors["text"], tensors.get("images"), tensors["centre"], labels.repeat(rows // len(labels)))
