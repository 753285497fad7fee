"""The one gate for weights from outside: names, shapes and types first, without memory for them; then values.

No code in a file is ever run: `torch.load` with `weights_only`, safetensors, and `numpy.load` without pickles. What torch
would still call on a file's word, such as `torch.Tensor(10**12)`, is refused by its name before.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gankd.errors import UserError
from gankd.models.file_kinds import SUFFIXES, Format, damaged, format_of, holds_code, in_bytes, refusal

T = TypeVar("T")

# Training scripts put the weights of the network under one of these names, which are looked at first.
WRAPPERS = ("state_dict", "model", "net", "net_state_dict", "model_state_dict")
DEPTH = 2  # how deep in the file's mappings a state dict is looked for

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
SAFETENSORS_TYPES = {
    "F32": torch.float32, "F64": torch.float64, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
NUMPY_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*FLOATS, *INTEGERS)}

# All that a pickle of a state dict, and of what stands beside it, needs.
KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
CALLED = {
    *(f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")),
    *(f"torch._utils.{name}" for name in ("_rebuild_parameter_with_state",)),
    *(f"torch.{kind}Storage" for kind in KINDS), *map(str, (*FLOATS, *INTEGERS)), "torch.Size", "torch.device",
    "collections.OrderedDict", "collections.Counter", "builtins.set", "__builtin__.set", "_codecs.encode",
}  # fmt: skip
ODD = (("sparse", "sparse"), ("qtensor", "quantised"), ("torch.Q", "quantised"), ("torch.Complex", "complex"),
       ("meta_tensor", "meta"), ("nested", "nested"))  # fmt: skip
DENSE = "save dense fp32 weights"
MOST_PICKLE = 16 * 2**20  # bytes: a state dict's takes kilobytes
# Memory that a file may take for what is not the network's weights: an optimiser's state, averages, other networks.
MARGIN, FLOOR = 32, 2**30


@dataclass(frozen=True)
class Checkpoint:
    """A file of which names, shapes and types are known.

    Attributes:
        states: by its place in the file ("" is the top, "ema", "model.state_dict", ...), each state dict as meta tensors.
        total: bytes of all tensors in the file.
        load: place -> the same state dict with its values.
    """

    path: Path
    states: Mapping[str, Mapping[str, Tensor]]
    total: int
    load: Callable[[str], Mapping[str, Tensor]]

    def read(self, place: str) -> dict[str, Tensor]:
        """The state dict at `place`, on the CPU. Raises UserError when a number in it is not finite in fp32."""
        needed = sum(map(size_of, self.states[place].values()))
        if self.total > MARGIN * needed + FLOOR:
            raise UserError(
                f"the checkpoint {str(self.path)!r} holds {in_bytes(self.total)}, of which the weights are "
                f"{in_bytes(needed)}; save the state dict alone: torch.save(network.state_dict(), path)"
            )
        found = _guarded(self.path, lambda: {str(name): value.detach() for name, value in self.load(place).items()})
        for name, value in found.items():
            if value.is_floating_point() and not bool(value.float().isfinite().all()):
                wrong = int((~value.float().isfinite()).sum())
                raise UserError(
                    f"the checkpoint {str(self.path)!r} has {wrong:,} of {value.numel():,} numbers in {name!r} that are NaN or "
                    "infinite; give weights of a network whose training did not diverge"
                )
        return found


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Look into a file of weights. Takes no memory for tensors and runs nothing.

    Raises UserError when the file is missing, something else, damaged, or holds code, no state dict, tensors of another kind
    than dense real ones, or sizes that are not in it.
    """
    path = Path(path)
    kind = format_of(path)
    content, total, load = _guarded(path, lambda: READERS[kind](path))
    states = dict(_state_dicts(content))
    if not states:
        raise UserError(
            f"the checkpoint {str(path)!r} holds no state dict; allowed: a mapping of names to tensors, "
            f"bare or under one of {', '.join(WRAPPERS)}, ... in a {', '.join(SUFFIXES)} file"
        )
    for state in states.values():
        for name, value in state.items():
            _check_tensor(path, name, value)
    return Checkpoint(path, states, total, load)


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor's numbers."""
    return tensor.numel() * tensor.element_size()


def _guarded(path: Path, read: Callable[[], T]) -> T:
    """What `read` gives. A reader that meets strange bytes may raise anything: all of it is the file's fault."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:
        raise damaged(path, error) from error


def _check_tensor(path: Path, name: str, value: Tensor) -> None:
    if value.layout != torch.strided or value.is_quantized or value.dtype not in (*FLOATS, *INTEGERS):
        raise refusal(path, f"a file whose {name!r} is a tensor of type {value.dtype}, {value.layout}", DENSE)
    if size_of(value) > value.untyped_storage().nbytes():
        raise damaged(path, f"{name!r} of shape {tuple(value.shape)} takes more numbers than the file has for it")


def _state_dicts(content: Any, place: str = "", depth: int = DEPTH) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping of names to tensors, with its place; the usual places first."""
    if not isinstance(content, Mapping) or not content:
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield place, {str(name): value for name, value in content.items()}
    elif depth:
        for key in sorted(content, key=lambda key: WRAPPERS.index(key) if key in WRAPPERS else len(WRAPPERS)):
            yield from _state_dicts(content[key], f"{place}.{key}" if place else str(key), depth - 1)


Opened = tuple[Any, int, Callable[[str], Mapping[str, Tensor]]]


def _open_torch(path: Path) -> Opened:
    with zipfile.ZipFile(path) as archive:
        (inside,) = [member for member in archive.infolist() if member.filename.rpartition("/")[2] == "data.pkl"]
        if inside.file_size > MOST_PICKLE:
            raise refusal(path, f"a file with {in_bytes(inside.file_size)} of Python objects")
        with archive.open(inside) as file:
            _check_called(path, _called(file, 1))
    return _outlined(path)


def _open_legacy(path: Path) -> Opened:
    with path.open("rb") as file:
        _check_called(path, _called(file, 5))
    return _outlined(path)


def _outlined(path: Path) -> Opened:
    try:
        with torch.serialization.skip_data():
            content = torch.load(path, map_location="meta", weights_only=True)
    except RuntimeError as error:
        if "allocate" in str(error):  # the old format asks for memory, which is not touched
            raise damaged(path, "its tensors are to take more memory than there is") from error
        raise
    total, size = sum(_storages(content)), path.stat().st_size
    if total > size:
        raise damaged(path, f"its tensors are to take {in_bytes(total)}, and the file has {in_bytes(size)}")

    def load(place: str) -> Mapping[str, Tensor]:
        return dict(_state_dicts(torch.load(path, map_location="cpu", weights_only=True)))[place]

    return content, total, load


def _called(file: IO[bytes], pickles: int) -> set[str]:
    """What the next `pickles` pickles in a file would look up, without doing so."""
    found = set()
    for _ in range(pickles):
        for operation, argument, position in pickletools.genops(file):
            if operation.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
            elif operation.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
                found.add(f"a {operation.name} instruction")
            if (position or 0) > MOST_PICKLE:
                raise ValueError("too many Python objects")
    return found


def _check_called(path: Path, called: Iterable[str]) -> None:
    unknown = sorted(set(called) - CALLED)
    if not unknown:
        return
    for name in unknown:
        for part, kind in ODD:
            if part in name:
                raise refusal(path, f"a file of {kind} tensors", DENSE)
    raise holds_code(path, ", ".join(unknown[:3]) + ", ..." * (len(unknown) > 3))


def _storages(content: Any) -> Iterator[int]:
    """Bytes of each storage of the tensors in a nested content, once."""
    waiting, seen, storages = [content], set(), set()
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            if storage._cdata not in storages:
                storages.add(storage._cdata)
                yield storage.nbytes()
        elif isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list | tuple | set):
            waiting.extend(item)


def _open_safetensors(path: Path) -> Opened:
    from safetensors import safe_open
    from safetensors.torch import load_file

    outline = {}
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - it is no mapping
            part = file.get_slice(name)
            if part.get_dtype() not in SAFETENSORS_TYPES:
                raise refusal(path, f"a file whose {name!r} is of type {part.get_dtype()}", DENSE)
            outline[name] = torch.empty(part.get_shape(), dtype=SAFETENSORS_TYPES[part.get_dtype()], device="meta")
    return outline, sum(map(size_of, outline.values())), lambda _: load_file(path)


def _open_npz(path: Path) -> Opened:
    outline = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = header(file)
                begin = file.tell()
            if dtype.hasobject:
                raise holds_code(path, f"the array {name!r}")
            if dtype.name not in NUMPY_TYPES:
                raise refusal(path, f"of another kind, its array {name!r} is of type {dtype.name}", DENSE)
            if begin + math.prod(shape) * dtype.itemsize != member.file_size:
                raise ValueError(f"the array {name!r} of shape {shape} is not as large in the file")
            outline[name] = torch.empty(shape, dtype=NUMPY_TYPES[dtype.name], device="meta")

    def load(place: str) -> Mapping[str, Tensor]:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(_native(arrays[name])) for name in arrays.files}

    return outline, sum(map(size_of, outline.values())), load


def _native(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In this machine's order of bytes."""
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)


READERS: dict[Format, Callable[[Path], Opened]] = {
    "torch": _open_torch, "legacy torch": _open_legacy, "safetensors": _open_safetensors, "npz": _open_npz,
}  # fmt: skip
