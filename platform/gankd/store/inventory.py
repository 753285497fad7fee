"""What lies in a store, told without opening a single artifact: there may be 10^5 of them.

A bucket's listing tells everything. In a local folder a look into every artifact's folder takes 25 µs, so `artifacts.txt`
holds a line `key bytes published` for each publication, of which the last of a key counts. It is no more than a memory:
whether an artifact exists is told by its folder, and what the file lacks is looked up and written down.
"""

import json
import re
from collections import defaultdict
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from gankd.errors import UserError
from gankd.store.artifact import MANIFEST
from gankd.store.folder import Folder
from gankd.store.storage import KEY, FileInfo, Storage

INDEX = "artifacts.txt"
READERS = 16  # small files read at once from a bucket, where each costs a request's latency
LINE = re.compile(r"^([a-z0-9_-]+) (\d+) (\d+\.\d{3})$", re.MULTILINE)


class Entry(NamedTuple):
    """Something in the store.

    bytes: size of all its files. created: its newest file, of an artifact its publication, in seconds since 1970.
    referenced: whether a sweep uses it. kind: artifact, checkpoint, scratch, damaged, lease or copy.
    """

    key: str
    bytes: int
    created: float
    referenced: bool
    kind: str = "artifact"


def entry_of(key: str, files: list[FileInfo], kind: str, referenced: bool = False) -> Entry:
    """The entry of something that consists of these files."""
    newest = max((info.mtime for info in files), default=0.0)
    return Entry(key, sum(info.size for info in files), newest, referenced, kind)


def by_folder(storage: Storage, parent: str) -> dict[str, list[FileInfo]]:
    """The files below each folder in `parent`."""
    found = defaultdict(list)
    for info in storage.list(parent):
        found[info.name.split("/")[1]].append(info)
    return dict(found)


def references(storage: Storage) -> set[str]:
    """The keys that sweeps refer to. UserError if a reference cannot be read, for then nothing may be deleted."""
    folders = [f"sweeps/{sweep}/keys" for sweep in storage.names("sweeps")]
    names = [f"{folder}/{trial}" for folder in folders for trial in storage.names(folder) if trial.endswith(".json")]
    read = partial(_referred, storage)
    if isinstance(storage, Folder):
        return set().union(*map(read, names))
    with ThreadPoolExecutor(READERS) as pool:
        return set().union(*pool.map(read, names))


def _referred(storage: Storage, name: str) -> set[str]:
    """The keys in one reference; none if it is gone, since its sweep was deleted."""
    try:
        return set(json.loads(storage.read_bytes(name)).values())
    except FileNotFoundError:
        return set()
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"{name} of the storage {storage.uri} is not a JSON object of stage and key: "
            "delete this file if its sweep is no longer needed."
        ) from error


def published(storage: Storage, used: Set[str]) -> list[Entry]:
    """All published artifacts, by key."""
    if isinstance(storage, Folder):
        return [Entry(key, *known, key in used) for key, known in _known(storage).items()]
    return published_in_bucket(by_folder(storage, "artifacts"), used)


def published_in_bucket(files: dict[str, list[FileInfo]], used: Set[str]) -> list[Entry]:
    """All published artifacts of a bucket, by key, from the files below each folder in `artifacts`."""
    return [
        entry_of(key, found, "artifact", key in used)
        for key, found in files.items()
        if any(info.name == f"artifacts/{key}/{MANIFEST}" for info in found)
    ]


def write_down(folder: Folder, key: str, size: int, published: float) -> None:
    """Adds a publication to the memory of a local folder; harmless if that fails."""
    with suppress(OSError):
        folder.append(INDEX, _line(key, size, published).encode())


def _line(key: str, size: int, published: float) -> str:
    return f"{key} {size} {published:.3f}\n"


def _known(folder: Folder) -> dict[str, tuple[int, float]]:
    """Key -> (bytes, time of publication) of what is published in a local folder."""
    try:
        text = folder.read_bytes(INDEX).decode(errors="replace")
    except FileNotFoundError:
        text = ""
    remembered = {match[1]: (int(match[2]), float(match[3])) for match in LINE.finditer(text)}
    known = {key: remembered.get(key) or _look(folder, key) for key in folder.names("artifacts") if KEY.fullmatch(key)}
    if known.keys() != remembered.keys():
        lines = "".join(_line(key, *values) for key, values in known.items())
        with suppress(OSError, UserError):  # a full disk must not keep `gc` from making room
            folder.write_bytes(INDEX, lines.encode(), sync=False)
    return known


def _look(folder: Folder, key: str) -> tuple[int, float]:
    entry = entry_of(key, list(folder.list(f"artifacts/{key}")), "artifact")
    return entry.bytes, entry.created
