"""An artifact: the folder of files that a stage made, and the manifest that says what belongs in it."""

import hashlib
import json
import stat
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankd.paths import file_digest

MANIFEST = "manifest.json"


class DamagedError(Exception):
    """What is stored differs from what was published; the message says in which way."""


@dataclass(frozen=True)
class Artifact:
    """A verified artifact in a local folder. `manifest` holds what the stage recorded, and size and sha256 by file."""

    key: str
    stage: str
    path: Path
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        """The stage's results, such as `{"val_accuracy": 0.97}`."""
        return dict(self.manifest.get("metrics", {}))

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config section that the stage ran with."""
        return dict(self.manifest.get("config", {}))

    def file(self, name: str) -> Path:
        """A file of this artifact; FileNotFoundError names those there are."""
        if name not in self.manifest["files"]:
            raise FileNotFoundError(f"artifact {self.key} has no file {name!r}, only {sorted(self.manifest['files'])}")
        return self.path / name

    def array(self, name: str) -> NDArray[Any]:
        """The array of the file `<name>.npy`, memory-mapped and read-only."""
        path = self.file(name if name.endswith(".npy") else f"{name}.npy")
        loaded: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return loaded


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """The one way in which a manifest is written: any other bytes are damage."""
    return (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode()


def seal(key: str, folder: Path, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest of a folder: the caller's fields, the files, and a digest of the manifest itself.

    `publication` tells two publications of one key apart. ValueError for anything but plain files and folders.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_file() or path.is_dir()) or name == MANIFEST:
            raise ValueError(f"a stage may leave plain files and folders, none called {MANIFEST}: {path}")
        if path.is_file():
            files[name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
    manifest = {"created": time.time(), **fields, "key": key, "files": files, "publication": uuid.uuid4().hex}
    manifest.pop("digest", None)
    manifest = json.loads(manifest_bytes(manifest))  # number keys become text before they are sorted
    return {**manifest, "digest": hashlib.sha256(manifest_bytes(manifest)).hexdigest()}


def read_manifest(key: str, raw: bytes) -> dict[str, Any]:
    """The manifest of `key` from its bytes; DamagedError unless every byte is as published."""
    try:
        manifest = json.loads(raw)
        unsigned = {name: value for name, value in manifest.items() if name != "digest"}
        digest = hashlib.sha256(manifest_bytes(unsigned)).hexdigest()
        if manifest["digest"] != digest or manifest["key"] != key or manifest_bytes(manifest) != raw:
            raise DamagedError(f"{MANIFEST} was changed")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read") from error
    for name in manifest["files"]:
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts:  # a shared bucket must not write outside our folder
            raise DamagedError(f"{MANIFEST} names {name!r}, a file outside its folder")
    return dict(manifest)


@lru_cache(maxsize=1 << 16)
def _read_once(path: Path, size: int, mtime_ns: int, inode: int) -> str:
    """The sha256 of a file, which a process reads again only if the file's status has changed."""
    return file_digest(path)


def verify(folder: Path, manifest: Mapping[str, Any]) -> None:
    """DamagedError unless every file of the manifest is there with its size and digest.

    A process hashes a file once. Afterwards it looks at size, time of change and inode only: what a disk loses silently
    under a process that has read the file already is for the next process to find.
    """
    found = {}
    for name, expected in manifest["files"].items():
        try:
            status = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            status = None
        if status is None or not stat.S_ISREG(status.st_mode):
            raise DamagedError(f"{name} is missing")
        if status.st_size != expected["size"]:
            raise DamagedError(f"{name} has {status.st_size} bytes instead of {expected['size']}")
        found[name] = (status.st_size, status.st_mtime_ns, status.st_ino)
    for name, expected in manifest["files"].items():
        try:
            digest = _read_once(folder / name, *found[name])
        except FileNotFoundError as error:  # set aside by another reader in between
            raise DamagedError(f"{name} is missing") from error
        if digest != expected["sha256"]:
            raise DamagedError(f"{name} has other content than was published")
