"""What lies in a store, and which of it nobody needs any more."""

import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gankd.errors import UserError
from gankd.store.artifact import MANIFEST, DamagedError, read_manifest
from gankd.store.folder import SCRATCH, Folder
from gankd.store.lease import LEASE_FILE, living
from gankd.store.storage import FileInfo, Storage

REFERENCE = re.compile(r"sweeps/[^/]+/keys/[^/]+\.json")
TEMPORARY_S = 3600.0  # a temporary file that has not grown for so long belongs to a process that is gone


@dataclass(frozen=True)
class Entry:
    """Something in the store.

    stage: of an artifact; empty if its manifest cannot be read. bytes: size of all its files. created: seconds since
    1970. referenced: whether a sweep uses it. kind: artifact, checkpoint, scratch, damaged, lease or copy.
    """

    key: str
    stage: str
    bytes: int
    created: float
    referenced: bool
    kind: str = "artifact"


Deletion = tuple[Entry, Callable[[], None]]


def references(storage: Storage) -> set[str]:
    """The keys that sweeps refer to. UserError if a reference cannot be read, for then nothing may be deleted."""
    keys: set[str] = set()
    for info in storage.list("sweeps"):
        if REFERENCE.fullmatch(info.name):
            try:
                keys.update(json.loads(storage.read_bytes(info.name)).values())
            except FileNotFoundError:  # the sweep was deleted since it was listed
                continue
            except (ValueError, AttributeError, TypeError) as error:
                raise UserError(
                    f"{info.name} of the storage {storage.uri} is not a JSON object of stage and key: "
                    "delete this file if its sweep is no longer needed."
                ) from error
    return keys


def published(storage: Storage, used: Set[str]) -> list[Entry]:
    """All published artifacts, by key."""
    entries = []
    for key, files in _folders(storage, "artifacts").items():
        if f"artifacts/{key}/{MANIFEST}" in {info.name for info in files}:
            stage, created = "", max(info.mtime for info in files)
            try:
                manifest = read_manifest(key, storage.read_bytes(f"artifacts/{key}/{MANIFEST}"))
                stage, created = manifest["stage"], float(manifest["created"])
            except (DamagedError, FileNotFoundError):
                pass  # `get` is the one to set it aside
            entries.append(Entry(key, stage, sum(info.size for info in files), created, key in used))
    return entries


def collect(storage: Storage, cache: Folder, lease_ttl_s: float, dry_run: bool) -> list[Entry]:
    """Deletes what no sweep refers to and no living lease protects: see `Store.gc`."""
    leases = [info for info in storage.list("leases") if LEASE_FILE.fullmatch(info.name)]
    artifacts = published(storage, set())
    # In this order: a sweep that starts meanwhile refers to its keys, then takes a lease, before it relies on them.
    alive = living(storage, lease_ttl_s)
    used = references(storage)
    doomed: list[Deletion] = [
        (entry, partial(_delete_artifact, storage, entry.key)) for entry in artifacts if entry.key not in used
    ]
    doomed += _leftovers(storage, used, {entry.key for entry in artifacts})
    doomed += [
        (_entry(match[1], [info], "lease"), partial(storage.delete, info.name))
        for info in leases
        if (match := LEASE_FILE.fullmatch(info.name))
    ]
    doomed += _scratch(cache)
    if cache is not storage:
        doomed += _copies(cache, {entry.key for entry in artifacts if entry.key in used})
    doomed = [(entry, delete) for entry, delete in doomed if entry.key not in alive]
    if not dry_run:
        for _, delete in doomed:
            delete()
    return [entry for entry, _ in doomed]


def _entry(key: str, files: list[FileInfo], kind: str, referenced: bool = False) -> Entry:
    newest = max((info.mtime for info in files), default=0.0)
    return Entry(key, "", sum(info.size for info in files), newest, referenced, kind)


def _folders(storage: Storage, parent: str) -> dict[str, list[FileInfo]]:
    """The files below each folder in `parent`."""
    found = defaultdict(list)
    for info in storage.list(parent):
        found[info.name.split("/")[1]].append(info)
    return dict(found)


def _delete_artifact(storage: Storage, key: str) -> None:
    if not isinstance(storage, Folder):  # a folder vanishes in one step, a bucket's does not
        storage.delete(f"artifacts/{key}/{MANIFEST}")
    storage.delete_folder(f"artifacts/{key}")


def _leftovers(storage: Storage, used: Set[str], keys: Set[str]) -> Iterator[Deletion]:
    """Checkpoints without a future, artifacts set aside, and in a bucket uploads that were never committed."""
    for key, files in _folders(storage, "checkpoints").items():
        if key in keys or key not in used:
            yield _entry(key, files, "checkpoint", key in used), partial(storage.delete_folder, f"checkpoints/{key}")
    for name, files in _folders(storage, "damaged").items():
        yield _entry(name.rpartition("-")[0], files, "damaged"), partial(storage.delete_folder, f"damaged/{name}")
    if isinstance(storage, Folder):
        return
    for key, files in _folders(storage, "artifacts").items():
        current = _publication(storage, key)
        uploads = {info.name.split("/")[2] for info in files} - {MANIFEST, current}
        for upload in uploads if current is not None else ():
            lost = [info for info in files if info.name.split("/")[2] == upload]
            yield _entry(key, lost, "scratch"), partial(storage.delete_folder, f"artifacts/{key}/{upload}")


def _publication(storage: Storage, key: str) -> str | None:
    """The folder in a bucket that holds an artifact's files; "" if it is not published, None if that is not known."""
    try:
        return str(read_manifest(key, storage.read_bytes(f"artifacts/{key}/{MANIFEST}"))["publication"])
    except FileNotFoundError:
        return ""
    except DamagedError:
        return None


def _scratch(cache: Folder) -> Iterator[Deletion]:
    """Folders of stages that ended without publishing, and temporary files and folders that nobody writes any more."""
    for path in sorted(cache.path(SCRATCH).iterdir()):
        files = list(cache.list(f"{SCRATCH}/{path.name}"))
        newest = max([path.stat().st_mtime, *(info.mtime for info in files)])
        if path.name.startswith(".tmp-") and newest > time.time() - TEMPORARY_S:
            continue
        size = sum(info.size for info in files) or (path.stat().st_size if path.is_file() else 0)
        yield Entry(path.name.rpartition("-")[0], "", size, newest, False, "scratch"), partial(_remove, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copies(cache: Folder, keys: Set[str]) -> Iterator[Deletion]:
    """This machine's copies of a bucket's artifacts that are there no more."""
    for name, files in _folders(cache, "artifacts").items():
        key = name.rpartition("-")[0]
        if key not in keys:
            yield _entry(key, files, "copy"), partial(cache.delete_folder, f"artifacts/{name}")
