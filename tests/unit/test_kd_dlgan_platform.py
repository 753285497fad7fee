"""What the platform shares with KD-DLGAN's code, against its reference values: networks, DiffAugment, subsets, metrics."""

import numpy as np
import pytest
import torch

from gankd.data import splits
from gankd.metrics.extractors import quantise
from gankd.metrics.frechet import frechet_distance
from gankd.metrics.inception_score import InceptionScore
from gankd.metrics.moments import Moments
from gankd.models import diffaugment
from gankd.models.biggan_import import import_discriminator, import_generator, our_names
from gankd.models.spectral_norm import SNLinear
from tests.unit.biggan_fixtures import close, fixture

HEAD = ("linear_cls_1", "linear_cls_2")


def test_networks() -> None:
    f = fixture("kd_dlgan/biggan_cifar_tiny")
    z, y, images = f["z"].float(), f["y"], f["x"].float()
    generator = import_generator(fixture("kd_dlgan/biggan_cifar_tiny", "G"))
    states = {when: fixture("kd_dlgan/biggan_cifar_tiny", when) for when in ("D", "D_after1", "G_after1")}
    discriminator = import_discriminator({k: v for k, v in states["D"].items() if not k.startswith(HEAD)})
    shapes = [states["D"][f"{name}.weight"].shape for name in HEAD]
    head = torch.nn.Sequential(*(SNLinear(inputs, outputs) for outputs, inputs in shapes))
    for layer, name in zip(head, HEAD, strict=True):
        layer.load_state_dict({k: states["D"][f"{name}.{k}"] for k in ("weight", "bias", "u0")})

    def seen() -> tuple[torch.Tensor, torch.Tensor]:
        features = discriminator.features(images)
        return discriminator.classify(features, y), head(features)

    for network in (generator, discriminator, head):
        network.train()
    close(generator(z, y), f["G_out_train_call1"].float(), 2e-3)
    score, feat = seen()
    close(score, f["D_score_train_call1"], 1e-4)
    close(feat, f["D_feat_train_call1"], 1e-4)
    for key, value in our_names(states["G_after1"]).items():
        close(generator.state_dict()[key], value, 2e-5)
    for network in (generator, discriminator, head):
        network.eval()
    close(generator(z, y), f["G_out_eval_after1"].float(), 2e-3)
    score, feat = seen()
    close(score, f["D_score_eval_after1"], 1e-4)
    close(feat, f["D_feat_eval_after1"], 1e-4)


def given(f: dict[str, torch.Tensor], size: str, kind: str) -> diffaugment.Draws:
    """The draws of a policy in a fixture."""
    operations = ("brightness", "saturation", "contrast", "translation", "cutout")[3 if kind == "tc" else 0 :]
    pairs = {"translation": ("tx", "ty"), "cutout": ("ox", "oy")}
    return {
        name: torch.stack([f[f"{size}_{kind}_{axis}"] for axis in pairs[name]], 1)
        if name in pairs
        else f[f"{size}_{kind}_u_{name}"]
        for name in operations
    }


@pytest.mark.parametrize("size", ["s0", "s1", "s2"])
def test_diffaugment(size: str) -> None:
    f = fixture("kd_dlgan/diffaugment")
    images = f[f"{size}_x"]
    for name in ("brightness", "saturation", "contrast"):
        close(diffaugment.apply(images, {name: f[f"{size}_{name}_u"]}), f[f"{size}_{name}_out"], 1e-6)
    for name, axes in (("translation", ("tx", "ty")), ("cutout", ("ox", "oy"))):
        draws = torch.stack([f[f"{size}_{name}_{axis}"] for axis in axes], 1)
        close(diffaugment.apply(images, {name: draws}), f[f"{size}_{name}_out"], 1e-6)
    for kind in ("policy", "tc"):
        close(diffaugment.apply(images, given(f, size, kind)), f[f"{size}_{kind}_out"], 1e-6)
    leaf = images.clone().requires_grad_()
    diffaugment.apply(leaf, given(f, size, "grad")).backward(f[f"{size}_grad_cot"])
    assert leaf.grad is not None
    close(leaf.grad, f[f"{size}_grad_x"], 1e-5)


def test_subsets_are_those_of_the_released_code() -> None:
    f = fixture("kd_dlgan/subset_indices")
    small, large = (f[f"seed0_n{n}_of50000"].numpy() for n in (5000, 10000))
    assert np.array_equal(splits.uniform(50000, len(small), 0), small)
    assert np.array_equal(splits.uniform(50000, len(large), 0), large)
    assert np.array_equal(large[: len(small)], small)


def test_metrics() -> None:
    f = fixture("kd_dlgan/fid_is")
    assert torch.equal(quantise(f["fake_float"]), f["fake_uint8"])
    close(torch.tensor(frechet_distance(*(Moments.of(f[f"feats_{kind}"]) for kind in ("real", "fake")))), f["FID"], 1e-6)
    logits = f["probs_fake"].log()
    score = InceptionScore.empty(len(logits), logits.shape[1], int(f["num_splits"]))
    score.update(logits, 0)
    close(torch.tensor(score.mean_and_std()), torch.stack([f["IS_mean"], f["IS_std"]]), 1e-6)
