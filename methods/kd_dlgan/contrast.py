"""The offline teacher's training: images and class prompts, brought together by contrast (Radford et al. 2021)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.context import Context
from gankd.data import DataSet, Split
from gankd.data.augment import Resident
from gankd.engine import Algorithm, autocast, evaluating, update
from gankd.models import diffaugment
from methods.kd_dlgan.config import TEMPLATES, UNSEEN, TeacherConfig
from methods.kd_dlgan.prompts import filled
from methods.kd_dlgan.teachers import Teacher

BATCH = 500  # images measured at a time


def contrastive_loss(images: Tensor, text: Tensor, labels: Tensor, scale: Tensor) -> Tensor:
    """Mean of image -> text and text -> image, a scalar >= 0.

    images: (B, M), text: (C, M) of the C classes, labels: (B,). Image -> text is the cross-entropy over the C prompts; text ->
    image is, for each class that the batch has, minus the mean log-probability of its images among all.
    """
    similarity = scale * F.normalize(images.float(), dim=1) @ F.normalize(text.float(), dim=1).t()
    one_hot = F.one_hot(labels, len(text)).to(similarity.dtype)
    counts = one_hot.sum(0)
    of_class = (similarity.log_softmax(0) * one_hot).sum(0) / counts.clamp_min(1)
    present = (counts > 0).to(similarity.dtype)
    return (F.cross_entropy(similarity, labels) - (of_class * present).sum() / present.sum()) / 2


class ContrastiveTraining(Algorithm):
    """AdamW on random templates of all class prompts. Contrast is among all images of a batch, so every worker has it whole."""

    def __init__(self, ctx: Context, cfg: TeacherConfig, data: DataSet, teacher: Any) -> None:
        self.ctx, self.cfg, self.teacher, self.names = ctx, cfg, teacher.to(ctx.device), data.class_names
        self.real, self.validation = Resident(data.train, ctx.device, flip=cfg.flip), data.val
        self.modules = {"teacher": teacher}
        self.optimizers = {"teacher": torch.optim.AdamW(teacher.parameters(), cfg.lr, weight_decay=cfg.weight_decay)}
        self.best: dict[str, Any] = {"metrics": {}, "weights": {}}

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        self.teacher.train()
        images, labels = self.real.batch(self.cfg.batch, rng)
        height, width = images.shape[2:]
        images = diffaugment.apply(images, diffaugment.draw(self.cfg.batch, height, width, self.cfg.diffaugment, rng))
        template = TEMPLATES[self.ctx.seed_for(step, "template") % len(TEMPLATES)]
        with autocast(self.ctx.device, self.cfg.precision):
            features = self.teacher.embed_image(self.teacher.prepared(images))
            text = self.teacher.embed_text(filled(template, self.names))
        loss = contrastive_loss(features, text, labels, self.teacher.scale)
        update(self.ctx, loss, self.optimizers["teacher"], self.teacher)
        return {"loss": loss.detach(), "scale": self.teacher.scale.detach()}

    def evaluate(self, step: int) -> dict[str, float]:
        metrics = zero_shot(self.teacher, self.validation, self.names)
        if metrics["val_accuracy"] > self.best["metrics"].get("val_accuracy", -1.0):
            self.best = {"metrics": metrics, "weights": copy.deepcopy(self.teacher.state_dict())}
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best = dict(state["best"])


def zero_shot(teacher: Teacher, part: Split, class_names: Sequence[str]) -> dict[str, float]:
    """Accuracy in percent by the nearest prompt, in a sentence seen in training and in one not seen; the mean cosine of two
    prompts, and the mean norm of an image's features."""
    device = next(teacher.buffers(), next(teacher.parameters(), torch.empty(0))).device
    right, norms = {"val_accuracy": 0, "val_accuracy_unseen": 0}, 0.0
    with evaluating(teacher):
        text = {
            name: F.normalize(teacher.encode_text(filled(template, class_names)), dim=1)
            for name, template in zip(right, (TEMPLATES[0], UNSEEN), strict=True)
        }
        for images, labels in Resident(part, device).in_order(BATCH):
            features = teacher.encode_image(images)
            norms += float(features.norm(dim=1).sum())
            for name, prompts in text.items():
                right[name] += int(((features @ prompts.t()).argmax(1) == labels).sum())
    prompts = text["val_accuracy"]
    count = len(prompts)
    cosine = float((prompts @ prompts.t()).sum() - count) / max(count * (count - 1), 1)
    accuracy = {name: 100 * number / len(part) for name, number in right.items()}
    return accuracy | {"prompt_cosine": cosine, "feature_norm": norms / len(part)}
