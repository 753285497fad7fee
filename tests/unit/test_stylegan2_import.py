"""Official StyleGAN2-ADA files as ours, bit for bit; and files that mean harm, refused in a sentence, with nothing run."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import resource
import struct
import sys
import time
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gankd import models
from gankd.errors import UserError
from gankd.models.stylegan2_import import read_stylegan2

SMALL = {"image_size": 8, "image_channels": 1, "channel_base": 32, "channel_max": 6, "conv_clamp": 256.0}
IMAGE_OPTIONS = {"c_dim": 0, "img_resolution": 8, "img_channels": 1}
CHANNEL_OPTIONS = {"channel_base": 32, "channel_max": 6, "num_fp16_res": 4, "conv_clamp": 256}


class EasyDict(dict):  # type: ignore[type-arg]
    __module__ = "dnnlib.util"


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("the official loader runs meta['module_src']")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Call:
    """Pickled, it is a call of the function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.how = (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.how


def pickled(content: Any, protocol: int = 4) -> bytes:
    """As a program that has StyleGAN2-ADA's modules writes it."""
    theirs = {"dnnlib": types.ModuleType("dnnlib"), "torch_utils": types.ModuleType("torch_utils")}
    theirs |= {name: types.ModuleType(name) for name in ("dnnlib.util", "torch_utils.persistence")}
    theirs["dnnlib.util"].EasyDict = EasyDict
    theirs["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    with pytest.MonkeyPatch.context() as patch:
        for name, module in theirs.items():
            patch.setitem(sys.modules, name, module)
        return pickle.dumps(content, protocol)


def state_of(network: nn.Module, source: str, **more: Any) -> dict[str, Any]:
    return {
        "training": False,
        "_parameters": OrderedDict(network._parameters),
        "_buffers": OrderedDict(network._buffers),
        "_non_persistent_buffers_set": set(),
        "_backward_hooks": OrderedDict(),
        "_modules": OrderedDict((name, module and persistent(module, source)) for name, module in network._modules.items()),
        "act_gain": np.sqrt(2),
        "use_noise": np.bool_(True),
        "_init_args": (),
        "_init_kwargs": EasyDict(more),
    }


def persistent(network: nn.Module, source: str, **options: Any) -> Call:
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": type(network).__name__}
    return Call(_reconstruct_persistent_obj, {**meta, "state": state_of(network, source, **options)})


def generator(**changes: Any) -> Any:
    torch.manual_seed(1)
    arguments = {**SMALL, "dim_z": 5, "dim_w": 7, "mapping_layers": 2, "architecture": "skip", **changes}
    return models.build("stylegan2", **arguments).requires_grad_(False)


def discriminator(**changes: Any) -> Any:
    torch.manual_seed(2)
    arguments = {**SMALL, "architecture": "orig", "mbstd_group": 32, "mbstd_channels": 1, **changes}
    return models.build("stylegan2_discriminator", **arguments).requires_grad_(False)


def generator_options(**changes: Any) -> dict[str, Any]:
    parts = {"mapping_kwargs": EasyDict(num_layers=2), "synthesis_kwargs": EasyDict(CHANNEL_OPTIONS)}
    return {"z_dim": 5, "w_dim": 7, **IMAGE_OPTIONS, **parts, **changes}


def discriminator_options(**changes: Any) -> dict[str, Any]:
    epilogue = EasyDict(mbstd_group_size=32)
    parts = {"block_kwargs": EasyDict(), "mapping_kwargs": EasyDict(), "epilogue_kwargs": epilogue}
    return {**IMAGE_OPTIONS, **CHANNEL_OPTIONS, "architecture": "orig", **parts, **changes}


def snapshot(source: str = "", **changes: Any) -> dict[str, Any]:
    g = persistent(generator(), source, **generator_options())
    d = persistent(discriminator(), source, **discriminator_options())
    augment = persistent(nn.BatchNorm2d(3), source, xflip=1.0)
    return {"G": g, "D": d, "G_ema": g, "augment_pipe": augment, "training_set_kwargs": EasyDict(path="x"), **changes}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_comes_back_bit_for_bit_and_its_source_is_not_run(tmp_path: Path, protocol: int) -> None:
    path, marker = tmp_path / "network.pkl", tmp_path / "ran"
    path.write_bytes(pickled(snapshot(f"open({str(marker)!r}, 'w')"), protocol))
    random_state = torch.get_rng_state()
    found = read_stylegan2(path)
    assert torch.equal(random_state, torch.get_rng_state())
    assert not marker.exists()
    assert "torch_utils" not in sys.modules
    for ours, theirs in ((found.generator, generator()), (found.discriminator, discriminator())):
        assert not ours.training
        assert not any(p.requires_grad for p in ours.parameters())
        assert ours.recipe == theirs.recipe
        state = theirs.state_dict()
        assert ours.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in ours.state_dict().items())
    z, images = torch.randn(3, 5), torch.randn(3, 1, 8, 8)
    assert torch.equal(found.generator(z), generator().eval()(z))
    assert torch.equal(found.discriminator(images), discriminator().eval()(images))
    counts = ("G_ema: 37 of 37 tensors matched at 8 px", "D: 17 of 17 tensors matched")
    for said in (*counts, "not read: 'G', 'augment_pipe', 'training_set_kwargs'"):
        assert said in found.matched
    models.save(found.generator, tmp_path / "saved")
    assert torch.equal(models.load(tmp_path / "saved")(z), found.generator(z))


def test_options_and_their_defaults(tmp_path: Path) -> None:
    path, images = tmp_path / "network.pkl", {"image_size": 8, "image_channels": 1, "channel_base": 24}
    g = models.build("stylegan2", **images, dim_z=5, dim_w=7, mapping_layers=8, architecture="resnet").requires_grad_(False)
    d = models.build("stylegan2_discriminator", **images).requires_grad_(False)
    parts = {"mapping_kwargs": {"w_avg_beta": 0.998}, "synthesis_kwargs": {"channel_base": 24, "architecture": "resnet"}}
    of_g = persistent(g, "", **generator_options(**parts))
    of_d = persistent(d, "", **IMAGE_OPTIONS, channel_base=24)
    path.write_bytes(pickled({"G_ema": of_g, "D": of_d}))
    found = read_stylegan2(str(path))
    assert found.generator.recipe == g.recipe | {"channel_max": 512, "conv_clamp": None, "architecture": "resnet"}
    assert found.discriminator.b4.group == 4
    assert torch.equal(found.discriminator(torch.ones(2, 1, 8, 8)), d.eval()(torch.ones(2, 1, 8, 8)))
    path.write_bytes(pickled({"G_ema": of_g, "D": None}))
    assert read_stylegan2(path).discriminator is None


def test_weights_in_other_strides_and_shared_storages(tmp_path: Path) -> None:
    g = generator()
    expected = {name: value.clone() for name, value in g.state_dict().items()}
    flat = torch.cat([p.flatten() for p in g.parameters()])
    for p, part in zip(g.parameters(), flat.split([p.numel() for p in g.parameters()])):
        p.data = part.view(p.shape)
    layer = g.synthesis.b8.conv0
    layer.weight.data = layer.weight.data.to(memory_format=torch.channels_last)
    path = tmp_path / "network.pkl"
    path.write_bytes(pickled({"G_ema": persistent(g, "", **generator_options())}))
    found = read_stylegan2(path).generator.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(value.is_contiguous() for value in found.values())


# What is no such file, or one that means harm.


def changed(name: str, value: Any, network: Callable[[], nn.Module] = generator) -> Callable[[Path], bytes]:
    """A file whose tensor `name` is another, or None for one that is missing."""

    def write(_: Path) -> bytes:
        g = network()
        module, _, last = name.rpartition(".")
        owner = g.get_submodule(module)
        table = owner._buffers if last in owner._buffers else owner._parameters
        table[last] = value(table.get(last)) if callable(value) else value
        return pickled({"G_ema": persistent(g, "", **generator_options())})

    return write


def options(**changes: Any) -> Callable[[Path], bytes]:
    return lambda _: pickled({"G_ema": persistent(generator(), "", **generator_options(**changes))})


def of_d(**changes: Any) -> Callable[[Path], bytes]:
    return lambda _: pickled(snapshot(D=persistent(discriminator(), "", **discriminator_options(**changes))))


def calling(function: Any, *arguments: Any) -> Callable[[Path], bytes]:
    return lambda _: pickled({"G_ema": Call(function, *arguments)})


def running(function: Any, say: Callable[[Path], str]) -> Callable[[Path], bytes]:
    return lambda marker: pickled({"G_ema": Call(function, say(marker))})


def touch(marker: Path) -> str:
    return f"touch {marker}"


def create(marker: Path) -> str:
    return f"open({str(marker)!r}, 'w')"


def raw(*parts: bytes | str) -> Callable[[Path], bytes]:
    """Instructions as they are; a text is an operand."""
    joined = b"".join(b"\x8c" + bytes([len(p)]) + p.encode() if isinstance(p, str) else p for p in parts)
    return lambda _: b"\x80\x04" + joined + b"."


def in_storage(write: Callable[[Path], bytes]) -> Callable[[Path], bytes]:
    return lambda marker: pickled({"G_ema": Call(torch.storage._load_from_bytes, write(marker))})


def storage_of(values: torch.Tensor) -> bytes:
    storage = values.__reduce_ex__(2)[1][0]
    return storage.__reduce__()[1][0]  # type: ignore[no-any-return]


def legacy(fourth: Any, numbers: bytes = b"") -> bytes:
    """As torch.save writes a storage; `fourth` stands in the place of its description."""
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, fourth, ["0"]]
    return b"".join(p if isinstance(p, bytes) else pickle.dumps(p, 2) for p in parts) + numbers


def described(count: int) -> bytes:
    """A storage that says how many numbers it has."""
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 2)
    description = ("storage", torch.FloatStorage, "0", "cpu", count, None)
    pickler.persistent_id = lambda value: description if value == "it" else None  # type: ignore[method-assign]
    pickler.dump("it")
    return file.getvalue()


FOUR = Call(torch.storage._load_from_bytes, storage_of(torch.ones(4)))


def tensor(begin: Any, shape: Any, strides: Any) -> Callable[[Path], bytes]:
    return calling(torch._utils._rebuild_tensor_v2, FOUR, begin, shape, strides, False, OrderedDict())


def endless_key(_: Path) -> bytes:
    """A table with a key that takes 2^60 steps to hash: a pair of a pair of ... the same, each kept in the machine's memory."""
    pairs = b"".join(b"h%ch%c\x86\x94" % (i, i) for i in range(60))
    return b"\x80\x04)\x94" + pairs + b"}" + b"h%cK\x01s." % 60


def looped_modules(_: Path) -> bytes:
    """Modules each of which holds the next one twice: 2^40 of them."""
    module: Any = Call(_reconstruct_persistent_obj, {"type": "class", "state": {}})
    for _level in range(12):
        module = Call(_reconstruct_persistent_obj, {"type": "class", "state": {"_modules": {str(i): module for i in range(8)}}})
    return pickled({"G_ema": module})


def repeated_text(_: Path) -> bytes:
    """A text of 1 MB that is to be encoded a hundred thousand times."""
    text, call = b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x94", b"h\x02h\x01R"
    begin = b"\x80\x04(" + text + b"\x8c\x06latin1\x86\x94" + b"\x8c\x07_codecs\x8c\x06encode\x93\x94"
    return begin + call * 10**5 + b"l."


def zipped(_: Path) -> bytes:
    file = io.BytesIO()
    torch.save({"G_ema": torch.ones(2)}, file)
    assert zipfile.is_zipfile(file)
    return file.getvalue()


def whole(_: Path) -> bytes:
    return pickled(snapshot())


def protocol_0(marker: Path) -> bytes:
    return b"cos\nsystem\n(S'" + touch(marker).encode() + b"'\ntR."


def old_tuple(_: Path) -> bytes:
    return pickled(({"a": 1}, {"b": 2}, {"c": 3}))


CODE, DAMAGED = "can run code", "truncated, damaged"
NAN = float("nan")
HOSTILE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "os.system": (running(os.system, touch), f"uses posix.system, .*{CODE}"),
    "os.system by text": (raw("os", "system", b"\x93", "true", b"\x85R"), f"uses os.system, .*{CODE}"),
    "eval": (running(eval, create), f"uses builtins.eval, .*{CODE}"),
    "exec, protocol 2": (lambda m: pickled({"G_ema": Call(exec, create(m))}, 2), f"uses __builtin__.exec, .*{CODE}"),
    "getattr": (raw("builtins", "getattr", b"\x93"), f"uses builtins.getattr, .*{CODE}"),
    "an attribute of a known class": (raw("collections", "OrderedDict.__init__", b"\x93"), f"OrderedDict.__init__, .*{CODE}"),
    "a name of 10 MB": (lambda _: b"\x80\x04c" + b"a" * 10**7 + b"\nb\n.", f"uses 'a{{100}}', .*{CODE}"),
    "torch.load": (calling(torch.load, "x"), f"uses torch.serialization.load, .*{CODE}"),
    "torch.hub": (calling(torch.hub.load, "x", "y"), f"uses torch.hub.load, .*{CODE}"),
    "numpy.load": (calling(np.load, "x"), f"uses numpy.load, .*{CODE}"),
    "an array": (lambda _: pickled({"G_ema": np.ones(3)}), f"uses numpy.*_(reconstruct|frombuffer), .*{CODE}"),
    "code in a storage": (in_storage(running(os.system, touch)), f"uses posix.system, .*{CODE}"),
    "code in a storage's description": (
        in_storage(lambda m: legacy(pickle.dumps(Call(os.system, touch(m)), 2))), f"uses posix.system, .*{CODE}"
    ),
    "a storage in a storage": (in_storage(lambda _: legacy(FOUR)), f"uses torch.storage._load_from_bytes, .*{CODE}"),
    "a state for a known class": (
        raw("collections", "OrderedDict", b"\x93)R}", "__class__", b"K\x01sb"), f"uses the instruction BUILD, .*{CODE}"
    ),
    "a state for a network": (
        raw(b"(", "torch_utils.persistence", "_reconstruct_persistent_obj", b"\x93}", "type", "class", b"s", "state",
            b"}s\x85R}", "tensors", b"K\x01sb"),
        f"uses the instruction BUILD, .*{CODE}",
    ),
    "a persistent id": (raw("x", b"Q"), f"uses the instruction BINPERSID, .*{CODE}"),
    "a persistent id as text": (raw(b"Px\n"), f"uses the instruction PERSID, .*{CODE}"),
    "an extension": (raw(b"\x82\x01"), f"uses the instruction EXT1, .*{CODE}"),
    "INST": (raw(b"(ios\nsystem\n"), f"uses the instruction INST, .*{CODE}"),
    "OBJ": (raw(b"(", "x", b"o"), f"uses the instruction OBJ, .*{CODE}"),
    "NEWOBJ_EX": (raw("collections", "OrderedDict", b"\x93)}\x92"), f"uses the instruction NEWOBJ_EX, .*{CODE}"),
    "a call of a number": (raw(b"K\x01)R"), DAMAGED),
    "a call of a storage's type": (in_storage(lambda _: legacy(pickle.dumps(Call(torch.FloatStorage, 10**12), 2))), DAMAGED),
    "a huge tensor": (tensor(0, (2**40,), (0,)), "not dense"),
    "a tensor beyond its storage": (tensor(1, (4,), (1,)), "larger than its storage"),
    "a negative stride": (tensor(3, (4,), (-1,)), "not dense"),
    "a negative offset": (tensor(-1, (2,), (1,)), "not dense"),
    "a shape of texts": (tensor(0, ("4",), (1,)), DAMAGED),
    "a shape of many sizes": (tensor(0, (1,) * 10**5, (1,) * 10**5), "without a shape"),
    "a tensor of nothing": (calling(torch._utils._rebuild_tensor_v2, None, 0, (1,), (1,), False, None), DAMAGED),
    "a tensor of too few arguments": (calling(torch._utils._rebuild_tensor_v2, FOUR), DAMAGED),
    "a huge storage": (in_storage(lambda _: legacy(described(2**40), struct.pack("<q", 2**40))), "1099511627776 numbers and has"),
    "a storage of another size": (in_storage(lambda _: legacy(described(4), struct.pack("<q", 8) + b"0" * 32)), DAMAGED),
    "bytes in another encoding": (raw("_codecs", "encode", b"\x93", "x", "rot13", b"\x86R"), "an unknown encoding"),
    "a text encoded for ever": (repeated_text, "used more often"),
    "a key that takes for ever": (endless_key, "a tuple stands as a key"),
    "lists in lists": (lambda _: b"\x80\x04" + b"]" * 10**5 + b"a" * (10**5 - 1) + b".", "no network 'G_ema'"),
    "a million instructions": (lambda _: b"\x80\x04(" + b"N" * (10**6 + 5) + b"t.", "more than 1,000,000 instructions"),
    "modules without end": (looped_modules, "no end"),
    "a huge text that is not there": (raw(b"\x8d" + struct.pack("<Q", 2**60)), DAMAGED),
    "nothing on the stack": (lambda _: b"\x80\x04.", DAMAGED),
    "truncated": (lambda p: whole(p)[:-1000], DAMAGED),
    "followed by something": (lambda p: whole(p) + b"x", "something follows its end"),
    "empty": (lambda _: b"", "it is empty"),
    "one byte": (lambda _: b"\x80", "no pickle of StyleGAN2-ADA"),
    "gzip": (lambda p: gzip.compress(whole(p)), "compressed with gzip"),
    "torch.save": (zipped, "a zip archive"),
    "old torch.save": (lambda _: storage_of(torch.ones(4)), "no pickle of StyleGAN2-ADA"),
    "text": (lambda _: b"hello\n", "it begins with b'hello"),
    "protocol 0": (protocol_0, "no pickle of StyleGAN2-ADA"),
    "TensorFlow's three": (old_tuple, "of StyleGAN for TensorFlow"),
    "TensorFlow's networks": (raw(b"cdnnlib.tflib.network\nNetwork\n)\x81"), "of StyleGAN for TensorFlow"),
    "no networks": (lambda _: pickled({"epoch": 3}), "no network 'G_ema'"),
    "a list": (lambda _: pickled([1, 2]), "no network 'G_ema'"),
    "D is a number": (lambda _: pickled(snapshot(D=3)), "'D' is no network"),
    "a function that is persistent": (calling(_reconstruct_persistent_obj, {"type": "func"}), "no network"),
    "NaN": (changed("synthesis.b8.conv1.bias", lambda v: v * NAN), "NaN or infinite numbers in 'synthesis.b8.conv1.bias'"),
    "infinite": (changed("mapping.w_avg", lambda v: v + float("inf")), "NaN or infinite numbers in 'mapping.w_avg'"),
    "missing": (changed("synthesis.b8.conv1.bias", None), "no tensor 'synthesis.b8.conv1.bias'"),
    "unexpected": (changed("mapping.embed", nn.Parameter(torch.ones(2))), "a tensor 'mapping.embed' too many"),
    "of another shape": (changed("mapping.fc0.bias", lambda v: v[:3]), r"'mapping.fc0.bias' has shape \(3,\) and not \(7,\)"),
    "of another type": (changed("mapping.w_avg", lambda v: v.half()), "of type torch.float16"),
    "another filter": (changed("synthesis.b8.resample_filter", lambda v: v.roll(1)), "another filter"),
    "2^20 px": (options(img_resolution=2**20), "img_resolution 1048576 in G_ema"),
    "-8 px": (options(img_resolution=-8), "img_resolution -8 in G_ema"),
    "px as text": (options(img_resolution="32"), "img_resolution '32' in G_ema"),
    "px as truth": (options(img_resolution=True), "img_resolution True in G_ema"),
    "other px": (options(img_resolution=16), "does not fit StyleGAN2 at 16 px"),
    "labels": (options(c_dim=10), r"labels \(c_dim 10\) in G_ema"),
    "no width": (options(z_dim=None), "z_dim None in G_ema"),
    "a wide latent": (options(w_dim=10**9), "w_dim 1000000000 in G_ema"),
    "an unknown option": (options(truncation=0.5), "the option 'truncation' in G_ema"),
    "a mapping of layers that are too many": (options(mapping_kwargs={"num_layers": 10**6}), "num_layers 1000000"),
    "another activation": (options(mapping_kwargs={"activation": "relu"}), "activation 'relu' in G_ema.mapping_kwargs"),
    "no table of options": (options(synthesis_kwargs=[1]), "no options, but a list in G_ema.synthesis_kwargs"),
    "many channels": (options(synthesis_kwargs={"channel_base": 2**40}), "channel_base 1099511627776"),
    "too few channels": (options(synthesis_kwargs={"channel_base": 2}), "leave no channels"),
    "a clamp of NaN": (options(synthesis_kwargs={"conv_clamp": NAN}), "conv_clamp nan"),
    "an architecture of D": (of_d(architecture="dense"), "architecture 'dense' in D"),
    "a group of none in D": (of_d(epilogue_kwargs={"mbstd_group_size": 0}), "mbstd_group_size 0 in D.epilogue_kwargs"),
    "odd channels in D": (of_d(epilogue_kwargs={"mbstd_num_channels": 5}), "does not divide the 6 channels"),
    "another activation in D": (of_d(block_kwargs={"activation": "swish"}), "activation 'swish' in D.block_kwargs"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_refused_in_a_sentence(tmp_path: Path, kind: str) -> None:
    write, said = HOSTILE[kind]
    path, marker = tmp_path / "network.pkl", tmp_path / "ran"
    path.write_bytes(write(marker))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(UserError, match=said) as error:
        read_stylegan2(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "less than 256 MiB"
    assert time.process_time() - start < 10
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    assert not marker.exists()


def test_the_bombs_are_real_ones(tmp_path: Path) -> None:
    for name in ("os.system", "eval"):
        marker = tmp_path / name
        pickle.loads(HOSTILE[name][0](marker))
        assert marker.exists()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pkl", tmp_path):
        with pytest.raises(UserError, match="does not exist or is not a file"):
            read_stylegan2(path)
