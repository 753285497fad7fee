"""Classifier networks: published parameter counts, one interface, and loading a user's checkpoint safely."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from gankd.errors import UserError
from gankd.models import CLASSIFIERS, build, load, save
from gankd.models.classifier_import import load_checkpoint
from gankd.models.resnet import PadShortcut

# cGAN-KD, for 100 classes: 32 px (CIFAR-100), 128 px (ImageNet-100).
COUNTS = {
    "resnet20": (278_324, 278_660),
    "resnet32": (472_756, 473_092),
    "resnet56": (861_620, 861_956),
    "resnet110": (1_736_564, 1_736_900),
    "resnet8x4": (1_233_540, 1_234_212),
    "resnet32x4": (7_433_860, 7_434_532),
    "ResNet18": (11_220_132, 11_221_476),
    "ResNet34": (21_328_292, 21_329_636),
    "ResNet50": (23_705_252, 23_706_596),
    "vgg8": (3_965_028, 13_455_460),
    "vgg11": (9_277_284, 18_767_716),
    "vgg13": (9_462_180, 18_952_612),
    "vgg16": (14_774_436, 24_264_868),
    "vgg19": (20_086_692, 29_577_124),
    "wrn_16_1": (180_916, 181_284),
    "wrn_16_2": (703_284, 703_652),
    "wrn_40_1": (569_780, 570_148),
    "wrn_40_2": (2_255_156, 2_255_524),
    "MobileNetV2": (812_836, 812_836),
    "ShuffleV1": (949_258, 950_338),
    "ShuffleV2": (1_355_528, 1_356_608),
    "densenet121": (7_048_548, 7_050_020),
    "densenet161": (26_681_188, 26_683_396),
}


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("large", [False, True], ids=["32px", "128px"])
def test_parameter_count_and_shapes(name: str, large: bool) -> None:
    size = 128 if large else 32
    with torch.device("meta"):
        network = build(name, classes=100, image_size=size).eval()
        images = torch.empty(2, 3, size, size)
        assert parameters(network) == COUNTS[name][large]
        assert network(images).shape == (2, 100)
        assert network.features(images).shape == (2, network.feature_dim)


def test_every_listed_classifier_has_its_count_checked() -> None:
    assert set(CLASSIFIERS) - set(COUNTS) == {"small_cnn"}


@pytest.mark.parametrize("name", ["resnet20", "ResNet18", "vgg8", "wrn_16_1", "MobileNetV2", "ShuffleV1", "ShuffleV2"])
def test_grey_8px_digits_train(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, classes=10, image_channels=1, image_size=8)
    network(torch.randn(4, 1, 8, 8)).logsumexp(1).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@pytest.mark.parametrize("name", ["small_cnn", "resnet20", "wrn_16_1"])
def test_logits_are_linear_in_what_features_gives(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, classes=7, image_channels=1, image_size=8).eval()
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(network.linear(network.features(images)), network(images))


@pytest.mark.parametrize(
    ("size", "width", "count"),
    [(8, 4, 1_030), (8, 8, 3_778), (8, 32, 56_554), (16, 4, 1_622), (16, 8, 6_114), (32, 8, 8_450), (32, 32, 130_538)],
)
def test_small_cnn_counts(size: int, width: int, count: int) -> None:
    network = build("small_cnn", classes=10, image_channels=1, image_size=size, width=width)
    assert parameters(network) == count


@pytest.mark.parametrize(("norm", "independent"), [("none", True), ("group", True), ("batch", False)])
def test_small_cnn_without_batch_statistics_ignores_the_rest_of_the_batch(norm: str, independent: bool) -> None:
    torch.manual_seed(0)
    network = build("small_cnn", classes=10, image_channels=1, image_size=8, norm=norm).train()
    images = torch.randn(6, 1, 8, 8)
    halves = torch.cat([network(images[:3]), network(images[3:])])
    assert torch.allclose(network(images), halves, atol=1e-6) is independent


@pytest.mark.parametrize(("kwargs", "word"), [({"norm": "layer"}, "norm"), ({"width": 4, "norm": ""}, "norm")])
def test_small_cnn_refuses_an_unknown_norm(kwargs: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        build("small_cnn", classes=10, **kwargs)


def test_a_head_with_hidden_layers(tmp_path: Path) -> None:
    kwargs = {"classes": 1, "image_channels": 1, "image_size": 16, "width": 8}
    plain, network = (build("small_cnn", **kwargs, **extra) for extra in ({}, {"head": [512, 512]}))
    head = 16 * 512 + 512 + 2 * 512 + 512 * 512 + 512 + 2 * 512 + 512 + 1  # cGAN-KD's regressors: linear, batch norm; twice
    counts = [sum(p.numel() for p in each.parameters()) for each in (plain, network)]
    assert counts[1] == counts[0] - 17 + head
    assert (network.linear.in_features, network.linear.out_features) == (16, 1)
    images = torch.randn(4, 1, 16, 16)
    save(network, tmp_path)
    answers = load(tmp_path)(images)
    assert answers.shape == (4, 1)
    torch.testing.assert_close(network.eval()(images), answers)


def test_pad_shortcut_takes_every_second_pixel_and_centres_the_channels() -> None:
    maps = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    out = PadShortcut(2, 4, stride=2)(maps)
    assert out.shape == (1, 4, 2, 2)
    assert torch.equal(out[:, 1:3], maps[:, :, ::2, ::2])
    assert not out[:, [0, 3]].any()


def test_resnet20_with_padded_shortcuts_has_the_counts_of_the_public_cifar10_weights() -> None:
    assert parameters(build("resnet20", classes=10, shortcut="pad")) == 269_722
    assert parameters(build("resnet56", classes=10, shortcut="pad")) == 853_018


# Checkpoints


def student(**kwargs: object) -> nn.Module:
    return build("resnet20", **{"classes": 10} | kwargs)


def public_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state under the names of public CIFAR ResNets, without batch counters."""
    state = {k: v.clone() for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {k.replace("linear.", "fc.").replace("shortcut.", "downsample."): v for k, v in state.items()}


def write(path: Path, state: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".npz", ".safetensors"])
def test_a_checkpoint_of_each_format_gives_the_same_logits(tmp_path: Path, suffix: str) -> None:
    torch.manual_seed(0)
    teacher, ours = student().eval(), student().eval()
    images = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(teacher(images), ours(images))
    write(tmp_path / f"teacher{suffix}", public_state(teacher))
    match = load_checkpoint(ours, tmp_path / f"teacher{suffix}")
    torch.testing.assert_close(ours(images), teacher(images))
    assert match.tensors == len(public_state(teacher))
    assert match.renamed["linear.bias"] == "fc.bias"
    assert match.renamed["layer2.0.shortcut.0.weight"] == "layer2.0.downsample.0.weight"
    assert str(match) == f"all {match.tensors} tensors matched ({parameters(ours):,} parameters, 12 of them renamed)"


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "net", None])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapped_and_prefixed_state_dicts(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    teacher, ours = student(), student()
    state = {prefix + k: v for k, v in teacher.state_dict().items()}
    content = {wrapper: state, "epoch": 240, "optimizer": {"lr": 0.1}} if wrapper else state
    torch.save(content, tmp_path / "teacher.pth")
    assert load_checkpoint(ours, tmp_path / "teacher.pth").renamed == {}
    for key, value in teacher.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key


def refused(network: nn.Module, path: Path) -> str:
    """The sentence with which `path` is refused; the network must be as before."""
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_checkpoint(network, path)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_unexpected_and_misshapen_keys_are_counted_and_named(tmp_path: Path) -> None:
    state = student(classes=100).state_dict()
    state = {k: v for k, v in state.items() if not k.startswith("layer1.0.")} | {"extra": torch.zeros(1)}
    torch.save(state, tmp_path / "other.pth")
    message = refused(student(), tmp_path / "other.pth")
    assert "10 missing: layer1.0.bn1.bias, layer1.0.bn1.running_mean" in message
    assert message.split("missing: ")[1].split(";")[0].count("layer1") == 5
    assert "1 unexpected: extra;" in message
    assert "2 of another shape: linear.weight (file (100, 64), network (10, 64))" in message


def test_another_shortcut_is_told_by_its_keys(tmp_path: Path) -> None:
    torch.save(student(shortcut="pad").state_dict(), tmp_path / "pad.pth")
    assert "10 missing: layer2.0.shortcut.0.weight" in refused(student(), tmp_path / "pad.pth")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("form", ["zip", "plain pickle", "npz"])
def test_a_file_that_holds_code_is_refused_and_nothing_runs(tmp_path: Path, form: str) -> None:
    made = tmp_path / "made_by_the_checkpoint"
    path = tmp_path / ("teacher.npz" if form == "npz" else "teacher.pth")
    content = {"model": student().state_dict(), "extra": Bomb(made)}
    if form == "zip":
        torch.save(content, path)
    elif form == "plain pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        np.savez(path, extra=np.array([Bomb(made)], dtype=object))
    assert "Python objects other than tensors" in refused(student(), path)
    assert not made.exists()
    pickle.loads(pickle.dumps(Bomb(made)))  # the bomb is a real one
    assert made.exists()


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"teacher{suffix}"
    write(path, student().state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "truncated, damaged or of another kind" in refused(student(), path)


def test_a_file_that_is_absent_of_unknown_kind_or_no_state_dict_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused(student(), tmp_path / "absent.pth")
    (tmp_path / "teacher.h5").write_bytes(b"x")
    assert "allowed: .pth, .pt, .safetensors, .npz" in refused(student(), tmp_path / "teacher.h5")
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    assert "holds no state dict" in refused(student(), tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "number.pth")
    assert "holds no state dict" in refused(student(), tmp_path / "number.pth")
    np.savez(tmp_path / "text.npz", name=np.array(["resnet20"]))
    assert "of another kind" in refused(student(), tmp_path / "text.npz")
