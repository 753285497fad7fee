"""From images to the features that metrics compare. Numbers of different extractors are different metrics.

features, logits = extractor(images)        # (B, d) and (B, K), or None where there are no classes
extractor.tag                               # "classifier@3fa2b1c9": the name, and a hash of weights and preprocessing
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gankd.data.augment import normalise
from gankd.errors import UserError
from gankd.models.checkpoint_file import open_checkpoint
from gankd.models.classifier import Classifier, OwnNormalisation
from gankd.models.classifier_import import load_checkpoint

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
CLIP_NETWORK, CLIP_SIZE = "ViT-B-32", 224


def quantise(images: Tensor) -> Tensor:
    """Images in [-1, 1] to the nearest of the 256 grey levels that a file can hold, uint8."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class Extractor:
    """A frozen network in eval mode and fp32; `embed` gives features and, from networks with classes, logits.

    Takes uint8 images (B, C, H, W), or float ones in [-1, 1], which are first put on grey levels: the real images are.
    `quantise=False` leaves floats as they are, which is only good for matching references that do so.

    Attributes:
        name: part of every metric's name. feature_dim: d. classes: K, 0 without logits.
        preprocessing: range, resizing and normalisation in words; goes into the version.
        knows_labels: whether the logits are those of the data set's own classes.
        answers: what turns the outputs (B, 1) of a regressor of the data set's labels into these (B,), in their unit; else None.
    """

    input_range = "uint8 0..255, or float -1..1"
    deterministic = True
    matched = ""  # how the file of weights fitted, in words

    def __init__(
        self,
        name: str,
        network: nn.Module,
        embed: Callable[[Tensor], tuple[Tensor, Tensor | None]],
        *,
        feature_dim: int,
        classes: int = 0,
        preprocessing: str,
        knows_labels: bool = False,
        answers: Callable[[Tensor], Tensor] | None = None,
        quantise: bool = True,
    ) -> None:
        self.answers = answers
        self.name, self.embed, self.feature_dim, self.classes = name, embed, feature_dim, classes
        self.preprocessing, self.knows_labels, self.quantise = preprocessing, knows_labels, quantise
        self.network = network.eval().requires_grad_(False)

    @cached_property
    def version(self) -> str:
        """8 hex digits of the sha256 of the weights and of what is done to the images."""
        total = hashlib.sha256(f"{self.name}/{self.preprocessing}/{self.quantise}".encode())
        for key, value in sorted(self.network.state_dict().items()):
            total.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            total.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return total.hexdigest()[:8]

    @property
    def tag(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def to(self, device: torch.device | str) -> Extractor:
        self.network.to(device)
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if any(module.training for module in self.network.modules()):
            raise ValueError(f"the extractor {self.name} is in training mode")
        if images.dtype != torch.uint8 and self.quantise:
            images = quantise(images)
        if images.dtype == torch.uint8:
            images = normalise(images)
        # Features in bf16 shift the distances: never under a caller's autocast.
        with torch.autocast(images.device.type, enabled=False):
            return self.embed(images.float())


def classifier(network: Any, *, quantise: bool = True) -> Extractor:
    """A classifier of the data set, trained on its real training images: the default, and the right one for small images."""
    inner = network.network if isinstance(network, OwnNormalisation) else network
    known = {"classes": inner.linear.out_features, "knows_labels": True}
    return Extractor("classifier", network, _penultimate(network), **_of_the_data(network), **known, quantise=quantise)


def regressor(network: Any, low: float, high: float, *, quantise: bool = True) -> Extractor:
    """A regressor of the data set's labels, from `low` to `high`: what a classifier is where labels are numbers.

    It answers with the place in that range (`gankd.stages.task.Continuous`).
    """

    def answers(outputs: Tensor) -> Tensor:
        return outputs[:, 0].float() * (high - low) + low

    return Extractor("regressor", network, _penultimate(network), **_of_the_data(network), answers=answers, quantise=quantise)


def _of_the_data(network: Any) -> dict[str, Any]:
    return {"feature_dim": network.feature_dim, "preprocessing": "[-1, 1], not resized"}


def _penultimate(network: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Features and outputs of a network that tells labels, in one pass where its last layer alone is between them."""
    inner = network.network if isinstance(network, OwnNormalisation) else network
    head = inner.linear if type(inner).forward is Classifier.forward else None

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features = network.features(images)
        return features, network(images) if head is None else head(features)

    return embed


def inception_torchvision(weights: str, *, quantise: bool = True) -> Extractor:
    """ImageNet's Inception-v3 of torchvision: what the public BigGAN code measures with (not the FID of papers).

    Raises UserError for a file that does not fit or holds code.
    """
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    match = load_checkpoint(network, weights)
    head, network.fc = network.fc, nn.Identity()

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        images = _standardised(_rgb(images), *IMAGENET)
        resized = F.interpolate(images, size=(299, 299), mode="bilinear", align_corners=True)
        features = network(resized)
        return features, head(features)

    how = "ImageNet mean and std, then 299 px bilinear, align_corners, no antialias"
    # The head belongs to the version, and moves with the network.
    network.add_module("head", head)
    extractor = Extractor(
        "inception_torchvision", network, embed, feature_dim=2048, classes=1000, preprocessing=how, quantise=quantise
    )
    extractor.matched = str(match)
    return extractor


def inception_tf_ported(weights: str) -> Extractor:
    """The network of published FIDs (TensorFlow, 2015), as torch-fidelity ports it; always on 8-bit images.

    Raises UserError when torch-fidelity is not installed, or for a file that does not fit or holds code.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UserError("the extractor inception_tf_ported needs torch-fidelity: pip install torch-fidelity") from None
    wanted = ["2048", "logits_unbiased"]  # published scores leave the last layer's bias out
    file = open_checkpoint(weights)  # torch-fidelity takes any file
    file.read(next(iter(file.states)))
    try:
        network = FeatureExtractorInceptionV3("inception-v3-compat", wanted, feature_extractor_weights_path=weights)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the weights {weights!r} are not torch-fidelity's for Inception-v3 ({reason})") from error

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(quantise(_rgb(images)))
        return features, logits

    how = "8-bit, 299 px as TensorFlow 1 resizes, (x - 128) / 128"
    return Extractor("inception_tf_ported", network, embed, feature_dim=2048, classes=1008, preprocessing=how)


def clip(weights: str) -> Extractor:
    """The image tower of a CLIP ViT-B-32 (open_clip). No logits, so no score.

    Raises UserError when open_clip is not installed, or for a file that does not fit or holds code.
    """
    try:
        import open_clip
    except ImportError:
        raise UserError("the extractor clip needs open_clip: pip install 'gankd[clip]'") from None
    network = open_clip.create_model(CLIP_NETWORK)
    match = load_checkpoint(network, weights)

    def embed(images: Tensor) -> tuple[Tensor, None]:
        resized = F.interpolate(_rgb(images), size=(CLIP_SIZE, CLIP_SIZE), mode="bicubic", antialias=True)
        return network.encode_image(_standardised(resized.clamp(-1, 1), *CLIP)), None

    how = f"{CLIP_SIZE} px bicubic, antialias, then CLIP's mean and std"
    extractor = Extractor("clip", network, embed, feature_dim=network.visual.output_dim, preprocessing=how)
    extractor.matched = str(match)
    return extractor


def random_conv(image_channels: int = 3, feature_dim: int = 64, classes: int = 10) -> Extractor:
    """A convolution of fixed random weights: for tests of what is around it, not for judging images."""
    rng = torch.Generator().manual_seed(0)
    conv = nn.Conv2d(image_channels, feature_dim, 3, padding=1, bias=False)
    head = nn.Linear(feature_dim, classes, bias=False)
    for layer in (conv, head):
        nn.init.normal_(layer.weight, std=0.3, generator=rng)

    def embed(images: Tensor) -> tuple[Tensor, Tensor]:
        features = conv(images).relu().mean((2, 3))
        return features, head(features)

    network = nn.ModuleList([conv, head])
    return Extractor("random_conv", network, embed, feature_dim=feature_dim, classes=classes, preprocessing="[-1, 1]")


# Those that a file of weights makes, by name.
FROM_WEIGHTS: dict[str, Callable[[str], Extractor]] = {
    "inception_torchvision": inception_torchvision,
    "inception_tf_ported": inception_tf_ported,
    "clip": clip,
}


def from_weights(name: str, weights: str | None) -> Extractor:
    """The extractor `name` with the user's file. Raises UserError for an unknown name and whatever is wrong with the file."""
    if name not in FROM_WEIGHTS:
        raise UserError(f"unknown feature extractor {name!r} (known: classifier, {', '.join(FROM_WEIGHTS)})")
    if not weights:
        raise UserError(f"the extractor {name} needs a file with its weights; nothing is downloaded")
    return FROM_WEIGHTS[name](weights)


def _rgb(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _standardised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Images in [-1, 1], as pixels in 0..1 standardised channel by channel."""
    centre, scale = (images.new_tensor(numbers).view(-1, 1, 1) for numbers in (mean, std))
    return ((images + 1) / 2 - centre) / scale
