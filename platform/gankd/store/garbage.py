"""What nobody needs any more, and deleting it."""

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from gankd.store import recipes
from gankd.store.artifact import MANIFEST, DamagedError, read_manifest
from gankd.store.folder import SCRATCH, Folder
from gankd.store.inventory import Entry, by_folder, entry_of, published, published_in_bucket, references
from gankd.store.lease import LEASE_FILE, living
from gankd.store.storage import FileInfo, Storage

TEMPORARY_S = 3600.0  # a temporary file that has not grown for so long belongs to a process that is gone

Deletion = tuple[Entry, Callable[[], None]]


def collect(storage: Storage, cache: Folder, lease_ttl_s: float, dry_run: bool) -> list[Entry]:
    """Deletes what no sweep refers to and no living lease protects: see `Store.gc`."""
    # In this order. First everything is listed: what is begun later is not seen, and so not touched. Artifacts last: what
    # comes before them in a stage's life (scratch, checkpoints, copies) must not be taken for what was left behind.
    found = [*_scratch(cache), *_leases(storage), *_left_by_stages(storage)]
    if cache is not storage:
        found += _copies(cache)
    uploads = {} if isinstance(storage, Folder) else by_folder(storage, "artifacts")
    artifacts = published(storage, set()) if isinstance(storage, Folder) else published_in_bucket(uploads, set())
    # A sweep that starts meanwhile refers to its keys, then takes a lease, before it relies on them.
    alive = living(storage, lease_ttl_s)
    used, keys = references(storage), {entry.key for entry in artifacts}
    doomed: list[Deletion] = [
        (entry, partial(_delete_artifact, storage, entry.key))
        for entry in artifacts
        if entry.key not in used and entry.key not in alive
    ]
    # Of what a sweep refers to, copies are kept once it is published, and checkpoints until then.
    needed = {"copy": used & keys, "checkpoint": used - keys}
    for entry, delete in (*found, *_lost_uploads(storage, uploads)):
        if entry.key not in alive and entry.key not in needed.get(entry.kind, ()):
            doomed.append((entry, delete))
    if doomed and not dry_run:
        for _, delete in doomed:
            delete()
        recipes.forget(storage, keys - {entry.key for entry, _ in doomed if entry.kind == "artifact"})
    return [entry for entry, _ in doomed]


def _delete_artifact(storage: Storage, key: str) -> None:
    if not isinstance(storage, Folder):  # a folder vanishes in one step, a bucket's does not
        storage.delete(f"artifacts/{key}/{MANIFEST}")
    storage.delete_folder(f"artifacts/{key}")


def _leases(storage: Storage) -> Iterator[Deletion]:
    for info in storage.list("leases"):
        if match := LEASE_FILE.fullmatch(info.name):
            yield entry_of(match[1], [info], "lease"), partial(storage.delete, info.name)


def _left_by_stages(storage: Storage) -> Iterator[Deletion]:
    """Checkpoints, and artifacts that were set aside."""
    for key, files in by_folder(storage, "checkpoints").items():
        yield entry_of(key, files, "checkpoint"), partial(storage.delete_folder, f"checkpoints/{key}")
    for name, files in by_folder(storage, "damaged").items():
        yield entry_of(name.rpartition("-")[0], files, "damaged"), partial(storage.delete_folder, f"damaged/{name}")


def _lost_uploads(storage: Storage, files: Mapping[str, list[FileInfo]]) -> Iterator[Deletion]:
    """In a bucket: uploads that were never committed. Their artifacts' manifests are read, and only theirs."""
    for key, found in files.items():
        folders = {info.name.split("/")[2] for info in found}
        if MANIFEST in folders and len(folders) <= 2:  # with the files of the one publication
            continue
        current = _publication(storage, key)
        for upload in sorted(folders - {MANIFEST, current}) if current is not None else ():
            lost = [info for info in found if info.name.split("/")[2] == upload]
            yield entry_of(key, lost, "scratch"), partial(storage.delete_folder, f"artifacts/{key}/{upload}")


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
        yield Entry(path.name.rpartition("-")[0], size, newest, False, "scratch"), partial(_remove, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _copies(cache: Folder) -> Iterator[Deletion]:
    """This machine's copies of a bucket's artifacts."""
    for name, files in by_folder(cache, "artifacts").items():
        yield entry_of(name.rpartition("-")[0], files, "copy"), partial(cache.delete_folder, f"artifacts/{name}")
