"""Pickles of StyleGAN2-ADA for PyTorch, read without running anything in them.

Such a file is a pickle in which every network brings its own source text, which the official loader executes. Here a pickle is
a list of instructions for a small machine of our own, that has only those which data needs. A name in the file becomes a
function of ours that rebuilds a tensor or a container, or the file is refused by that name. Nothing is imported or called.
"""

from __future__ import annotations

import io
import math
import mmap
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from gankd.models.checkpoint_file import FLOATS, INTEGERS, KINDS
from gankd.models.file_kinds import LEGACY_MAGIC

# An official file has some 100 thousand instructions, 200 modules in five levels, and names of up to 51 characters.
MOST_INSTRUCTIONS, MOST_PARTS, DEPTH, LONGEST_NAME = 1_000_000, 10_000, 16, 100

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class ForeignError(Exception):
    """A name or an instruction that could run code; the text says which."""


@dataclass(frozen=True)
class Storage:
    """A row of numbers in the file."""

    dtype: torch.dtype
    content: memoryview


@dataclass(frozen=True)
class StoredTensor:
    """A dense tensor in the file, not read yet. begin: of its first number in the storage."""

    storage: Storage
    begin: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.storage.dtype

    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self) -> Tensor:
        first, last = (at * self.dtype.itemsize for at in (self.begin, self.begin + self.numel()))
        flat = torch.frombuffer(bytearray(self.storage.content[first:last]), dtype=self.dtype)
        return flat.as_strided(self.shape, self.strides).contiguous()


@dataclass(frozen=True)
class Record:
    """A network as the file has it: its attributes. Its source text is left out."""

    state: dict[str, Any]

    def tensors(self) -> dict[str, StoredTensor]:
        """Parameters and buffers under their state-dict names. Raises ValueError when it is built like no network."""
        found: dict[str, StoredTensor] = {}
        waiting, parts = [("", self, 0)], 0
        while waiting:
            prefix, module, depth = waiting.pop()
            tensors, modules = module.part("_parameters") | module.part("_buffers"), module.part("_modules")
            parts += len(tensors) + len(modules)
            if parts > MOST_PARTS or depth > DEPTH:
                raise ValueError("its modules have no end")
            found |= {prefix + name: _checked(value, StoredTensor) for name, value in tensors.items() if value is not None}
            inner = {name: _checked(value, Record) for name, value in modules.items() if value is not None}
            waiting += [(f"{prefix}{name}.", value, depth + 1) for name, value in inner.items()]
        return found

    def part(self, key: str) -> dict[str, Any]:
        """What an attribute of a torch module has by names."""
        named: dict[str, Any] = _checked(self.state.get(key, {}), dict)
        if len(named) > MOST_PARTS or not all(isinstance(name, str) and len(name) <= LONGEST_NAME for name in named):
            raise ValueError(f"{key} is no table of names")
        return named


@dataclass(frozen=True)
class Name:
    """What a pickle may look up, and ours in its place."""

    make: Callable[..., Any]


@dataclass(frozen=True)
class NumberType:
    """numpy's type of a single number."""

    code: str


@dataclass(frozen=True)
class Persistent:
    """What a storage's pickle has in place of its numbers."""

    value: Any


NUMBERS = {"f8": "<d", "f4": "<f", "i8": "<q", "i4": "<i", "b1": "<?"}


def _checked(value: Any, kind: type) -> Any:
    """`value`, which must be of exactly this type: True is no integer."""
    if type(value) is not kind:
        raise ValueError(f"a {type(value).__name__} stands where a {kind.__name__} should")
    return value


def _empty() -> dict[str, Any]:
    return {}


def _set(items: Any = None) -> set[Any]:
    return {_key(item) for item in _checked([] if items is None else items, list)}


def _key(value: Any) -> Any:
    if not isinstance(value, str | int):  # a nested tuple may take for ever to hash
        raise ValueError(f"a {type(value).__name__} stands as a key")
    return value


def _encode(text: Any, encoding: Any) -> bytes:
    if encoding != "latin1":
        raise ValueError("bytes in an unknown encoding")
    encoded: bytes = _checked(text, str).encode("latin1")
    return encoded


def _number_type(code: Any, _align: Any = False, _copy: Any = False) -> NumberType:
    return NumberType(_checked(code, str))


def _number(kind: Any, content: Any) -> Any:
    """A number of numpy as one of Python."""
    code = _checked(kind, NumberType).code.lstrip("<|")
    if code not in NUMBERS:
        raise ValueError(f"a number of numpy's type {code[:20]!r}")
    (number,) = struct.unpack(NUMBERS[code], _checked(content, bytes))
    return number


def _storage(content: Any) -> Storage:
    """Of what torch.save writes for a storage alone: five small pickles, then the count of the numbers, and these."""
    file = io.BytesIO(_checked(content, bytes))
    magic, _, system, named, keys = (_run(file, len(content), STORAGE_NAMES, persistent=True) for _ in range(5))
    if magic != int.from_bytes(LEGACY_MAGIC, "little") or _checked(system, dict).get("little_endian") is not True:
        raise ValueError("a storage in an unknown format")
    kind, dtype, key, _, count, *_ = _checked(_checked(named, Persistent).value, tuple)
    if kind != "storage" or [_checked(each, str) for each in _checked(keys, list)] != [_checked(key, str)]:
        raise ValueError("a storage in an unknown format")
    size = int.from_bytes(file.read(8), "little")
    numbers = memoryview(content)[file.tell() :]
    if size != _checked(count, int) or size * _checked(dtype, torch.dtype).itemsize != len(numbers):
        raise ValueError(f"a storage is to have {size} numbers and has {len(numbers)} bytes")
    return Storage(dtype, numbers)


def _tensor(storage: Any, begin: Any, shape: Any, strides: Any, _requires_grad: Any, _hooks: Any) -> StoredTensor:
    total = len(_checked(storage, Storage).content) // storage.dtype.itemsize
    if len(_checked(shape, tuple)) > 8 or len(_checked(strides, tuple)) != len(shape):
        raise ValueError("a tensor without a shape")
    end = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides))
    if min(_checked(value, int) for value in (begin, *shape, *strides)) < 0 or math.prod(shape) != end or begin + end > total:
        raise ValueError("a tensor is not dense, or larger than its storage")
    return StoredTensor(storage, begin, shape, strides)


def _parameter(data: Any, _requires_grad: Any, _hooks: Any) -> StoredTensor:
    tensor: StoredTensor = _checked(data, StoredTensor)
    return tensor


def _record(meta: Any) -> Record:
    if _checked(meta, dict).get("type") != "class":
        raise ValueError("a persistent object that is no network")
    return Record(_checked(meta.get("state"), dict))


NAMES: dict[str, Any] = {
    "collections.OrderedDict": Name(_empty),
    "dnnlib.util.EasyDict": Name(_empty),
    "builtins.set": Name(_set),
    "__builtin__.set": Name(_set),
    "_codecs.encode": Name(_encode),
    "numpy.dtype": Name(_number_type),
    "numpy.core.multiarray.scalar": Name(_number),
    "numpy._core.multiarray.scalar": Name(_number),
    "torch.storage._load_from_bytes": Name(_storage),
    "torch._utils._rebuild_tensor_v2": Name(_tensor),
    "torch._utils._rebuild_parameter": Name(_parameter),
    "torch_utils.persistence._reconstruct_persistent_obj": Name(_record),
}
STORAGE_NAMES: dict[str, Any] = {
    "collections.OrderedDict": Name(_empty),
    **{f"torch.{kind}Storage": dtype for kind, dtype in zip(KINDS, (*FLOATS, *INTEGERS), strict=True)},
}


def read_pickle(path: Path) -> Any:
    """What is in a file: dicts, lists, numbers, texts, `Record`s and `StoredTensor`s.

    Raises ForeignError when it needs more than a StyleGAN2-ADA file does, and other exceptions when it is damaged.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        value = _run(content, len(content), NAMES)
        if content.tell() != len(content):
            raise ValueError("something follows its end")
        return value


def _run(file: IO[bytes] | mmap.mmap, length: int, names: Mapping[str, Any], persistent: bool = False) -> Any:
    """The value of the next pickle in a file of `length` bytes. Takes time and memory in proportion to that."""
    machine = _Machine(length, names, persistent)
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if count > MOST_INSTRUCTIONS:
            raise ValueError(f"it has more than {MOST_INSTRUCTIONS:,} instructions")
        if operation.name == "STOP":
            break
        machine.step(operation.name, argument)
    return machine.stack.pop()


class _Machine:
    """A stack, marks in it, and a memory, as pickle defines them. What pops too much raises IndexError."""

    def __init__(self, length: int, names: Mapping[str, Any], persistent: bool) -> None:
        self.unread, self.names, self.persistent = 2 * length, names, persistent  # a byte may be a text's, then a storage's
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memory: dict[int, Any] = {}

    def since_mark(self) -> list[Any]:
        begin = self.marks.pop()
        items = self.stack[begin:]
        del self.stack[begin:]
        return items

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in VALUES:
            stack.append(argument)
        elif name in CONSTANTS:
            stack.append(CONSTANTS[name])
        elif name in EMPTY:
            stack.append(EMPTY[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memory[len(self.memory) if argument is None else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memory[argument])
        elif name in TUPLES:
            self.marks.append(len(stack) - TUPLES[name])
            stack.append(tuple(self.since_mark()))
        elif name == "TUPLE":
            stack.append(tuple(self.since_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = [stack.pop()] if name == "APPEND" else self.since_mark()
            _checked(stack[-1], list).extend(items)
        elif name == "ADDITEMS":
            items = self.since_mark()
            _checked(stack[-1], set).update(map(_key, items))
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else self.since_mark()
            _checked(stack[-1], dict).update(zip(map(_key, items[::2]), items[1::2], strict=True))
        elif name == "GLOBAL":
            stack.append(self.look_up(argument.replace(" ", ".")))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self.look_up(f"{_checked(module, str)}.{_checked(attribute, str)}"))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = _checked(stack.pop(), tuple), _checked(stack.pop(), Name)
            self.unread -= sum(len(value) for value in arguments if isinstance(value, str | bytes | list))
            if self.unread < 0:  # what is remembered may be given again and again
                raise ValueError("its parts are used more often than they are there")
            stack.append(function.make(*arguments))
        elif name == "BUILD" and isinstance(stack[-2], NumberType):
            stack.pop()  # byte order and alignment, which `_number` fixes
        elif name == "BINPERSID" and self.persistent:
            stack.append(Persistent(stack.pop()))
        elif name not in ("PROTO", "FRAME"):
            raise ForeignError(f"the instruction {name}")

    def look_up(self, name: str) -> Any:
        if name not in self.names:
            raise ForeignError(name if len(name) <= LONGEST_NAME and name.isprintable() else f"{name[:LONGEST_NAME]!r}")
        return self.names[name]
