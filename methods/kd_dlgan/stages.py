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
from gankd.data import DataSet
from gankd.data.augment import Resident
from gankd.engine import train
from gankd.stages.gan import RealBatch
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


def train_teacher(ctx: Context, cfg: TeacherConfig, data: DataSet) -> dict[str, float]:
    """The image-text teacher. Makes a saved network, and teacher.json: what it is, in words, and how good."""
    teacher = build_teacher(ctx, cfg, data)
    if cfg.kind == "offline":
        training = ContrastiveTraining(ctx, cfg, data, teacher)
        train(ctx, training, steps=cfg.steps, batch=cfg.batch, evaluate_every=-(-cfg.steps // cfg.evaluations))
        teacher.load_state_dict(training.best["weights"])
    ctx.note(f"teacher: {in_words(cfg, data)}")
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
    """What the teacher says of the prompts and, where that is used, of the clean real images.

    Makes embeddings.safetensors: text (K, M), centre (M,), and, where the teacher sees clean images, images (R, M) in fp16: all
    training images and, where the GAN is shown mirrored ones, all of them mirrored behind these.
    """
    network = load_teacher(teacher, ctx.device, form(cfg, "preprocess"), form(cfg, "resize"))
    tensors, clean, rows = {"text": text_features(network, cfg, data.class_names)}, form(cfg, "sees") == "clean", 0
    tensors["centre"] = torch.zeros_like(tensors["text"][0])
    if clean or form(cfg, "centred"):
        real, table = Resident(data.train, ctx.device), []
        for mirrored in (False, True) if gan.flip else (False,):
            table += [network.encode_image(batch.flip(3) if mirrored else batch) for batch, _ in real.in_order(BATCH)]
        features = torch.cat(table)
        tensors["centre"], rows = features.mean(0), len(features)
        tensors |= {"images": features.half()} if clean else {}
    save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, ctx.out / EMBEDDINGS)
    return {"images": float(rows), "prompts": float(len(tensors["text"]))}


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
        ctx, cfg, cfg.g_lr, generator, discriminator, data.train, kind=KdTraining, joined={"discriminator": {"kd_head": head}}
    )
    training.real_batch = numbered(Resident(data.train, ctx.device), cfg.flip, ctx)
    training.distil(kd, network, knowledge, head)
    distilled: KdTraining = training
    return distilled


def numbered(real: Resident, flip: bool, ctx: Context) -> RealBatch:
    """Real images with their rows in the table of embeddings in place of labels: n images, and as many mirrored if asked for."""

    def draw(n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(real) * (1 + flip), (n,), generator=rng, device=rng.device)
        images, _ = real.take(index % len(real), None, ctx.rank, ctx.world_size)
        rows = index.chunk(ctx.world_size)[ctx.rank].to(images.device)
        mirrored = (rows >= len(real))[:, None, None, None]
        return torch.where(mirrored, images.flip(3), images), rows

    return draw


def kd_head(ctx: Context, cfg: GanConfig, kd: KdConfig, discriminator: Any, embed_dim: int) -> KdHead:
    """The head on the discriminator's features, drawn apart from the networks."""
    width = discriminator.linear.in_features
    return KdHead(width, kd.head_width, embed_dim, sn_eps=cfg.sn_eps, init=cfg.init, rng_seed=ctx.seed_for(0, "kd head"))


def read_knowledge(embeddings: Artifact, data: DataSet, device: torch.device) -> Knowledge:
    """What `embed_data` made."""
    tensors = {name: tensor.to(device) for name, tensor in load_file(embeddings.file(EMBEDDINGS)).items()}
    labels: Tensor = torch.tensor(np.asarray(data.train.labels), device=device)
    return Knowledge(tensors["text"], tensors.get("images"), tensors["centre"], labels)
