"""CRD: the student's embedding of an image is to find the teacher's of the same image among those of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.context import Context
from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen

TEMPERATURE, MOMENTUM, EPS = 0.07, 0.5, 1e-7


def noise_contrast(scores: Tensor, n_data: int) -> Tensor:
    """NCE over scores (N, 1 + K), the positive first: -log D of the positive - sum log(1 - D) of the K others, mean over N."""
    noise = (scores.shape[1] - 1) / n_data
    positive, negatives = scores[:, :1], scores[:, 1:]
    log_d1 = torch.log(positive / (positive + noise + EPS))
    log_d0 = torch.log(noise / (negatives + noise + EPS))
    return -(log_d1.sum() + log_d0.sum()) / len(scores)


class Memory(nn.Module):
    """The latest unit embeddings (n_data, width) of all images by one network, and the constant Z of the scores against them."""

    rows: Tensor
    z: Tensor

    def __init__(self, n_data: int, width: int) -> None:
        super().__init__()
        bound = (width / 3) ** -0.5
        self.register_buffer("rows", torch.empty(n_data, width).uniform_(-bound, bound))
        self.register_buffer("z", torch.tensor(-1.0))

    def scores(self, embedding: Tensor, index: Tensor, ctx: Context | None = None) -> Tensor:
        """exp(<row, v> / tau) / Z for the rows at `index` (N, 1 + K) and embeddings v (N, width).

        Z is fixed by the first batch: n_data times the mean.
        """
        raw = torch.exp((embedding @ self.rows.T).gather(1, index) / TEMPERATURE)  # the rows themselves would be K times as many
        with torch.no_grad():
            mean = raw.mean().reshape(1)
            if ctx is not None and ctx.world_size > 1:
                mean = ctx.sum(mean) / ctx.world_size
            self.z.copy_(torch.where(self.z < 0, mean[0] * len(self.rows), self.z))
        return raw / self.z

    @torch.no_grad()
    def update(self, embedding: Tensor, index: Tensor) -> None:
        """Moving average of the rows at `index` (N,), each back to length 1."""
        mixed = MOMENTUM * self.rows[index] + (1 - MOMENTUM) * embedding
        self.rows[index] = mixed / mixed.norm(dim=1, keepdim=True)


class OtherClasses:
    """Draws images of other classes than given ones, uniformly and with replacement."""

    def __init__(self, labels: Tensor) -> None:
        self.labels, self.order = labels, labels.argsort(stable=True)
        self.counts = labels.bincount()
        self.starts = self.counts.cumsum(0) - self.counts

    def draw(self, index: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """For each image at `index` (N,) `count` of other classes: (N, count)."""
        own = self.labels[index]
        start, size = self.starts[own, None], self.counts[own, None]
        uniform = torch.rand(len(index), count, generator=rng, device=rng.device, dtype=torch.float64).to(index.device)
        place = (uniform * (len(self.labels) - size)).long()
        return self.order[torch.where(place < start, place, place + size)]  # the own class's block is skipped


class Contrastive(KdLoss):
    """CRD (Tian, Krishnan, Isola 2020): NCE both ways between unit embeddings, against memories of all training images.

    Each network's embedding is scored against the memory of the other. Negatives are of other classes; the label of a fake is
    the processed one. Every worker's memories see the whole batch.
    """

    def __init__(self, student: Seen, teacher: Seen, width: int, labels: Tensor, negatives: int, ctx: Context) -> None:
        super().__init__()
        self.embed_student = nn.Linear(student.features.shape[1], width)
        self.embed_teacher = nn.Linear(teacher.features.shape[1], width)
        self.memory_student, self.memory_teacher = Memory(len(labels), width), Memory(len(labels), width)
        self.fresh: list[tuple[Tensor, Tensor]] = []
        self.others, self.ctx, self.negatives = OtherClasses(labels), ctx, min(negatives, len(labels))

    def settle(self) -> None:
        for memory, (embedding, index) in zip((self.memory_student, self.memory_teacher), self.fresh, strict=True):
            memory.update(embedding, index)
        self.fresh.clear()

    def trained(self) -> Sequence[nn.Module]:
        return [self.embed_student, self.embed_teacher]

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        rank, n = self.ctx.rank, len(student.features)
        others = self.others.draw(drawn.index, self.negatives, drawn.rng)
        mine = slice(rank * n, (rank + 1) * n)
        index = torch.cat([drawn.index[:, None], others], 1)[mine]
        v_s = F.normalize(self.embed_student(student.features), dim=1)
        v_t = F.normalize(self.embed_teacher(teacher.features), dim=1)
        scores_t = self.memory_student.scores(v_t, index, self.ctx)
        scores_s = self.memory_teacher.scores(v_s, index, self.ctx)
        for embedding in (v_s, v_t):
            everyone = embedding.new_zeros(len(drawn.index), embedding.shape[1])
            everyone[mine] = embedding.detach()
            self.fresh.append((self.ctx.sum(everyone), drawn.index))
        return noise_contrast(scores_s, len(self.others.labels)) + noise_contrast(scores_t, len(self.others.labels))
