"""Files from outside that are no checkpoint, or are one that means harm: each is refused in a sentence, and nothing runs."""

from __future__ import annotations

import collections
import gzip
import io
import json
import pickle
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gankd.data import DataSet, Split
from gankd.errors import UserError
from gankd.metrics.extractors import from_weights
from gankd.models import build
from gankd.models.biggan_import import import_discriminator, import_generator
from gankd.models.checkpoint_file import open_checkpoint
from gankd.models.classifier_import import load_checkpoint
from gankd.stages.checks import check_classifier
from gankd.stages.sections import ClassifierConfig


def network() -> nn.Module:
    torch.manual_seed(0)
    return build("small_cnn", classes=4, image_channels=1, image_size=8, width=4)  # type: ignore[no-any-return]


STATE = network().state_dict()
FIRST = next(iter(STATE))
LEGACY = {"_use_new_zipfile_serialization": False}


def saved(path: Path, content: Any, **how: Any) -> None:
    torch.save(content, path, **how)


def with_first(value: Tensor) -> dict[str, Tensor]:
    return {**STATE, FIRST: value}


def archive(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)


def repacked(path: Path, change: Callable[[dict[str, bytes]], None], compression: int = zipfile.ZIP_STORED) -> None:
    """A checkpoint of torch whose members have been changed."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    change(members)
    archive(path, members, compression)


def claim(members: dict[str, bytes], numel: int) -> None:
    """The pickle says that its first storage has `numel` numbers."""
    (name,) = [name for name in members if name.endswith("/data.pkl")]
    true = STATE[FIRST].numel()
    old = b"K" + bytes([true]) if true < 256 else b"M" + struct.pack("<H", true)
    assert old in members[name]
    members[name] = members[name].replace(old, b"\x8a\x08" + struct.pack("<q", numel), 1)


def legacy_claim(path: Path) -> None:
    content = io.BytesIO()
    torch.save(STATE, content, **LEGACY)
    members = {"x/data.pkl": content.getvalue()}
    claim(members, 10 * 2**30)
    path.write_bytes(members["x/data.pkl"])


def big_member(path: Path) -> None:
    """4 GiB of zeros as a storage that no tensor needs, in 4 MB."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        prefix = file.namelist()[0].partition("/")[0]
        with file.open(f"{prefix}/data/999", "w", force_zip64=True) as member:
            for _ in range(64):  # as large as it is worth in a test; the directory says the rest
                member.write(bytes(2**20))


def huge_claim_of_safetensors(path: Path) -> None:
    header = json.dumps({FIRST: {"dtype": "F32", "shape": [2**44], "data_offsets": [0, 2**46]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def huge_claim_of_npz(path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**44,)})
    archive(path, {f"{FIRST}.npy": header.getvalue()})


def called(function: Any, *arguments: Any) -> Any:
    """Something that is pickled as the call of a function."""

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return function, arguments

    return Call()


class Bomb:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.target, "w")


def script(path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)


def quantised() -> Tensor:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(STATE[FIRST], 0.1, 0, torch.qint8)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("weights"), io.BytesIO())


NOT_NUMBERS = torch.full_like(STATE[FIRST], torch.nan)
ONE_INFINITE = STATE[FIRST].clone()
ONE_INFINITE.view(-1)[1] = -torch.inf
VARIANCE = next(name for name in STATE if name.endswith("running_var"))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456789\n"

# what -> (ending, how it is written, what the message says)
HOSTILE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a page": (".pth", lambda p: p.write_text("\n<!DOCTYPE html><html><body>404</body></html>"), "an HTML page"),
    "a page in capitals": (".safetensors", lambda p: p.write_text("<HTML><head></head></HTML>"), "an HTML page"),
    "a pointer": (".pth", lambda p: p.write_bytes(POINTER), "a Git-LFS pointer.*git lfs pull"),
    "a pointer as safetensors": (".safetensors", lambda p: p.write_bytes(POINTER), "a Git-LFS pointer"),
    "JSON": (".pt", lambda p: p.write_text('{"error": "not found"}'), "a JSON file"),
    "text": (".pth", lambda p: p.write_text("weights are at ...\n"), "a text file"),
    "XML": (".npz", lambda p: p.write_text("<?xml version='1.0'?><Error/>"), "an XML file"),
    "empty": (".pth", lambda p: p.write_bytes(b""), "it is empty"),
    "a folder": (".pth", lambda p: p.mkdir(), "a folder"),
    "noise": (".pth", lambda p: p.write_bytes(bytes(range(128, 256))), "a pickle that torch.save did not"),
    "another zip": (".pth", lambda p: archive(p, {"a.txt": b"x", "b.txt": b"y"}), r"a zip archive of a\.txt, b\.txt"),
    "an empty zip": (".pth", lambda p: archive(p, {}), "without files"),
    "TorchScript": (".pt", script, "a TorchScript archive"),
    "an exported program": (".pt", lambda p: archive(p, {"m/archive_format": b"pt2"}), "an exported program"),
    "ONNX": (".pth", lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(99)), "an ONNX model"),
    "HDF5": (".pth", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "an HDF5 file"),
    "gzip": (".pth", lambda p: p.write_bytes(gzip.compress(b"weights")), "compressed with gzip.*unpack"),
    "tar": (".pth", tar, "a tar archive"),
    "one array": (".npz", lambda p: p.write_bytes(b"\x93NUMPY\x01\x00" + bytes(99)), "a single array"),
    "a truncated archive": (".pth", lambda p: (saved(p, STATE), p.write_bytes(p.read_bytes()[:-50])), "truncated"),
    "two files of a name": (".pth", lambda p: (saved(p, STATE), twice(p)), "two files of one name"),
    "code": (".pth", lambda p: saved(p, {"model": STATE, "bomb": Bomb(f"{p}-ran")}), r"open\), which could run code"),
    "code, old format": (".pth", lambda p: saved(p, {"m": STATE, "b": Bomb(f"{p}-ran")}, **LEGACY), r"could run code"),
    "a plain pickle": (".pth", lambda p: p.write_bytes(pickle.dumps(Bomb(f"{p}-ran"))), "could run code"),
    "objects in npz": (".npz", lambda p: np.savez(p, a=np.array([Bomb(f"{p}-ran")], dtype=object)), "could run code"),
    "memory by bytearray": (".pth", lambda p: saved(p, {"m": STATE, "b": called(bytearray, 2**40)}), "bytearray"),
    "memory by Tensor": (".pth", lambda p: saved(p, {"m": STATE, "b": called(torch.Tensor, 2**40)}), "Tensor"),
    "memory by storage": (".pth", lambda p: saved(p, {"b": called(torch.UntypedStorage, 2**40)}), "UntypedStorage"),
    "40 GiB": (".pth", lambda p: repacked(p, lambda m: claim(m, 10 * 2**30)), "to take 42.9 GB, and the file has .* kB"),
    "40 GiB, old format": (".pth", legacy_claim, r"to take (42\.9 GB|more memory than there is)"),
    "an archive that unpacks to more": (".pth", big_member, r"67\.1 MB when unpacked.*save it again"),
    "a compressed archive": (".pth", lambda p: repacked(p, lambda m: None, zipfile.ZIP_DEFLATED), "a compressed archive"),
    "64 TiB of safetensors": (".safetensors", huge_claim_of_safetensors, "truncated, damaged"),
    "64 TiB of npz": (".npz", huge_claim_of_npz, "not as large in the file"),
    "one number for many": (".pth", lambda p: saved(p, with_first(torch.zeros(1).expand(2**40))), "more numbers than the file"),
    "a scalar": (".pth", lambda p: saved(p, with_first(torch.tensor(1.0))), r"1 of another shape: .*file \(\)"),
    "scalars everywhere": (".pth", lambda p: saved(p, {k: torch.tensor(1.0) for k in STATE}), "of another shape"),
    "one dimension": (".npz", lambda p: np.savez(p, **{k: v.flatten().numpy() for k, v in STATE.items()}), "of another shape"),
    "no numbers": (".pth", lambda p: saved(p, with_first(torch.zeros(0, 2**40))), "of another shape"),
    "sparse": (".pth", lambda p: saved(p, with_first(STATE[FIRST].to_sparse())), "sparse tensors"),
    "quantised": (".pth", lambda p: saved(p, with_first(quantised())), "quantised tensors"),
    "complex": (".pth", lambda p: saved(p, with_first(torch.complex(STATE[FIRST], STATE[FIRST]))), "complex"),
    "complex npz": (".npz", lambda p: np.savez(p, a=np.zeros(3, np.complex64)), "complex64"),
    "meta": (".pth", lambda p: saved(p, with_first(STATE[FIRST].to("meta"))), "meta tensors"),
    "integers": (".pth", lambda p: saved(p, {k: v.long() for k, v in STATE.items()}), r"\(file int64, network float32"),
    "float8": (".safetensors", lambda p: save_file(with_first(STATE[FIRST].to(torch.float8_e4m3fn)), p), "F8_E4M3"),
    "NaN": (".pth", lambda p: saved(p, with_first(NOT_NUMBERS)), f"{FIRST}' that are NaN"),
    "all NaN": (".safetensors", lambda p: save_file({k: v * torch.nan for k, v in STATE.items()}, p), "NaN or infinite"),
    "one infinite number": (".safetensors", lambda p: save_file(with_first(ONE_INFINITE), p), "has 1 of 36 numbers"),
    "too large for fp32": (".pth", lambda p: saved(p, with_first(STATE[FIRST].double() + 1e300)), "NaN or infinite"),
    "negative variances": (".pth", lambda p: saved(p, {**STATE, VARIANCE: -STATE[VARIANCE]}), "negative variances"),
    "itself inside": (".pth", lambda p: saved(p, itself()), "holds no state dict"),
    "numbers alone": (".pth", lambda p: saved(p, {"epoch": 3, "lr": 0.1}), "holds no state dict"),
    "text arrays": (".npz", lambda p: np.savez(p, name=np.array(["resnet20"])), "of another kind"),
}  # fmt: skip


def itself() -> dict[str, Any]:
    content: dict[str, Any] = {"a": 1}
    content["b"] = content
    return content


def twice(path: Path) -> None:
    import warnings

    with zipfile.ZipFile(path, "a") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file.writestr(file.namelist()[0], b"x")


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_file_that_is_no_checkpoint_is_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    ending, write, said = HOSTILE[kind]
    path, ours = tmp_path / f"weights{ending}", network()
    write(path)
    if path.is_file():
        assert path.stat().st_size < 2**20, "such a file is small on disk"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=said) as error:
        load_checkpoint(ours, path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "less than 512 MiB"
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert all(torch.equal(value, STATE[name]) for name, value in ours.state_dict().items())
    assert not Path(f"{path}-ran").exists()


def test_the_bomb_is_a_real_one(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(f"{tmp_path}/ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "old format"])
def test_tensors_that_torch_saves_in_other_ways_are_taken(tmp_path: Path, how: dict[str, Any]) -> None:
    """Parameters, views into one storage, other strides, half and double precision, and what scripts save beside them."""
    flat = torch.cat([value.flatten().float() for value in STATE.values()])
    parts = dict(zip(STATE, flat.split([value.numel() for value in STATE.values()]), strict=True))
    views = {name: parts[name].view(value.shape) for name, value in STATE.items()}
    strided = {name: v.to(memory_format=torch.channels_last) if v.dim() == 4 else v for name, v in STATE.items()}
    parameters = {name: nn.Parameter(v) if v.is_floating_point() else v for name, v in STATE.items()}
    beside = {
        "state_dict": STATE,
        "epoch": 3,
        "optimizer": torch.optim.Adam(network().parameters()).state_dict(),
        "size": STATE[FIRST].shape,
    }
    for content in (views, strided, parameters, collections.OrderedDict(STATE), beside):
        saved(tmp_path / "weights.pth", content, **how)
        ours = build("small_cnn", classes=4, image_channels=1, image_size=8, width=4)
        load_checkpoint(ours, tmp_path / "weights.pth")
        assert all(torch.equal(value, STATE[name]) for name, value in ours.state_dict().items())
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        saved(tmp_path / "weights.pth", {name: v.to(dtype) if v.is_floating_point() else v for name, v in STATE.items()}, **how)
        load_checkpoint(ours, tmp_path / "weights.pth")
        torch.testing.assert_close(ours.state_dict()[FIRST], STATE[FIRST].to(dtype).float(), rtol=0, atol=0)


def test_the_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "weights.pth")
    load_checkpoint(network(), tmp_path / "weights.pth")
    saved(tmp_path / "weights.ckpt", STATE)
    load_checkpoint(network(), tmp_path / "weights.ckpt")


# Names that other programs give.


def named(rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): value for name, value in STATE.items()}


def inside(name: str) -> str:
    """As torch names a layer inside that is wrapped."""
    first, _, rest = name.partition(".")
    return f"{first}._orig_mod.{rest}" if rest else name


PREFIXED: dict[str, tuple[Any, str]] = {
    "data parallel": (named("module.{}".format), "without 'module.' in their names"),
    "compiled": (named("_orig_mod.{}".format), "without '_orig_mod.'"),
    "compiled data parallel": (named("module._orig_mod.{}".format), "without 'module.' and '_orig_mod.'"),
    "lightning": ({"state_dict": named("model.{}".format), "epoch": 3}, "without 'model.'"),
    "lightning, compiled": ({"state_dict": named("model._orig_mod.{}".format)}, "without 'model.' and '_orig_mod.'"),
    "net": (named("net.{}".format), "without 'net.'"),
    "a lab's own": (named("trainer.student.{}".format), "without 'trainer.' and 'student.'"),
    "a layer wrapped": (named(inside), "without '_orig_mod.'"),
    "model_state_dict": ({"model_state_dict": STATE}, "tensors matched"),
    "an average": ({"ema": STATE, "epoch": 3}, "taken from 'ema' in the file"),
    "two levels": ({"checkpoint": {"weights": STATE}}, "taken from 'checkpoint.weights'"),
    "two that fit": ({"ema": STATE, "model": STATE}, "taken from 'model' in the file, not from 'ema'"),
    "beside another network": ({"state_dict": {"fc.weight": torch.zeros(3, 3)}, "student": STATE}, "taken from 'student'"),
}  # fmt: skip


@pytest.mark.parametrize("case", PREFIXED)
def test_what_other_programs_put_before_names_is_taken_off_and_said(tmp_path: Path, case: str) -> None:
    content, said = PREFIXED[case]
    saved(tmp_path / "weights.pth", content)
    ours = build("small_cnn", classes=4, image_channels=1, image_size=8, width=4)
    match = load_checkpoint(ours, tmp_path / "weights.pth")
    assert said in str(match)
    assert match.tensors == len(STATE)
    assert all(torch.equal(value, STATE[name]) for name, value in ours.state_dict().items())


def test_a_prefix_is_taken_off_only_when_all_names_then_fit(tmp_path: Path) -> None:
    saved(tmp_path / "weights.pth", named("model.{}".format) | {"criterion.weight": torch.ones(3)})
    with pytest.raises(UserError, match=r"unexpected: .*criterion\.weight"):
        load_checkpoint(network(), tmp_path / "weights.pth")


def test_nothing_is_said_of_a_file_with_our_own_names(tmp_path: Path) -> None:
    saved(tmp_path / "weights.pth", {"state_dict": STATE})
    assert str(load_checkpoint(network(), tmp_path / "weights.pth")).endswith("parameters)")


# BigGAN: the architecture is read off the shapes.


def gan(name: str) -> dict[str, Tensor]:
    return build(
        name, image_size=16, classes=2, image_channels=1, width=2, **({"dim_z": 4} if name == "biggan" else {})
    ).state_dict()


@pytest.mark.parametrize(("name", "importer"), [("biggan", import_generator), ("biggan_discriminator", import_discriminator)])
def test_a_gan_whose_sizes_are_none_is_refused(name: str, importer: Callable[..., nn.Module]) -> None:
    state = gan(name)
    for wrong in (
        torch.tensor(1.0),
        torch.zeros(3),
        torch.zeros(0, 2**40, 1, 1),
        torch.zeros(1, 2**20, 1, 1),
        torch.zeros(2, 1, 3, 3),
    ):
        for entry in state:
            if state[entry].dim() > 1:
                with pytest.raises(UserError, match="BigGAN"):
                    importer({**state, entry: wrong})
    with pytest.raises(UserError, match="BigGAN"):
        importer({**state, "blocks.99999999999999999999.1.gamma": torch.tensor(0.0)})
    with pytest.raises(UserError, match="of another type"):
        importer({entry: value.long() for entry, value in state.items()})


def test_meta_tensors_give_the_shapes_of_a_gan_and_prefixes_are_taken_off() -> None:
    state = gan("biggan")
    outline = import_generator({name: value.to("meta") for name, value in state.items()})
    assert outline.recipe["dim_z"] == 4
    assert next(outline.parameters()).is_meta
    again = import_generator({f"module._orig_mod.G.{name}": value for name, value in state.items()})
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())


def test_a_gans_file_passes_the_same_gate(tmp_path: Path) -> None:
    saved(
        tmp_path / "G.pth", {"G_ema": {**gan("biggan"), "linear.bias": torch.full_like(gan("biggan")["linear.bias"], torch.nan)}}
    )
    file = open_checkpoint(tmp_path / "G.pth")
    with pytest.raises(UserError, match=r"'linear\.bias' that are NaN"):
        file.read("G_ema")


def test_what_was_taken_off_is_said_before_the_sweep_starts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved(tmp_path / "weights.pth", named("model.{}".format))
    cfg = ClassifierConfig(network="small_cnn", width=4, checkpoint=str(tmp_path / "weights.pth"))
    part = Split(np.zeros((4, 1, 8, 8), np.uint8), np.arange(4))
    check_classifier("teacher", cfg, DataSet("toy", part, part, part, 4, tuple("abcd"), "", None, "0123456789abcdef"))
    assert "teacher checkpoint" in caplog.text
    assert "without 'model.' in their names" in caplog.text


def test_an_extractors_file_passes_the_same_gate(tmp_path: Path) -> None:
    (tmp_path / "inception.pth").write_text("<html></html>")
    with pytest.raises(UserError, match="an HTML page"):
        from_weights("inception_torchvision", str(tmp_path / "inception.pth"))


def test_other_things_in_a_file_may_not_take_far_more_memory_than_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gankd.models.checkpoint_file.FLOOR", 2**16)
    saved(tmp_path / "weights.pth", {"model": STATE, "queue": {"images": torch.zeros(2**20)}})
    with pytest.raises(UserError, match="save the state dict alone"):
        load_checkpoint(network(), tmp_path / "weights.pth")
