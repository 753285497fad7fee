"""The transfer generator: layers, importing, initial state and training iterations against values of the authors' code."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gankd.errors import UserError
from gankd.models import build, load, save
from gankd.models.biggan_import import import_discriminator, import_generator, our_names
from gankd.models.biggan_transfer import TransferBatchNorm, take_over, with_fresh_classes
from tests.unit.biggan_fixtures import close, fixture, names


def variant_of(name: str) -> Any:
    return "imagenet" if "imagenet" in name else "cifar"


def layer_of(name: str) -> TransferBatchNorm:
    """As large as the fixture's state."""
    state = our_names(fixture(f"cgan_transfer/ccbn_{name}", "sd"))
    channels, (old_classes, classes) = len(state["stored_mean"]), state["comb_layer_g.weight"].shape
    chunk = state["z_layer_g.weight"].shape[1] if "z_layer_g.weight" in state else 0
    layer = TransferBatchNorm(channels, old_classes, classes, chunk, variant_of(name), sn_eps=1e-6, bn_eps=1e-5).double()
    layer.load_state_dict({k: v for k, v in state.items() if not k.startswith(("gain.", "bias."))})
    return layer


@pytest.mark.parametrize("name", names("cgan_transfer/ccbn_*"))
def test_layer(name: str) -> None:
    expected, layer = fixture(f"cgan_transfer/ccbn_{name}"), layer_of(name)
    x, labels, classes = expected["x"], expected["labels"], layer.layer("combination", "g").in_features
    chunk = expected["z_chunk"] if hasattr(layer, "z_layer_g") else None
    layer.eval()
    for side in ("g", "b"):
        slope, offset = layer.scores(side)
        close((slope + offset[:, None]).t()[labels], expected[f"eval/w_{side}"])
    close(1 + layer.pairs("g", labels, chunk), expected["eval/gain"])
    close(layer.pairs("b", labels, chunk), expected["eval/bias"])
    close(layer(x, (labels, chunk)), expected["out_eval"])
    close(layer(x, (expected["onehot"], chunk)), expected["out_eval"])
    close(layer(x, (expected["soft_cond"][:, :classes], chunk)), expected["out_eval_soft"])
    close(layer.train()(x, (labels, chunk)), expected["out_train"])
    for key, value in our_names(fixture(f"cgan_transfer/ccbn_{name}", "sd_after")).items():
        close(layer.state_dict()[key], value)


def test_worked_example() -> None:
    layer = TransferBatchNorm(1, 3, 2, 0, "plain", 1e-8, 1e-5).double()
    with torch.no_grad():
        layer.prev_knowledge_g.weight.copy_(torch.tensor([[0.2, -0.1, 0.4]]))
        layer.comb_layer_g.weight.copy_(torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.0, 2.0]]))
        layer.comb_layer_g.bias.copy_(torch.tensor([0.0, 0.1, 0.0]))
        layer.res_g.weight.copy_(torch.tensor([[0.05, -0.05]]))
    close(1 + layer.pairs("g", torch.tensor([0, 1]), None), torch.tensor([[1.19], [1.74]]))
    close(1 + layer.pairs("g", torch.tensor([[0.5, 0.5]]), None), torch.tensor([[1.465]]))


@pytest.mark.parametrize("name", names("cgan_transfer/transfer_*"))
def test_transfer_of_a_pretrained_generator(name: str) -> None:
    file, variant = f"cgan_transfer/transfer_{name}", variant_of(name)
    sn_eps = 1e-6 if variant == "imagenet" else 1e-8
    expected = fixture_texts(file)
    old = import_generator(fixture(file, "preG"), sn_eps=sn_eps)
    recipe = {key: value for key, value in old.recipe.items() if key not in ("name", "classes", "shared_dim")}
    fresh = our_names(fixture(file, "G_new"))
    classes = next(value.shape[1] for key, value in fresh.items() if key.endswith("comb_layer_g.weight"))
    new = build("biggan_transfer", **recipe, old_classes=old.classes, classes=classes, variant=variant).double()
    take_over(new, old.double(), residual="random")
    state = new.state_dict()
    assert fresh.keys() <= state.keys()
    for key, value in fresh.items():
        if ("prev_knowledge" in key and key.endswith("weight")) or ("z_layer" in key and key.endswith("weight")):
            close(state[key], value, 2e-7)  # what "load previous knowledge" computes
    new.load_state_dict(fresh, strict=False)  # the rest is their random draw
    assert_images(new, fixture(file))
    dropped = ("pretrain_embedding_w", "sv0")
    assert set(fresh) == {key for key in expected["G_missing_keys"] if not key.endswith(dropped)}
    for stage, parts in {"BN": ("combination", "base", "latent", "residual"), "FT": ("combination", "base")}.items():
        chosen = {key for key, _ in new.parts(*parts)}
        ours = chosen if stage == "BN" else {key for key, _ in new.named_parameters()} - chosen
        # The old tables are nominally trained in FT and receive no gradient; ours are not there.
        theirs = {key for key in expected[f"trainable_{stage}"] if ".gain.w" not in key and ".bias.w" not in key}
        assert ours == theirs - {"shared.weight"}


def fixture_texts(name: str) -> dict[str, list[str]]:
    import numpy as np

    from tests.unit.biggan_fixtures import FIXTURES

    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as arrays:
        return {key: arrays[key].tolist() for key in arrays.files if arrays[key].dtype.kind == "U"}


def assert_images(generator: Any, expected: dict[str, Tensor]) -> None:
    z, y, stride = expected["z"], expected["y"], int(expected["stride"])
    close(generator.eval()(z, y)[:, :, ::stride, ::stride], expected["out_eval"], 2e-6)
    close(generator.train()(z, y)[:, :, ::stride, ::stride], expected["out_train"], 2e-6)


def small(**kwargs: Any) -> dict[str, Any]:
    return {"image_size": 16, "image_channels": 1, "width": 4, "dim_z": 12, "init": "ortho", "sn_eps": 1e-6} | kwargs


@pytest.mark.parametrize("latent", [{}, {"shared_dim": 6}, {"shared_dim": 6, "hierarchical": True}])
def test_a_one_hot_start_makes_exactly_the_old_classs_images(latent: dict[str, Any]) -> None:
    torch.manual_seed(0)
    old = build("biggan", classes=5, **small(**latent)).double()
    z = torch.randn(8, old.dim_z).double()
    for _ in range(3):  # away from the fresh statistics and power iterations
        old.train()(torch.randn(8, old.dim_z).double(), torch.arange(8) % 5)
    chosen = torch.tensor([3, 0, 3])
    hierarchical = latent.get("hierarchical", False)
    new = build("biggan_transfer", old_classes=5, classes=3, hierarchical=hierarchical, **small()).double()
    take_over(new, old, F.one_hot(chosen, 5).double())
    labels = torch.arange(8) % 3
    with torch.no_grad():
        close(new.eval()(z, labels), old.eval()(z, chosen[labels]), 1e-12)
        mixtures = F.one_hot(labels, 3).double()
        close(new(z, mixtures), new(z, labels), 1e-12)
    assert not new.training
    assert torch.equal(new.scores(), F.one_hot(chosen, 5).double().expand(6 - 2, 2, 3, 5))
    with pytest.raises(UserError, match=r"\(N, 3\), not \(8, 5\)"):
        new(z, torch.zeros(8, 5).double())


def test_it_saves_and_loads(tmp_path: Any) -> None:
    new = build("biggan_transfer", old_classes=5, classes=3, hierarchical=True, **small()).eval()
    save(new, tmp_path)
    again = load(tmp_path)
    z, labels = torch.randn(4, new.dim_z), torch.tensor([0, 2, 1, 1])
    with torch.no_grad():
        assert torch.equal(again(z, labels), new(z, labels))


def test_bf16_follows_fp32() -> None:
    new = build("biggan_transfer", old_classes=5, classes=3, hierarchical=True, **small()).eval()
    z, labels = torch.randn(4, new.dim_z), torch.tensor([0, 2, 1, 1])
    with torch.no_grad():
        exact = new(z, labels)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = new(z, labels)
            condition = labels, z[:, : new.chunk]
            maps = new.norms()[0](torch.ones(4, 16, 2, 2, dtype=torch.bfloat16), condition)
    assert maps.dtype == torch.bfloat16
    close(rough, exact, 0.1)


@pytest.mark.parametrize("latent", [{}, {"shared_dim": 6, "hierarchical": True}])
def test_fresh_classes_keep_all_that_is_not_of_a_class(latent: dict[str, Any]) -> None:
    old = build("biggan", classes=5, **small(**latent))
    new = with_fresh_classes(old, 5)  # as many as before, so only the names can tell
    fresh = {name for name, value in new.state_dict().items() if not torch.equal(value, old.state_dict()[name])}
    assert fresh == (
        {"shared.weight"}
        if latent
        else {f"blocks.{b}.0.bn{n}.{k}.weight" for b in (0, 1) for n in (1, 2) for k in ("gain", "bias")}
    )
    discriminator = build("biggan_discriminator", classes=5, image_size=16, image_channels=1, width=4)
    changed = with_fresh_classes(discriminator, 3).state_dict()
    assert {name for name, v in changed.items() if not torch.equal(v, discriminator.state_dict()[name])} == {
        "embed.weight",
        "embed.u0",
    }


@pytest.mark.parametrize("name", names("cgan_transfer/train_*"))
def test_a_checkpoint_of_the_authors_code_is_imported(name: str) -> None:
    state, variant = fixture(f"cgan_transfer/train_{name}", "G"), variant_of(name)
    aliases = {"blocks.0.0.bn1.pretrain_embedding_w": state["shared.weight"]} if "shared.weight" in state else {}
    generator = import_generator(state | aliases)
    assert (generator.recipe["name"], generator.recipe["variant"]) == ("biggan_transfer", variant)
    kept = our_names({key: value for key, value in state.items() if ".gain.w" not in key and ".bias.w" not in key})
    assert all(torch.equal(kept[key], value) for key, value in generator.state_dict().items())
    discriminator = import_discriminator(fixture(f"cgan_transfer/train_{name}", "D"))
    assert torch.equal(discriminator.embed.weight, fixture(f"cgan_transfer/train_{name}", "D")["new_embed.weight"])
    missing = [key for key in state if key.endswith("res_b.weight")][-1]
    with pytest.raises(UserError, match=f"missing: {re.escape(missing)}"):
        import_generator({key: value for key, value in state.items() if key != missing})
