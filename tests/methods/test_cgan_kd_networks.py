"""The networks of module M1: phi and psi, against the reference's outputs and parameter counts."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gankd.errors import UserError
from gankd.metrics.extractors import classifier
from gankd.models import build
from gankd.registry import find_method
from methods.cgan_kd.networks import DensityRatio, FeatureExtractor
from methods.cgan_kd.subsampling import softplus_ratio_loss

FIXTURES = Path(__file__).parents[1] / "fixtures" / "cgan_kd"
METHOD = find_method("cgan_kd")  # from here on its networks can be built by name


def fixture(name: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(("size", "count"), [(32, 26_296_484), (128, 97_213_604)])
def test_parameter_counts_and_shapes_of_the_feature_extractor(size: int, count: int) -> None:
    with torch.device("meta"):
        network = build("feature_extractor", classes=100, image_size=size).eval()
        images = torch.empty(2, 3, size, size)
        assert sum(p.numel() for p in network.parameters()) == count
        assert network(images).shape == (2, 100)
        assert network.features(images).shape == (2, network.feature_dim) == (2, 3 * size**2)


def test_logits_follow_from_the_feature() -> None:
    torch.manual_seed(0)
    network = FeatureExtractor(classes=7, image_channels=1, image_size=8, trunk="small").eval()
    images = torch.randint(256, (3, 1, 8, 8), dtype=torch.uint8)
    floats = images.float() / 127.5 - 1
    features = network.features(floats)
    assert features.shape == (3, 64)
    torch.testing.assert_close(network.linear(network.tail(features)), network(floats))
    rows, logits = classifier(network)(images)  # measures generators as any classifier does
    torch.testing.assert_close(rows, features)
    torch.testing.assert_close(logits, network(floats))


def reference_network(output: str) -> tuple[DensityRatio, dict[str, np.ndarray]]:
    values = fixture("cdr_mlp_class")
    layers = {key: value for key, value in values.items() if key.startswith("w_main_") and value.ndim == 2}
    *widths, _ = (len(layers[key]) for key in sorted(layers, key=lambda key: int(key.split("_")[2])))
    sizes = {"feature_dim": values["x_feature"].shape[1], "classes": len(values["w_label_emb_weight"])}
    network = DensityRatio(**sizes, widths=tuple(widths), output=output).eval()
    state = {"embedding.weight": values["w_label_emb_weight"]}
    for key in values:
        if key.startswith("w_main_"):
            layer, kind = key.removeprefix("w_main_").split("_")
            state[f"layers.{layer}.{kind}"] = values[key]
    network.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    return network, values


def test_network_gives_the_reference_ratios() -> None:
    network, values = reference_network("relu")
    with torch.no_grad():
        ratios = network(torch.from_numpy(values["x_feature"]), torch.from_numpy(values["label"]))
    assert ratios.shape == values["label"].shape
    np.testing.assert_allclose(ratios, values["out"][:, 0], rtol=1e-4, atol=1e-6)


def test_softplus_output_is_positive_and_keeps_its_gradient_where_relu_is_dead() -> None:
    for output, alive in (("relu", False), ("softplus", True)):
        network, values = reference_network(output)
        with torch.no_grad():  # below 0 for every row
            network.layers[-1].bias -= float(values["out"].max()) + 5
        ratios = network(torch.from_numpy(values["x_feature"]), torch.from_numpy(values["label"]))
        softplus_ratio_loss(ratios, ratios).backward()
        assert bool((ratios > 0).all()) is alive
        assert bool(network.layers[0].weight.grad.abs().sum() > 0) is alive


def test_a_hidden_layer_as_wide_as_the_feature_does_not_get_the_embedding_again() -> None:
    network = DensityRatio(feature_dim=16, classes=3, widths=(16, 16, 8))
    assert [m.in_features for m in network.layers if isinstance(m, torch.nn.Linear)] == [19, 16, 16, 8]


@pytest.mark.parametrize(("feature_dim", "count"), [(3072, 9_303_569), (49_152, 103_675_409)])
def test_parameter_counts_of_mlp5(feature_dim: int, count: int) -> None:
    with torch.device("meta"):
        network = build("density_ratio", feature_dim=feature_dim, classes=100, widths="MLP5")
    assert sum(p.numel() for p in network.parameters()) == count


def test_widths_that_group_norm_cannot_split_are_refused() -> None:
    with pytest.raises(UserError, match="multiple of 8"):
        DensityRatio(feature_dim=16, classes=3, widths=(30,))
