"""RGAL's alternation with a quantized copy of the teacher as the student.

Synthesis is RGAL's as it stands: its student is the quantized network Q, in the adversarial and in the relation term. Training is
Loss_Q = ce CE(Q(x), y) + kd T^2 KL(F(x) || Q(x)) + cd L_cd + striplet L_stu.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.context import Context
from gankd.data import DataSet
from gankd.engine import autocast, update
from gankd.stages.schedule import cosine
from methods.rgal import losses
from methods.rgal.alternation import Alternation, Phase
from methods.rgal.config import SynthesisConfig
from methods.rgal.distillation import Distillation
from methods.rgal.pool import Pool
from methods.rgal_quantization.config import QuantizedConfig
from methods.rgal_quantization.networks import QuantizedClassifier, following


class QuantizedDistillation(Distillation):
    """SGD on the quantized network. Its blocks are as wide as the teacher's: the adapters change nothing and learn nothing."""

    cfg: QuantizedConfig

    def labels(self, pool: Pool, index: int) -> Tensor:
        """The labels that the images of this worker's batch number `index` were made for, once per view."""
        chosen = pool.walk(self.ctx, index * self.cfg.batch, self.cfg.batch)[self.rows]
        return pool.labels[chosen].repeat(2 if self.cfg.paired else 1)

    def learn(self, images: Tensor, labels: Tensor, round_index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """One update on images in [-1, 1] and their labels."""
        cfg, images = self.cfg, images.contiguous(memory_format=torch.channels_last)
        with autocast(self.ctx.device, cfg.precision):
            with torch.no_grad():
                teacher = self.teacher.outputs(images)
            student = self.student.outputs(images)
        terms = {
            "loss_ce": F.cross_entropy(student[0].float(), labels),
            "loss_kd": losses.distillation_loss(student[0], teacher[0], cfg.T),
        }
        weights = {"loss_ce": cfg.ce, "loss_kd": cfg.kd, "loss_cd": cfg.cd, "loss_gram": cfg.gram, "loss_striplet": cfg.striplet}
        if round_index < cfg.custom_share * cfg.rounds:
            terms |= self.further_terms(teacher, student, rng, None)
        total = torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum()
        lr = cfg.lr * cosine(round_index, cfg.rounds)
        update(self.ctx, total, self.optimizer, self.student, lr=lr)
        return {name: term.detach() for name, term in terms.items()} | {"loss_distillation": total.detach()}


class QuantizedAlternation(Alternation):
    """RGAL's rounds on `start`, a quantized and calibrated copy of the teacher."""

    cfg: QuantizedConfig
    distillation: QuantizedDistillation

    def __init__(
        self,
        ctx: Context,
        cfg: QuantizedConfig,
        data: DataSet,
        teacher: Any,
        synthesis: SynthesisConfig,
        start: QuantizedClassifier,
    ) -> None:
        self.start = start
        super().__init__(ctx, cfg, data, teacher, synthesis)

    def new_student(self, data: DataSet) -> QuantizedClassifier:
        return self.start

    def new_adapters(self, image: Tensor) -> nn.ModuleList:
        """None are needed: the blocks are of one width."""
        return nn.ModuleList(nn.Identity() for _ in self.student.outputs(image)[2])

    def new_distillation(self, adapters: nn.ModuleList, relate: bool) -> QuantizedDistillation:
        return QuantizedDistillation(self.ctx, self.cfg, self.teacher, self.student, adapters, relate)

    def distil(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min over Q; in the first rounds the ranges of its activations follow the images."""
        self.student.train().requires_grad_(True)
        number = self.batch_number(phase, index)
        images, labels = self.distillation.batch(self.pool, number, rng), self.distillation.labels(self.pool, number)
        momentum = self.cfg.range_momentum if phase.round < self.cfg.range_rounds else None
        with following(self.student, momentum):
            return self.distillation.learn(images, labels, phase.round, rng)
