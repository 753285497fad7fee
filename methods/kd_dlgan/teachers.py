"""Image-text teachers: images and sentences become vectors of one space. Frozen when they teach.

teacher = load_teacher(artifact, device, preprocess, resize)
teacher.encode_image(images)      (B, C, H, W) in [-1, 1] -> (B, M) float32, not normalised
teacher.encode_text(sentences)    K sentences -> (K, M) float32, not normalised
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.errors import UserError
from gankd.metrics.extractors import CLIP
from gankd.stages.classifier import load_network
from gankd.store.artifact import Artifact

GROUPS = range(2, 5)  # letters of a group that the small text encoder hashes


class Teacher(nn.Module):
    """What the teachers have in common.

    Attributes:
        kind: "offline", "open_clip" or "mock". embed_dim: M. input_size: side of the images that the encoder wants, px.
        channels: 1 or 3, of the images that the encoder wants; grey images become RGB where it wants that.
        statistics: mean and std per channel, of pixels in 0..1, that the encoder wants; None where it takes [-1, 1].
        preprocess, resize: "native" applies the statistics, "raw" does not; "nearest", "bilinear" or "bicubic".
    """

    kind: str
    embed_dim: int
    input_size: int
    channels: int
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    preprocess = "native"
    resize = "bilinear"
    _copied: tuple[Tensor, Tensor] | None = None

    def embed_image(self, images: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no image encoder")

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        raise TypeError(f"{type(self).__name__} has no text encoder")

    def encode_image(self, images: Tensor, *, allow_input_grad: bool = False) -> Tensor:
        """Features (B, M) of images in [-1, 1]; without a graph, unless gradients are to reach the images."""
        with torch.set_grad_enabled(allow_input_grad), torch.autocast(images.device.type, enabled=False):
            return self.embed_image(self.prepared(images.float())).float()

    @torch.no_grad()
    def encode_text(self, sentences: Sequence[str]) -> Tensor:
        """Features (K, M) of sentences."""
        return self.embed_text(sentences).float()

    def prepared(self, images: Tensor) -> Tensor:
        """Images as the encoder wants them: channels, size, statistics."""
        if images.shape[1] != self.channels:
            images = images.expand(-1, self.channels, -1, -1) if self.channels == 3 else images.mean(1, keepdim=True)
        if images.shape[-1] != self.input_size:
            size = (self.input_size, self.input_size)
            smooth = {} if self.resize == "nearest" else {"antialias": True, "align_corners": False}
            images = F.interpolate(images, size, mode=self.resize, **smooth)
        if self.preprocess == "native" and self.statistics:
            mean, std = self._on_device(images.device)
            images = ((images + 1) / 2 - mean) / std
        return images

    def _on_device(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The statistics as (channels, 1, 1), copied to the device once: a copy is waited for."""
        if self._copied is None or self._copied[0].device != device:
            assert self.statistics
            mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in self.statistics)
            self._copied = mean, std
        return self._copied

    def fingerprint(self) -> str:
        """16 hex digits of the sha256 of weights and of what is done to the images."""
        total = hashlib.sha256(f"{self.kind}/{self.input_size}/{self.preprocess}/{self.resize}/{self.statistics}".encode())
        for name, value in sorted(self.state_dict().items()):
            total.update(name.encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()[:16]


def letter_groups(sentence: str, buckets: int) -> list[int]:
    """Rows of a table of `buckets` for all groups of 2 to 4 letters of a sentence, by a hash that every machine shares."""
    text = f" {sentence.strip().lower()} "
    groups = [text[i : i + n] for n in GROUPS for i in range(len(text) - n + 1)]
    return [zlib.crc32(group.encode()) % buckets for group in groups]


class OfflineTeacher(Teacher):
    """A small image-text model: convolutions of stride 2, and a mean of hashed letter groups through an MLP.

    Args:
        widths: channels of the convolutions. buckets, text_width: rows of the letter groups' table, and its width.
    """

    kind = "offline"

    def __init__(
        self, image_channels: int, embed_dim: int, input_size: int, widths: Sequence[int], buckets: int, text_width: int
    ) -> None:
        super().__init__()
        self.channels, self.embed_dim, self.input_size, self.buckets = image_channels, embed_dim, input_size, buckets
        channels = [image_channels, *widths]
        layers = [(nn.Conv2d(a, b, 3, 2, 1), nn.GroupNorm(8 if b % 8 == 0 else 1, b), nn.GELU()) for a, b in pairwise(channels)]
        self.image = nn.Sequential(*chain(*layers), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels[-1], embed_dim))
        self.groups = nn.EmbeddingBag(buckets, text_width, mode="mean")
        self.text = nn.Sequential(nn.Linear(text_width, text_width), nn.GELU(), nn.Linear(text_width, embed_dim))
        self._known: dict[tuple[str, ...], tuple[Tensor, Tensor]] = {}
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied by, at most 100."""
        return self.log_scale.exp().clamp(max=100)

    def embed_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.image(images)
        return features

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        features: Tensor = self.text(self.groups(*self._rows_of(tuple(sentences))))
        return features

    def _rows_of(self, sentences: tuple[str, ...]) -> tuple[Tensor, Tensor]:
        """All their letter groups, and where each begins, on the device; the few sentences of a training are kept."""
        device = self.log_scale.device
        if sentences not in self._known or self._known[sentences][0].device != device:
            rows = [letter_groups(sentence, self.buckets) for sentence in sentences]
            starts = torch.tensor([0, *map(len, rows)]).cumsum(0)[:-1]
            self._known[sentences] = torch.tensor(list(chain(*rows)), device=device), starts.to(device)
        return self._known[sentences]


class ClipTeacher(Teacher):
    """A CLIP of the library open_clip, without weights until they are loaded.

    Raises UserError when open_clip is not installed, knows no such architecture, or would fetch a tokenizer from elsewhere.
    """

    kind = "open_clip"
    channels = 3
    statistics = CLIP

    def __init__(self, architecture: str) -> None:
        super().__init__()
        config = clip_config(architecture)
        import open_clip

        self.clip = open_clip.create_model(architecture, pretrained=None, precision="fp32")
        self.tokenize = open_clip.get_tokenizer(architecture)
        self.embed_dim, self.input_size = config["embed_dim"], config["vision_cfg"]["image_size"]

    def embed_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.clip.encode_image(images)
        return features

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        device = next(self.parameters()).device
        features: Tensor = self.clip.encode_text(self.tokenize(list(sentences)).to(device))
        return features


def clip_config(architecture: str) -> dict[str, Any]:
    """What open_clip says of an architecture: `embed_dim`, `vision_cfg`, `text_cfg`, and `quick_gelu` where it has it."""
    try:
        import open_clip
    except ImportError:
        raise UserError("a teacher of kind open_clip needs the library: pip install 'gankd[clip]'") from None
    config: dict[str, Any] | None = open_clip.get_model_config(architecture)
    if config is None:
        raise UserError(f"open_clip knows no architecture {architecture!r}; teacher.architecture is e.g. ViT-B-32-quickgelu")
    if any(name.startswith("hf_") for name in config["text_cfg"]):
        raise UserError(f"teacher.architecture = {architecture}: its tokenizer would be downloaded; take one of OpenAI's kind")
    return config


class MockTeacher(Teacher):
    """A fixed random projection of the pixels, and a random vector for each sentence: for tests only."""

    kind = "mock"
    projection: Tensor

    def __init__(self, image_channels: int, embed_dim: int, input_size: int) -> None:
        super().__init__()
        self.channels, self.embed_dim, self.input_size = image_channels, embed_dim, input_size
        pixels = image_channels * input_size**2
        rng = torch.Generator().manual_seed(0)
        self.register_buffer("projection", torch.randn(pixels, embed_dim, generator=rng) / pixels**0.5)

    def embed_image(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.projection

    def embed_text(self, sentences: Sequence[str]) -> Tensor:
        draws = [torch.Generator().manual_seed(zlib.crc32(sentence.encode())) for sentence in sentences]
        return torch.stack([torch.randn(self.embed_dim, generator=rng) for rng in draws]).to(self.projection.device)


def load_teacher(artifact: Artifact, device: torch.device | str, preprocess: str, resize: str) -> Teacher:
    """The teacher of the stage `teacher`, frozen, treating images as asked."""
    teacher: Teacher = load_network(artifact, device)
    teacher.preprocess, teacher.resize = preprocess, resize
    return teacher.eval().requires_grad_(False)
