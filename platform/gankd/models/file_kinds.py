"""What a file that is brought as a checkpoint is, by its first bytes and a zip's directory, whatever its name says."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from gankd.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors", ".npz")
Format = Literal["torch", "legacy torch", "safetensors", "npz"]

UNPACK = "unpack it first"
EXPORT = "save the network's state dict in its place: torch.save(network.state_dict(), path)"
FETCH = "download the file itself (with git: git lfs pull)"
STARTS = (
    (b"version https://git-lfs", "a Git-LFS pointer, a line of text that stands for the real file", FETCH),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes them", ""),
    (b"GGUF", "a GGUF file of a language model", ""),
    (b"\x1f\x8b", "compressed with gzip", UNPACK),
    (b"BZh", "compressed with bzip2", UNPACK),
    (b"\xfd7zXZ\x00", "compressed with xz", UNPACK),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (b"Rar!", "a rar archive", UNPACK),
    (b"\x93NUMPY", "a single array (.npy)", "save all arrays of the state dict with numpy.savez"),
    (b"\x89PNG", "a picture", ""),
    (b"\xff\xd8\xff", "a picture", ""),
    (b"GIF8", "a picture", ""),
    (b"%PDF", "a PDF document", ""),
)
# The first of the five pickles in a file of torch before 1.6: this number.
LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
PROTOBUF_START, LARGEST_IR_VERSION = 0x08, 32


def format_of(path: Path) -> Format:
    """How the tensors in a file are kept. Raises UserError that says what the file is in their place."""
    if path.is_dir():
        raise refusal(path, "a folder", "give the file in it that holds the weights")
    if not path.is_file():
        raise UserError(f"the checkpoint {str(path)!r} does not exist or is not a file; give the path of a state dict")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UserError(
            f"the checkpoint {str(path)!r} cannot be read ({error.strerror}); give a file that you may read"
        ) from error
    if not head:
        raise damaged(path, "it is empty")
    for start, what, advice in STARTS:
        if head.startswith(start):
            raise refusal(path, what, advice)
    if head.startswith(b"PK"):
        return _format_of_zip(path)
    if head[0] == 0x80:  # a pickle
        if LEGACY_MAGIC in head[:32]:
            return "legacy torch"
        raise holds_code(path, "a pickle that torch.save did not write")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "safetensors"
    if head[257:262] == b"ustar":
        raise refusal(path, "a tar archive", UNPACK)
    if head[0] == PROTOBUF_START and head[1:2] < bytes([LARGEST_IR_VERSION]):
        raise refusal(path, "an ONNX model or another protocol buffer", EXPORT)
    raise refusal(path, _text_or_bytes(head))


def refusal(path: Path, what: str, advice: str = "") -> UserError:
    return UserError(
        f"the checkpoint {str(path)!r} is {what}, and not a state dict; "
        f"{f'{advice}; ' if advice else ''}allowed: {', '.join(SUFFIXES)} with names and tensors"
    )


def damaged(path: Path, reason: object) -> UserError:
    first = str(reason).strip().partition("\n")[0] or type(reason).__name__
    return UserError(
        f"the checkpoint {str(path)!r} is truncated, damaged or of another kind ({first[:200]}); copy or save it again"
    )


def holds_code(path: Path, what: str) -> UserError:
    return UserError(
        f"the checkpoint {str(path)!r} holds Python objects other than tensors ({what}), which could run code when read, "
        "and was refused; save the state dict alone: torch.save(network.state_dict(), path)"
    )


def _format_of_zip(path: Path) -> Format:
    """Of torch's archives, numpy's and others; one that would take more memory than the file has bytes is refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise damaged(path, error) from error
    names = [member.filename for member in members]
    last = {name.rpartition("/")[2] for name in names}
    if not names:
        raise refusal(path, "a zip archive without files")
    if len(set(names)) < len(names):
        raise damaged(path, "a zip archive with two files of one name")
    if all(name.endswith(".npy") for name in names):
        return "npz"
    if "constants.pkl" in last or any("/code/" in name for name in names):
        raise refusal(path, "a TorchScript archive (torch.jit.save)", EXPORT)
    if last & {"archive_format", "serialized_exported_program.json"}:
        raise refusal(path, "an exported program (torch.export.save)", EXPORT)
    if "data.pkl" not in last:
        raise refusal(path, f"a zip archive of {', '.join(names[:3])}{', ...' * (len(names) > 3)}", UNPACK)
    unpacked, size = sum(member.file_size for member in members), path.stat().st_size
    if unpacked > size or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise refusal(
            path,
            f"a compressed archive ({in_bytes(size)}, {in_bytes(unpacked)} when unpacked), which torch.save does not write",
            "save it again with torch.save",
        )
    return "torch"


def in_bytes(count: int) -> str:
    """A size for people."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def _text_or_bytes(head: bytes) -> str:
    text = head.decode("utf-8", "ignore").lstrip("\ufeff \t\r\n").lower()
    printable = sum(byte >= 32 or byte in b"\t\r\n" for byte in head) / len(head)
    if printable < 0.99 or len(text) < 0.5 * len(head.strip()):
        return f"of no known format (it begins with {head[:8]!r})"
    if text.startswith(("<!doctype html", "<html")) or "<html" in text:
        return "an HTML page, perhaps of the site from which it was to be downloaded"
    if text.startswith("<"):
        return "an XML file"
    return "a JSON file" if text.startswith(("{", "[")) else "a text file"
