"""BigGAN and BigGAN-deep as whole networks: reference outputs, sizes, importer."""

import pytest
import torch
import torch.nn.functional as F

from gankd.errors import UserError
from gankd.models import build, load, save
from gankd.models.biggan_import import import_discriminator, import_generator, our_names
from tests.unit.biggan_fixtures import close, fixture, names

SN_EPS = 1e-6


def count(name: str, **kwargs: object) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in build(name, **kwargs).parameters())


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize("name", names("biggan_core/G_*"))
def test_generator(name: str, dtype: torch.dtype) -> None:
    expected = fixture(f"biggan_core/G_{name}")
    generator = import_generator(fixture(f"biggan_core/G_{name}", "G"), sn_eps=SN_EPS).to(dtype)
    z, y, stride = expected["z"].to(dtype), expected["y"], int(expected["stride"])
    assert generator.dim_z == z.shape[1]
    for mode, training in (("eval", False), ("train", True)):
        images = generator.train(training)(z, y)
        close(images[:, :, ::stride, ::stride], expected[f"out_{mode}"], 2e-5)
        spread = torch.stack([images.mean(), images.std()])
        close(spread, expected[f"out_{mode}_mean_std"], 1e-7 if dtype == torch.double else 2e-5)
    after = our_names(fixture(f"biggan_core/G_{name}", "G_after"))
    assert after
    for key, value in after.items():
        close(generator.state_dict()[key], value, 2e-5)


@pytest.mark.parametrize("dtype", [torch.double, torch.float])
@pytest.mark.parametrize("name", names("biggan_core/D_*"))
def test_discriminator(name: str, dtype: torch.dtype) -> None:
    expected = fixture(f"biggan_core/D_{name}")
    discriminator = import_discriminator(fixture(f"biggan_core/D_{name}", "D"), sn_eps=SN_EPS).to(dtype)
    if "x" in expected:
        images = expected["x"].to(dtype)
    else:
        images = F.interpolate(expected["x_low"].to(dtype), size=discriminator.image_size)
    tolerance = 1e-7 if dtype == torch.double else 5e-5
    for key, training in (("logit_eval", False), ("logit_train_first_call", True), ("logit_train_second_call", True)):
        close(discriminator.train(training)(images, expected["y"]), expected[key], tolerance)


RELEASED = {
    "image_size": 128,
    "classes": 1000,
    "dim_z": 120,
    "shared_dim": 128,
    "hierarchical": True,
    "attention": [64],
}
COUNTS = [
    (RELEASED | {"width": 96}, 70_433_988),
    (RELEASED | {"width": 64}, 31_978_628),
    ({"image_size": 128, "classes": 1000, "width": 64, "attention": [64]}, 42_017_412),
    (RELEASED | {"image_size": 256, "width": 96, "dim_z": 140, "attention": [128]}, 82_097_604),
    (RELEASED | {"image_size": 64, "attention": [32]}, 31_969_540),
    ({"image_size": 32, "classes": 10}, 4_304_387),
    ({"image_size": 32, "classes": 100}, 4_580_867),
    ({"image_size": 32, "classes": 10, "shared_dim": 128, "hierarchical": True}, 4_373_251),
]
DISCRIMINATOR_COUNTS = [
    ({"image_size": 128, "classes": 1000, "width": 96, "attention": [64]}, 87_982_370),
    ({"image_size": 128, "classes": 1000, "attention": [64]}, 39_448_258),
    ({"image_size": 256, "classes": 1000, "width": 96, "attention": [128]}, 99_191_330),
    ({"image_size": 64, "classes": 1000, "attention": [32]}, 20_571_842),
    ({"image_size": 32, "classes": 10}, 4_207_361),
    ({"image_size": 32, "classes": 100}, 4_230_401),
]


@pytest.mark.parametrize(("kwargs", "parameters"), COUNTS)
def test_generator_parameters(kwargs: dict[str, object], parameters: int) -> None:
    assert count("biggan", **kwargs) == parameters


@pytest.mark.parametrize(("kwargs", "parameters"), DISCRIMINATOR_COUNTS)
def test_discriminator_parameters(kwargs: dict[str, object], parameters: int) -> None:
    assert count("biggan_discriminator", **kwargs) == parameters


def test_deep_generator_parameters() -> None:
    assert count("biggan_deep", image_size=128, classes=100, width=128, attention=[64]) == 50_129_284


@pytest.mark.parametrize(
    ("kind", "size", "channels", "kwargs"),
    [
        ("biggan", 8, 1, {"dim_z": 16}),
        ("biggan", 16, 3, {"dim_z": 20, "shared_dim": 6, "hierarchical": True, "attention": [8]}),
        ("biggan", 32, 1, {"dim_z": 16, "shared_dim": 6}),
        ("biggan", 64, 3, {"dim_z": 21, "shared_dim": 6, "hierarchical": True, "attention": [16]}),
        ("biggan_deep", 32, 3, {"dim_z": 16, "shared_dim": 8, "attention": [16]}),
        ("biggan_deep", 64, 1, {"dim_z": 16, "shared_dim": 8}),
    ],
)
def test_small_networks_run_and_pass_gradients(kind: str, size: int, channels: int, kwargs: dict[str, object]) -> None:
    torch.manual_seed(0)
    common = {"image_size": size, "classes": 3, "image_channels": channels, "width": 4, "init": "ortho"}
    generator = build(kind, **common, **kwargs).to(memory_format=torch.channels_last)
    discriminator = build(f"{kind}_discriminator", **common, attention=kwargs.get("attention", []))
    discriminator.to(memory_format=torch.channels_last)
    labels = torch.tensor([0, 1, 2, 1])
    images = generator(torch.randn(4, generator.dim_z), labels)
    assert images.shape == (4, channels, size, size)
    logits = discriminator(images, labels)
    assert logits.shape == (4, 1)
    logits.square().sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_eight_pixels_has_one_block_and_two() -> None:
    assert len(build("biggan", image_size=8, classes=2, width=2).blocks) == 1
    assert len(build("biggan_discriminator", image_size=8, classes=2, width=2).blocks) == 2


def test_hierarchical_latent_is_rounded_down() -> None:
    kwargs = {"image_size": 64, "classes": 2, "width": 1, "shared_dim": 4, "hierarchical": True}
    assert build("biggan", dim_z=121, **kwargs).dim_z == 120


@pytest.mark.parametrize("kind", ["biggan", "biggan_deep"])
def test_embeddings_may_replace_labels(kind: str) -> None:
    generator = build(kind, image_size=32, classes=3, width=2, dim_z=8, shared_dim=5).eval()
    z, labels = torch.randn(2, 8), torch.tensor([2, 0])
    assert torch.equal(generator(z, labels), generator(z, generator.shared(labels)))


def test_user_errors() -> None:
    with pytest.raises(UserError, match="image_size 48"):
        build("biggan", image_size=48, classes=2)
    with pytest.raises(UserError, match="attention at 4 px"):
        build("biggan_discriminator", image_size=32, classes=2, attention=[4])
    with pytest.raises(UserError, match="shared_dim"):
        build("biggan", image_size=32, classes=2, hierarchical=True)
    with pytest.raises(UserError, match="integer labels"):
        build("biggan", image_size=8, classes=2, width=1, dim_z=4)(torch.randn(1, 4), torch.randn(1, 4))


def test_importer_takes_the_variants_and_names_what_does_not_fit() -> None:
    state = fixture("biggan_core/G_cifar32", "G")
    variant = {}
    for name, value in state.items():
        name = name.replace("stored_mean", "bn.running_mean").replace("stored_var", "bn.running_var")
        variant[f"module.{name}"] = value
    variant["module.blocks.0.0.bn1.bn.num_batches_tracked"] = torch.tensor(3)
    plain, other = import_generator(state).state_dict(), import_generator(variant).state_dict()
    assert all(torch.equal(plain[k], other[k]) for k in plain)

    state["extra.weight"] = state.pop("linear.bias")
    state["output_layer.2.bias"] = torch.zeros(len(state["output_layer.2.bias"]) + 1)
    message = r"missing: linear.bias; unexpected: extra.weight; of another shape: output_layer.2.bias"
    with pytest.raises(UserError, match=message):
        import_generator(state)
    with pytest.raises(UserError, match="flat state dict"):
        import_discriminator({k: v for k, v in fixture("biggan_core/D_cifar32", "D").items() if "embed" not in k})


def test_thin_discriminator_is_recognised() -> None:
    thin = build("biggan_discriminator", image_size=32, classes=2, width=2, wide=False)
    again = import_discriminator(thin.state_dict())
    assert again.recipe["wide"] is False
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in thin.state_dict().items())


def test_save_and_load_after_training_forwards(tmp_path) -> None:  # type: ignore[no-untyped-def]
    generator = build("biggan", image_size=8, classes=3, image_channels=1, width=2, dim_z=4)
    z, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    generator(z, labels)
    save(generator, tmp_path)
    assert torch.equal(load(tmp_path)(z, labels), generator.eval()(z, labels))
