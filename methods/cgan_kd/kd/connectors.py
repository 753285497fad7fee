"""Knowledge in feature maps, through layers that train along: FitNet, VID, AB, FT. Maps are (N, c, h, w)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from methods.cgan_kd.kd.features import boundaries, factors, same_size
from methods.cgan_kd.kd.seen import Drawn, KdLoss, Seen, pairs, shape

HINT = 1  # place of FitNet's map among those of every resolution: RepDistiller's layer 2
FACTOR = 0.5  # FT: channels of a factor, as a share of the teacher's


def regressor(student: Tensor, teacher: Tensor, *, relu: bool) -> nn.Sequential:
    """A convolution and batch norm from the shape of the student's map to that of the teacher's.

    Half the size by stride 2, twice the size transposed, any smaller size by a kernel that wide. Raises UserError for the rest.
    """
    (s, s_size, _), (t, t_size, _) = shape(student), shape(teacher)
    conv: nn.Module
    if s_size == 2 * t_size:
        conv = nn.Conv2d(s, t, 3, stride=2, padding=1)
    elif 2 * s_size == t_size:
        conv = nn.ConvTranspose2d(s, t, 4, stride=2, padding=1)
    elif s_size >= t_size:
        conv = nn.Conv2d(s, t, 1 + s_size - t_size)
    else:
        raise UserError(
            f"the student's map {shape(student)} cannot be brought to the teacher's {shape(teacher)}: a regressor doubles a "
            "size or makes it smaller; choose another pair of networks, or another student.kd"
        )
    return nn.Sequential(conv, nn.BatchNorm2d(t), nn.ReLU() if relu else nn.Identity())


class Hint(KdLoss):
    """FitNet (Romero et al. 2015) as RepDistiller has it, in one phase: MSE of one regressed map of the student."""

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        self.regressor = regressor(*self._maps(student, teacher), relu=True)

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        s, t = self._maps(student, teacher)
        return F.mse_loss(self.regressor(s), t)

    @staticmethod
    def _maps(student: Seen, teacher: Seen) -> tuple[Tensor, Tensor]:
        both = pairs(student, teacher)
        return both[min(HINT, len(both) - 1)]


class Likelihood(nn.Module):
    """VID's -log q(t | s) less its constant: a Gaussian around a regressed map, with a variance for each channel.

    mean of ((t - mu(s))^2 / v + log v) / 2, v = softplus(a) + eps.
    """

    def __init__(self, channels: int, out_channels: int, variance: float = 5.0, eps: float = 1e-5) -> None:
        super().__init__()
        width = out_channels
        self.regressor = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.ReLU(),
            nn.Conv2d(width, width, 1, bias=False), nn.ReLU(),
            nn.Conv2d(width, out_channels, 1, bias=False),
        )  # fmt: skip
        inverse = torch.log(torch.expm1(torch.tensor(variance - eps)))
        self.scale = nn.Parameter(inverse.repeat(out_channels))
        self.eps = eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = same_size(student, teacher)
        variance = (F.softplus(self.scale) + self.eps).view(-1, 1, 1)
        return ((self.regressor(student) - teacher).square() / variance + variance.log()).mean() / 2


class Variational(KdLoss):
    """VID (Ahn et al. 2019): the sum of the likelihoods over all pairs of maps."""

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Likelihood(s.shape[1], t.shape[1]) for s, t in pairs(student, teacher)])

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        return torch.stack([part(s, t) for part, (s, t) in zip(self.parts, pairs(student, teacher), strict=True)]).sum()


class Boundaries(KdLoss):
    """AB (Heo et al. 2019): the student and its regressors learn the signs of the teacher's maps, beforehand and only then.

    The last pair of maps counts whole, each one before it half as much as the next.
    """

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        self.regressors = nn.ModuleList([regressor(s, t, relu=False) for s, t in pairs(student, teacher)])

    def pretrain(self, student: Callable[[], Seen], teacher: Seen) -> Tensor:
        both = pairs(student(), teacher)
        weights = [2.0 ** (i + 1 - len(both)) for i in range(len(both))]
        parts = zip(weights, self.regressors, both, strict=True)
        return torch.stack([weight * boundaries(regress(s), t) for weight, regress, (s, t) in parts]).sum()

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        return student.logits.new_zeros(())


def _convs(*widths: int, norm: bool = False, transposed: bool = False) -> nn.Sequential:
    """3 x 3 convolutions between these widths, each with leaky ReLU and, with `norm`, batch norm before it."""
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layers: list[nn.Module] = []
    for channels, out_channels in pairwise(widths):
        layers += [
            kind(channels, out_channels, 3, padding=1),
            *([nn.BatchNorm2d(out_channels)] if norm else []),
            nn.LeakyReLU(0.1),
        ]
    return nn.Sequential(*layers)


class Factors(KdLoss):
    """FT (Kim et al. 2018): the energies of two factors of the last maps, one by a paraphraser, one by the student's translator.

    Beforehand the paraphraser learns to encode the teacher's maps such that they can be decoded again; then it is frozen.
    """

    def __init__(self, student: Seen, teacher: Seen) -> None:
        super().__init__()
        s, t = student.maps[-1].shape[1], teacher.maps[-1].shape[1]
        width = max(1, int(FACTOR * t))
        self.paraphraser, self.decoder = _convs(t, t, width, width), _convs(width, width, t, t, transposed=True)
        self.translator = _convs(s, s, width, width, norm=True)

    def pretrain(self, student: Callable[[], Seen], teacher: Seen) -> Tensor:
        return F.mse_loss(self.decoder(self.paraphraser(teacher.maps[-1])), teacher.maps[-1])

    def forward(self, student: Seen, teacher: Seen, drawn: Drawn) -> Tensor:
        with torch.no_grad():
            factor = self.paraphraser(teacher.maps[-1])
        return factors(self.translator(student.maps[-1]), factor)
