"""One step of distillation: the student learns the teacher's answers on views of the pool's images.

total = L_kd + cd L_cd + gram L_gram + striplet L_stu
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.data.augment import normalise
from gankd.data.views import flip_and_crop, viewed
from gankd.engine import autocast, update
from gankd.errors import UserError
from gankd.models.classifier import global_pool
from gankd.stages.schedule import cosine
from methods.rgal import losses
from methods.rgal.config import RoundsConfig
from methods.rgal.pool import Pool
from methods.rgal.relations import DISTANCE_WEIGHTED, draw_negatives, negative_probabilities, triplet_loss


def build_adapters(teacher: Any, student: Any, image: Tensor) -> nn.ModuleList:
    """A 1 x 1 convolution from each block of the student to the width of the teacher's; freshly initialised.

    Blocks are paired in order, as many as both have. `image` (1, C, H, W) shows the widths; in eval mode, so that no
    running statistic is touched.
    """
    modes = teacher.training, student.training
    with torch.no_grad():
        theirs, ours = (network.eval().outputs(image)[2] for network in (teacher, student))
    for network, mode in zip((teacher, student), modes, strict=True):
        network.train(mode)
    return nn.ModuleList(nn.Conv2d(s.shape[1], t.shape[1], 1) for s, t in zip(ours, theirs, strict=False))


def check_gram(cfg: RoundsConfig, teacher: Any, student: Any, image: Tensor) -> None:
    """With a Gram term, paired blocks have maps of one size. Both networks are in eval mode."""
    if not cfg.gram:
        return
    with torch.no_grad():
        sizes = [[maps.shape[2] for maps in network.outputs(image)[2]] for network in (teacher, student)]
    if any(t != s for t, s in zip(*sizes, strict=False)):
        raise UserError(
            f"knob 'student.gram' cannot be {cfg.gram}: it compares maps of equal size, but the teacher's blocks have "
            f"{sizes[0]} px and the student's {sizes[1]}; set it to 0"
        )


class Distillation:
    """SGD on the student and its adapters. `relate`: whether the batch is to be gathered by class (`striplet`)."""

    def __init__(
        self, ctx: Context, cfg: RoundsConfig, teacher: Any, student: Any, adapters: nn.ModuleList, relate: bool
    ) -> None:
        share = ctx.share(cfg.batch, "knob 'student.batch'")
        self.ctx, self.cfg, self.teacher, self.student, self.adapters = ctx, cfg, teacher, student, adapters
        self.relate = relate and cfg.striplet > 0
        self.rows = slice(ctx.rank * share, (ctx.rank + 1) * share)
        self.optimizer = torch.optim.SGD(
            [*student.parameters(), *adapters.parameters()],
            cfg.lr,
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
            nesterov=cfg.nesterov and cfg.momentum > 0,
            fused=True,
        )

    def batch(self, pool: Pool, index: int, rng: torch.Generator) -> Tensor:
        """This worker's views of batch number `index` of a walk through the pool: all first ones, then (paired) all second."""
        cfg = self.cfg
        chosen = pool.walk(self.ctx, index * cfg.batch, cfg.batch)[self.rows]
        images, view = pool.images[chosen], flip_and_crop(cfg.flip, cfg.crop_padding)
        times = 2 if cfg.paired else 1
        return torch.cat([normalise(viewed(view, images, rng, self.rows, cfg.batch)) for _ in range(times)])

    def step(self, images: Tensor, round_index: int, rng: torch.Generator, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """One update on images in [-1, 1]. `negatives` (N, N) take the place of drawn ones."""
        cfg = self.cfg
        images = images.contiguous(memory_format=torch.channels_last)
        with autocast(self.ctx.device, cfg.precision):
            with torch.no_grad():
                teacher = self.teacher.outputs(images)
            student = self.student.outputs(images)
        terms = {"loss_kd": losses.distillation_loss(student[0], teacher[0], cfg.T)}
        weights = {"loss_kd": 1.0, "loss_cd": cfg.cd, "loss_gram": cfg.gram, "loss_striplet": cfg.striplet}
        if round_index < cfg.custom_share * cfg.rounds:
            terms |= self.further_terms(teacher, student, rng, negatives)
        total = torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum()
        lr = cfg.lr * cosine(round_index, cfg.rounds)
        update(self.ctx, total, self.optimizer, self.student, self.adapters, lr=lr)
        return {name: term.detach() for name, term in terms.items()} | {"loss_distillation": total.detach()}

    def further_terms(self, teacher: Any, student: Any, rng: torch.Generator, negatives: Tensor | None) -> dict[str, Tensor]:
        """L_cd, L_gram and L_stu, those with a weight."""
        cfg, terms = self.cfg, {}
        pairs = list(zip(self.adapters, student[2], teacher[2], strict=False))
        if cfg.cd:
            # A 1 x 1 convolution of the mean is the mean of the 1 x 1 convolution, at a fraction of the work.
            pooled = [adapt(s.float().mean((2, 3), keepdim=True)).flatten(1) for adapt, s, _ in pairs]
            terms["loss_cd"] = losses.pooled_difference(pooled, [global_pool(t.float()) for _, _, t in pairs])
        if cfg.gram:
            adapted = [adapt(s.float()) for adapt, s, _ in pairs]
            terms["loss_gram"] = losses.gram_loss(adapted, [t for _, _, t in pairs])
        if self.relate:
            labels = teacher[0].argmax(1)
            if negatives is None:
                sampling = student[0] if cfg.striplet_sampling == "student" else teacher[0]
                negatives = draw_negatives(negative_probabilities(sampling.detach(), labels, DISTANCE_WEIGHTED), rng)
            related = triplet_loss(self.related(student), labels, negatives, direction="standard", margin=cfg.margin)
            terms |= {"loss_striplet": related.loss, "striplet_triplets": related.triplets}
        return terms

    def related(self, student: Any) -> list[Tensor]:
        """The student's tensors whose triplets are gathered."""
        logits, features, blocks = student
        chosen = {
            "features": blocks[self.cfg.start_layer : self.cfg.end_layer],
            "global": [features],
            "logits": [logits],
        }
        return [tensor for name in dict.fromkeys(self.cfg.striplet_feature) for tensor in chosen[name]]
