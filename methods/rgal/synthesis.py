"""One round of synthesis: a generator and its latents are trained until the teacher takes their images for real ones.

total = bn L_bn + oh L_oh + adv L_adv + triplet L_rel (+ balance, act; + cr L_cr in CMI)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gankd.context import Context
from gankd.data.augment import to_uint8
from gankd.data.views import viewed
from gankd.engine import autocast, update
from methods.rgal import losses
from methods.rgal.config import SynthesisConfig
from methods.rgal.contrast import Contrast, batch_norms, instance_features, instance_layers, width_of_input
from methods.rgal.networks import InversionGenerator
from methods.rgal.relations import (
    DISTANCE_WEIGHTED,
    Direction,
    Relation,
    Sampler,
    draw_negatives,
    negative_probabilities,
    triplet_loss,
)
from methods.rgal.views import global_view, local_view


class Inversion(nn.Module):
    """All that a round trains and keeps: generator, latents and labels of the global batch, and the best images so far."""

    labels: Tensor
    images: Tensor
    score: Tensor

    def __init__(self, cfg: SynthesisConfig, channels: int, size: int) -> None:
        super().__init__()
        self.generator = InversionGenerator(cfg.nz, cfg.ngf, size, channels)
        self.z = nn.Parameter(torch.zeros(cfg.batch, cfg.nz))
        self.register_buffer("labels", torch.zeros(cfg.batch, dtype=torch.int64))
        self.register_buffer("images", torch.zeros(cfg.batch, channels, size, size, dtype=torch.uint8))
        self.register_buffer("score", torch.tensor(torch.inf))


def draw_labels(cfg: SynthesisConfig, classes: int, rng: torch.Generator) -> Tensor:
    """The labels of a round, (batch,), sorted: independent, equally many of each class, or groups of one class.

    `balanced` gives the classes that are left over to a random choice of them; so does `grouped` with its groups.
    """
    if cfg.targets == "iid":
        return torch.randint(classes, (cfg.batch,), generator=rng, device=rng.device).sort().values
    group = cfg.group if cfg.targets == "grouped" else 1
    turns = -(-cfg.batch // (group * classes))
    order = torch.cat([torch.randperm(classes, generator=rng, device=rng.device) for _ in range(turns)])
    return order.repeat_interleave(group)[: cfg.batch].sort().values


@contextlib.contextmanager
def input_tap(layers: Iterable[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collects (layer, what it is given) of different layers of a network while it lasts, in the order they run."""
    seen: list[tuple[nn.Module, Tensor]] = []

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen.append((layer, inputs[0]))

    handles = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class Synthesis:
    """The steps of a round. `teacher` and `student` are frozen and in eval mode while it steps."""

    def __init__(
        self, ctx: Context, cfg: SynthesisConfig, teacher: Any, student: Any, channels: int, size: int, classes: int
    ) -> None:
        share = ctx.share(cfg.batch, "knob 'synthesis.batch'")
        self.ctx, self.cfg, self.teacher, self.student = ctx, cfg, teacher, student
        self.classes = classes
        self.global_view, self.local_view = global_view(cfg.crop_padding, cfg.flip), local_view(cfg.flip)
        self.rows = slice(ctx.rank * share, (ctx.rank + 1) * share)
        self.inversion = Inversion(cfg, channels, size).to(ctx.device)
        self.inversion.generator.to(memory_format=torch.channels_last)
        groups: list[dict[str, Any]] = [
            {"params": list(self.inversion.generator.parameters()), "lr": cfg.lr_g},
            {"params": [self.inversion.z], "lr": cfg.lr_z},
        ]
        self.trained: list[nn.Module] = [self.inversion]
        self.norms, self.instance_layers = batch_norms(teacher), instance_layers(teacher) if cfg.cr else []
        self.contrast: Contrast | None = None
        if cfg.cr:
            dim = sum(map(width_of_input, self.instance_layers))
            self.contrast = Contrast(dim, cfg.head, cfg.bank, cfg.batch).to(ctx.device)
            self.trained.append(self.contrast.head)
            groups.append({"params": list(self.contrast.head.parameters()), "lr": cfg.lr_g, "betas": (0.9, 0.999)})
        self.optimizer = torch.optim.Adam(groups, betas=(cfg.beta1, cfg.beta2), fused=True)
        self.sampler = DISTANCE_WEIGHTED
        if cfg.sampler == "focal":
            self.sampler = Sampler(cfg.low, cfg.high, dimension_cap=cfg.dimension_cap)
        elif cfg.dimension_cap:
            self.sampler = Sampler(self.sampler.low, self.sampler.high, self.sampler.floor, cfg.dimension_cap)

    @property
    def modules(self) -> dict[str, nn.Module]:
        return {"inversion": self.inversion} | ({"contrast": self.contrast} if self.contrast else {})

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"inversion": self.optimizer}

    @torch.no_grad()
    def begin(self, rng: torch.Generator) -> None:
        """A new round: new labels and latents, a new generator (unless it is `warm`), no momentum, nothing kept."""
        inversion = self.inversion
        inversion.labels.copy_(draw_labels(self.cfg, self.classes, rng))
        inversion.z.normal_(generator=rng)
        if self.cfg.generator == "reset" or not self.optimizer.state:
            inversion.generator.reset(rng)
        for parameter in inversion.parameters():  # the contrast's head lives on, with its momentum
            for value in self.optimizer.state.get(parameter, {}).values():
                value.zero_()
        inversion.score.fill_(torch.inf)

    def step(self, rng: torch.Generator, negatives: Tensor | None = None) -> dict[str, Tensor]:
        """One step of Adam. `negatives` (N, N) take the place of drawn ones."""
        cfg, inversion = self.cfg, self.inversion
        with autocast(self.ctx.device, cfg.precision):
            images = inversion.generator(inversion.z[self.rows])
        terms, maps = self.terms(viewed(self.global_view, images, rng, self.rows, cfg.batch), rng, negatives)
        weights = {name: getattr(cfg, name) for name in ("bn", "oh", "adv", "triplet", "balance", "act", "cr")}
        features = None
        if self.contrast:
            terms["cr"], features = self.contrast_term(images, maps, rng)
        total = torch.stack([weights[name] * term for name, term in terms.items() if name in weights]).sum()
        prior = [weights[name] * terms[name] for name in ("bn", "oh") if name in terms]
        score = torch.stack(prior).sum() if prior and cfg.best == "prior" else total
        self.keep(images.detach(), features, score.detach())
        update(self.ctx, total, self.optimizer, *self.trained)
        return {f"loss_{name}" if name in weights else name: term.detach() for name, term in terms.items()} | {
            "loss_synthesis": total.detach()
        }

    def terms(self, view: Tensor, rng: torch.Generator, negatives: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The weighted terms by the name of their weight, further figures, and what flowed into the instance layers."""
        cfg, labels = self.cfg, self.inversion.labels[self.rows]
        view = view.contiguous(memory_format=torch.channels_last)
        needs_student = cfg.adv > 0 or (cfg.relates and cfg.triplet_target == "student")
        with autocast(self.ctx.device, cfg.precision), input_tap({*self.norms, *self.instance_layers}) as tapped:
            teacher = self.teacher.outputs(view)
            student = self.student.outputs(view) if needs_student else None
        terms: dict[str, Tensor] = {}
        if cfg.bn:
            norms = [(layer, m) for layer, m in tapped if isinstance(layer, nn.BatchNorm2d)]
            terms["bn"] = torch.stack([losses.statistics_loss(m, n.running_mean, n.running_var) for n, m in norms]).sum()  # type: ignore[arg-type]
        if cfg.oh:
            terms["oh"] = losses.one_hot_loss(teacher[0], labels)
        if cfg.adv and student:
            terms["adv"] = losses.adversarial_loss(student[0], teacher[0])
        if cfg.balance:
            terms["balance"] = losses.class_balance_loss(teacher[0])
        if cfg.act:
            terms["act"] = losses.activation_loss(teacher[1])
        if cfg.relates:
            related = self.relation(teacher, student if student and cfg.triplet_target == "student" else teacher, rng, negatives)
            terms |= {"triplet": related.loss, "same_class_distance": related.same, "negative_distance": related.different}
            terms["triplets"] = related.triplets
        return terms, [m for layer, m in tapped if layer in self.instance_layers]

    def relation(self, teacher: Any, target: Any, rng: torch.Generator, negatives: Tensor | None) -> Relation:
        """L_rel: labels and distances of the teacher, embeddings of the target."""
        cfg, (logits, features, _) = self.cfg, teacher
        labels = logits.argmax(1)
        if negatives is None:
            sampling = logits if cfg.sampling_space == "logits" else features
            negatives = draw_negatives(negative_probabilities(sampling, labels, self.sampler), rng)
        blocks = target[2][cfg.start_layer : cfg.end_layer]
        direction: Direction = "adversarial" if cfg.relation_mode == "adversarial" else "standard"
        return triplet_loss(blocks, labels, negatives, direction=direction, margin=cfg.margin)

    def contrast_term(self, images: Tensor, maps: list[Tensor], rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """L_cr of this batch, and its features [local, global] for the ring. The view of the other terms is the global one."""
        assert self.contrast is not None
        cfg = self.cfg
        view = viewed(self.local_view, images, rng, self.rows, cfg.batch).contiguous(memory_format=torch.channels_last)
        with autocast(self.ctx.device, cfg.precision), input_tap(self.instance_layers) as tapped:
            self.teacher(view)
        local, other = instance_features([m for _, m in tapped]), instance_features(maps)
        loss = self.contrast.loss(local, other, self.contrast.remembered(cfg.negatives, rng), cfg.cr_T)
        return loss, torch.cat([local, other], dim=1).detach()

    @torch.no_grad()
    def keep(self, images: Tensor, features: Tensor | None, score: Tensor) -> None:
        """Keep these images if their score is the lowest of the round so far (`last`: in any case). Decided on the device."""
        score = self.ctx.sum(score.float().clone()) / self.ctx.world_size  # a clone: the sum is made in place
        better = torch.ones_like(score, dtype=torch.bool) if self.cfg.best == "last" else score < self.inversion.score
        levels = self.gathered(to_uint8(images, truncate=self.cfg.reference_compat), self.inversion.images)
        self.inversion.images.copy_(torch.where(better, levels, self.inversion.images))
        self.inversion.score.copy_(torch.where(better, score, self.inversion.score))
        if self.contrast is not None and features is not None:
            rows = self.gathered(features.half(), self.contrast.kept)
            self.contrast.kept.copy_(torch.where(better, rows, self.contrast.kept))

    def gathered(self, mine: Tensor, like: Tensor) -> Tensor:
        """The rows of all workers, on every worker: each adds its own to zeros."""
        if self.ctx.world_size == 1:
            return mine
        rows = torch.zeros_like(like)
        rows[self.rows] = mine
        return self.ctx.sum(rows)

    def finish(self) -> tuple[Tensor, Tensor]:
        """The images of the round, uint8, and the labels they were made for."""
        if self.contrast is not None:
            self.contrast.remember_kept()
        return self.inversion.images, self.inversion.labels
