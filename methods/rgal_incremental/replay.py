"""A host that replays images made out of M_old, by RGAL's synthesis, and RGAL's relation terms on top of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gankd.context import Context
from gankd.data import DataSet
from gankd.data.augment import normalise
from gankd.data.views import flip_and_crop, viewed
from gankd.engine import autocast
from gankd.models.classifier import global_pool
from gankd.pictures import sample_grid
from methods.rgal.alternation import SHOWN
from methods.rgal.config import SynthesisConfig
from methods.rgal.losses import pooled_difference
from methods.rgal.pool import Pool
from methods.rgal.relations import DISTANCE_WEIGHTED, relation_loss
from methods.rgal.synthesis import Synthesis
from methods.rgal_incremental.config import StudentConfig
from methods.rgal_incremental.growing import OldAnswers, head
from methods.rgal_incremental.hosts import Step, Terms, abd, head_loss, rdfcil, weighted_sum
from methods.rgal_incremental.loop import Phase, TaskLoop, phases


class Replay(TaskLoop):
    """Synthesis against M_old and M_new, anew every `cfg.refresh` steps, and training on real new and synthetic old images.

    relate: with RGAL's terms on the synthetic images; those of synthesis are in `synthesis`.
    """

    def __init__(
        self, ctx: Context, cfg: StudentConfig, data: DataSet, first: Any, synthesis: SynthesisConfig, *, relate: bool
    ) -> None:
        self.making, self.relate = synthesis, relate
        self.view = flip_and_crop(cfg.flip, cfg.crop_padding)
        super().__init__(ctx, cfg, data, first, phases(cfg.task_count, cfg.task_steps, cfg.refresh, synthesis.g_steps))

    def begin(self, task: int) -> None:
        """With a new generator and an empty pool: what earlier models were asked for is gone."""
        super().begin(task)
        channels, size = self.data.image_channels, self.data.image_size
        rounds = -(-self.cfg.task_steps // self.cfg.refresh)
        self.pool = Pool(min(self.cfg.pool, rounds * self.making.batch), channels, size, self.ctx.device)
        student = OldAnswers(self.network, self.old_classes)
        self.synthesis = Synthesis(self.ctx, self.making, self.old, student, channels, size, self.old_classes)
        self.modules |= self.synthesis.modules | {"pool": self.pool}
        self.optimizers |= self.synthesis.optimizers

    def learn(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        return self.synthesise(phase, index, rng) if phase.kind == "synthesis" else self.train(phase, index, rng)

    def synthesise(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min over generator and latents: RGAL's bn L_bn + oh L_oh + adv L_adv + triplet L_rel; M_old teaches, M_new learns."""
        self.network.eval().requires_grad_(False)
        if index == 0:
            self.synthesis.begin(rng)
        metrics = self.synthesis.step(rng)
        if index + 1 == phase.steps:
            self.pool.append(*self.synthesis.finish())
        return metrics

    def train(self, phase: Phase, index: int, rng: torch.Generator) -> dict[str, Tensor]:
        """min over M_new: the host's losses, striplet L_stu + cd L_cd; at a task's end its last layer alone."""
        number = phase.done + index
        head_alone = number >= self.cfg.task_steps - self.cfg.head_steps
        self.network.train(not head_alone).requires_grad_(True)
        step = self.see(number, index, rng)
        terms: Terms = {"head": (1.0, head_loss(step, head(self.network)))} if head_alone else self.terms(step, rng)
        total = weighted_sum(terms)
        self.update(total, number, self.cfg.head_lr if head_alone else None)
        return {f"loss_{name}": value.detach() for name, (_, value) in terms.items()} | {"loss": total.detach()}

    def see(self, number: int, index: int, rng: torch.Generator) -> Step:
        """Real images of step `number` of the task, synthetic ones of step `index` since the last synthesis, and all answers."""
        cfg, ctx = self.cfg, self.ctx
        real, labels = self.images.epoch_batch(number, cfg.batch, rng, self.walk, ctx.rank, ctx.world_size)
        chosen = self.pool.walk(ctx, index * cfg.batch, cfg.batch)[self.rows]
        synthetic = normalise(viewed(self.view, self.pool.images[chosen], rng, self.rows, cfg.batch))
        images = torch.cat([real, synthetic]).contiguous(memory_format=torch.channels_last)
        with autocast(ctx.device, cfg.precision):
            with torch.no_grad():
                old = self.old.outputs(images)
            new = self.network.outputs(images)
        return Step(new, old, torch.cat([labels, old[0][len(real) :].argmax(1)]), len(real))

    def terms(self, step: Step, rng: torch.Generator) -> Terms:
        """The host's, and RGAL's that have a weight."""
        cfg = self.cfg
        terms = abd(cfg, step, head(self.network), head(self.old)) if cfg.host == "abd" else rdfcil(cfg, step)
        if self.relate and cfg.striplet:
            terms["striplet"] = cfg.striplet, self.relation(step, rng)
        if self.relate and cfg.cd:
            pooled = [[global_pool(maps[step.real :].float()) for maps in outputs[2]] for outputs in (step.new, step.old)]
            terms["cd"] = cfg.cd, pooled_difference(*pooled)
        return terms

    def relation(self, step: Step, rng: torch.Generator) -> Tensor:
        """L_stu: gathers what M_old takes for one class. A real image of a new class is a negative of all, and no one's pair."""
        alone = self.classes + torch.arange(step.real, device=step.labels.device)  # a label of its own each
        labels = torch.cat([alone, step.labels[step.real :]])
        sampling = step.new[0] if self.cfg.striplet_sampling == "student" else step.old[0]
        related = relation_loss(
            [step.new[1]], sampling.detach(), labels,
            direction="standard", sampler=DISTANCE_WEIGHTED, rng=rng, margin=self.cfg.margin,
        )  # fmt: skip
        return related.loss

    def show(self, clock: int) -> None:
        super().show(clock)
        images, labels = self.pool.newest(SHOWN)
        self.ctx.image("pool", sample_grid(normalise(images[labels.argsort(stable=True)]), columns=10), clock)
