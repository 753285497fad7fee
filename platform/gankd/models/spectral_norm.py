"""Layers whose weight is divided by a running estimate of its largest singular value (Miyato et al. 2018).

A forward makes one step of the power iteration on the weight as a matrix M (out, rest), n(a) = a / max(||a||, eps):

    v = n(u M),   u' = n(v M^T),   sigma = v M^T u'^T = ||M v||,   layer uses W / sigma

v and u' are constants for autograd, sigma is differentiable in M. In training mode u becomes u'; in eval mode the very
same step is computed and u is left alone, so the first training forward and an eval forward from one state agree. u
starts standard normal and not normalised. torch's own `spectral_norm` parametrisation follows another rule (half a step
behind), hence this module.

u and sigma are computed in the weight's own precision, also under autocast.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError


def as_matrix(weight: Tensor) -> Tensor:
    """`weight` as (out, rest): a view in channels_last too, as the order of the columns does not matter to sigma."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return weight.movedim(1, -1).flatten(1)
    return weight.flatten(1)


def power_step(matrix: Tensor, u: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """sigma (scalar, differentiable in `matrix`) and u' (1, out), from `matrix` (out, rest) and u (1, out)."""
    with torch.no_grad():
        v = F.normalize(u @ matrix, eps=eps)
    image = v @ matrix.t()
    u = F.normalize(image.detach(), eps=eps)
    return (image * u).sum(), u


class SpectralNorm(nn.Module):
    """Adds buffer `u0` (1, out) and `normalised_weight` to a layer with a `weight`."""

    weight: Tensor
    u0: Tensor

    def start_spectral_norm(self, eps: float) -> None:
        self.eps = eps
        self.register_buffer("u0", torch.randn(1, self.weight.shape[0], device=self.weight.device))

    def normalised_weight(self) -> Tensor:
        """W / sigma; every call is one power step, stored in training mode only."""
        with torch.autocast(self.weight.device.type, enabled=False):
            sigma, u = power_step(as_matrix(self.weight), self.u0, self.eps)
            if self.training:
                # A new tensor, not an in-place write: two forwards may precede one backward.
                self.u0 = u
            # Times the reciprocal: the backward pass of a division by a tensor reads the weight five times more.
            return self.weight * sigma.reciprocal()


class SNConv2d(SpectralNorm, nn.Conv2d):
    """Convolution. `upsampled` and `pooled` fuse it with a neighbouring change of resolution by 2.

    They are for 3x3 with padding 1, or 1x1. Both are exact rearrangements: nearest upsampling before a 3x3 convolution
    repeats inputs, so taps that meet the same input are added beforehand (4 taps an output in place of 9), and
    averaging 2x2 outputs of one is a 4x4 convolution of stride 2 (16 taps in place of 36). A 1x1 convolution commutes
    with both.
    """

    def __init__(self, *args: Any, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_spectral_norm(eps)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.normalised_weight(), self.bias)

    def upsampled(self, x: Tensor) -> Tensor:
        """conv(up2(x)): (N, in, H, W) to (N, out, 2H, 2W)."""
        if self.kernel_size == (1, 1):
            return F.interpolate(self(x), scale_factor=2)
        taps = 4 * F.avg_pool2d(self.normalised_weight(), 2, stride=1, padding=1)  # ONNX knows no divisor_override
        return F.conv_transpose2d(x, taps.flip(2, 3).transpose(0, 1), self.bias, stride=2, padding=1)

    def pooled(self, x: Tensor) -> Tensor:
        """avg_pool2(conv(x)): (N, in, H, W) to (N, out, H // 2, W // 2)."""
        if self.kernel_size == (1, 1):
            return self(F.avg_pool2d(x, 2))
        taps = F.avg_pool2d(self.normalised_weight(), 2, stride=1, padding=1)
        return F.conv2d(x, taps, self.bias, stride=2, padding=1)


class SNLinear(SpectralNorm, nn.Linear):
    """Affine map with spectral normalisation."""

    def __init__(self, *args: Any, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_spectral_norm(eps)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalised_weight(), self.bias)


class SNEmbedding(SpectralNorm, nn.Embedding):
    """Lookup table normalised as one matrix (classes, width): a single sigma for all rows."""

    def __init__(self, *args: Any, eps: float = 1e-8, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start_spectral_norm(eps)

    def forward(self, labels: Tensor) -> Tensor:
        return F.embedding(labels, self.normalised_weight())


def initialise(network: nn.Module, scheme: str) -> None:
    """Draw the weight of every convolution, linear map and table anew; biases keep what they have.

    scheme: "N02" normal(0, 0.02); "ortho" orthogonal on (out, rest); "xavier" Xavier uniform; "default" leaves torch's
    own.
    """
    draws = {
        "N02": lambda w: nn.init.normal_(w, 0.0, 0.02),
        "ortho": nn.init.orthogonal_,
        "xavier": nn.init.xavier_uniform_,
        "default": lambda w: w,
    }
    if scheme not in draws:
        raise UserError(f"init {scheme!r} is unknown: choose one of {', '.join(draws)}.")
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            draws[scheme](layer.weight)
