"""KD-DLGAN's terms in the loss of the GAN: AGKD and CGKD train the discriminator through a head on its features; PD, where it
has a gradient, trains the generator through the frozen teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.models.spectral_norm import SNLinear, initialise
from gankd.stages.gan_batch import Batch, Seen
from gankd.stages.generator import EvaluatedTraining
from methods.kd_dlgan.config import KdConfig, form
from methods.kd_dlgan.losses import (
    aggregated_distances,
    pairwise_similarity,
    pattern_distance,
    permuted_differences,
    similarity_pattern,
)
from methods.kd_dlgan.teachers import Teacher


class KdHead(nn.Sequential):
    """F = W2 (W1 h + b1) + b2 on the discriminator's features h (B, width): (B, embed_dim). Spectrally normalised, no
    non-linearity in between. Drawn by `rng_seed`, so that the networks it joins are drawn as without it."""

    def __init__(self, width: int, hidden: int, embed_dim: int, *, sn_eps: float, init: str, rng_seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng_seed)
            super().__init__(SNLinear(width, hidden, eps=sn_eps), SNLinear(hidden, embed_dim, eps=sn_eps))
            initialise(self, init)


@dataclass(frozen=True)
class IndexedBatch(Batch):
    """Also which of the real images were drawn: rows of their table of embeddings, (m,)."""

    index: Tensor | None = None


@dataclass(frozen=True)
class Knowledge:
    """What the teacher says of what does not change.

    Attributes:
        text: features of the prompts, (K, M). real: of the real images, (R, M), None where it has to see them augmented.
        centre: mean feature of the real images, (M,). labels: class of each training image, (N,); row r is of image r mod N.
    """

    text: Tensor
    real: Tensor | None
    centre: Tensor
    labels: Tensor


class KdTraining(EvaluatedTraining):
    """A GAN whose discriminator also learns from a teacher. Its `real_batch` gives, in place of labels, rows of the table of
    embeddings; `distil` tells it the rest before the first step."""

    def distil(self, kd: KdConfig, teacher: Teacher, knowledge: Knowledge, head: KdHead) -> None:
        self.kd, self.teacher, self.knowledge, self.head = kd, teacher, knowledge, head
        self.discriminator_terms, self.generator_terms = self.distilled, self.diversified
        if self.ctx.world_size > 1 and kd.cgkd and form(kd, "normalisation") == "matrix":
            raise UserError("kd.normalisation = matrix divides by the norm of a whole batch, which several workers do not see")
        if form(kd, "pd") and (self.rows.stop - self.rows.start) < 2:
            raise UserError("kd.pd compares pairs of images, and a worker's part of a micro-batch is 1")
        self.pd = form(kd, "pd")
        centred = form(kd, "centred")
        self.centre = knowledge.centre if centred else torch.zeros_like(knowledge.centre)
        self.prompts = knowledge.text - knowledge.text.mean(0) if centred else knowledge.text

    def step(self, step: int, rng: torch.Generator) -> dict[str, Tensor]:
        # Draws of its own: what is drawn without a teacher stays as it is.
        self.gates, self.orders = self.ctx.rng(step, "kd gate", device="cpu"), self.ctx.rng(step, "kd order")
        return super().step(step, rng)

    def draw(self, step: int, rng: torch.Generator, *, reals: bool) -> Batch:
        batch = super().draw(step, rng, reals=reals)
        if batch.real_labels is None:
            return batch
        real_labels = self.knowledge.labels[batch.real_labels % len(self.knowledge.labels)]
        fake_labels = real_labels if form(self.kd, "pairing") == "class" else batch.fake_labels
        return IndexedBatch(**vars(replace(batch, fake_labels=fake_labels, real_labels=real_labels)), index=batch.real_labels)

    def distilled(self, seen: Seen) -> Mapping[str, Tensor]:
        """AGKD, CGKD, and PD where it stands in the discriminator's loss or is only logged."""
        kd = self.kd
        logged = self.pd if form(kd, "diversity_in") != "generator" else 0
        if not (kd.agkd or kd.cgkd or logged):
            return {}
        teacher_fake, teacher_real = self.taught(seen)
        losses: dict[str, Tensor] = {}
        student_fake = student_real = None
        if kd.agkd or kd.cgkd:
            assert seen.real_features is not None
            student_fake, student_real = self.head(torch.cat([seen.fake_features, seen.real_features]).float()).chunk(2)
        if kd.agkd and student_fake is not None and student_real is not None:
            found = aggregated_distances(teacher_real, teacher_fake, student_real, student_fake, form(kd, "distance"))
            losses["loss_agkd"] = kd.agkd * (found.distilled_real + found.distilled_fake)
            if self.uniform() <= form(kd, "aggregation"):
                losses["loss_agkd"] = losses["loss_agkd"] + kd.agkd * (found.aggregated_real + found.aggregated_fake)
        if kd.cgkd and student_fake is not None and student_real is not None:
            pairs = [(student_fake, teacher_fake)] + ([(student_real, teacher_real)] if form(kd, "patterns_of") == "both" else [])
            terms = [pattern_distance(self.pattern(a), self.pattern(b), form(kd, "reduction")) for a, b in pairs]
            # A sum over the batch is one over all workers, of which the gradients' average takes the mean.
            whole = self.ctx.world_size if form(kd, "reduction") == "sum" else 1
            losses["loss_cgkd"] = kd.cgkd * whole * torch.stack(terms).sum()
        if logged:
            pattern = self.pattern(teacher_fake)
            if form(kd, "diversity_in") == "nothing":
                losses["loss_pd"] = self.pd * permuted_differences(pattern, self.permutation(len(pattern)))
            else:
                losses["loss_pd"] = self.pd * pairwise_similarity(pattern, "sum")
        return losses

    def diversified(self, seen: Seen) -> Mapping[str, Tensor]:
        """PD in the generator's loss: its images' patterns shall differ; the gradient goes through the teacher."""
        if not self.pd or form(self.kd, "diversity_in") != "generator":
            return {}
        shown = seen.fakes if form(self.kd, "sees") == "clean" else seen.shown_fakes
        features = self.teacher.encode_image(shown, allow_input_grad=True)
        return {"loss_pd": self.pd * pairwise_similarity(self.pattern(features))}

    def taught(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """The teacher's features of the generated and of the real images, (B, M) each."""
        batch, table = seen.batch, self.knowledge.real
        if table is not None:
            assert isinstance(batch, IndexedBatch)
            assert batch.index is not None
            return self.teacher.encode_image(seen.fakes), table[batch.index].float()
        assert seen.shown_reals is not None
        fake, real = self.teacher.encode_image(torch.cat([seen.shown_fakes, seen.shown_reals])).chunk(2)
        return fake, real

    def pattern(self, features: Tensor) -> Tensor:
        return similarity_pattern(features - self.centre, self.prompts, form(self.kd, "normalisation"), self.kd.temperature)

    def permutation(self, n: int) -> Tensor:
        """A random order of n rows, on their device: nothing is waited for."""
        return torch.randperm(n, generator=self.orders, device=self.orders.device)

    def uniform(self) -> float:
        """u ~ U[0, 1)."""
        return float(torch.rand((), generator=self.gates))
