"""The store: artifacts by key, each computed once, published in one step and verified at every reading.

Under the root (a folder or a bucket, see `storage`):

    artifacts/<key>/            manifest.json and the files; in a bucket the files lie in <publication>/ below
    artifacts.txt               sizes of a local folder's artifacts: see `inventory`
    recipes/<recipe>/<key>      empty files: which artifacts were made by a recipe
    checkpoints/<key>/          <number>-<sha256>.ckpt: the last two of a stage that is not finished
    leases/                     who computes which key: see `lease`
    sweeps/<sweep>/keys/        <trial>.json: the artifacts that a sweep refers to; `gc` keeps them
    sweeps/<sweep>/failed/      <key>.json: stages that failed in this sweep
    damaged/<key>-<n>/          artifacts that no longer are what was published
    scratch/                    everything unfinished (in a bucket's case it lies in the local cache)
"""

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from gankd.store import recipes
from gankd.store.artifact import MANIFEST, Artifact, DamagedError, manifest_bytes, read_manifest, seal, verify
from gankd.store.checkpoints import Checkpoints
from gankd.store.folder import Folder, sync_folder
from gankd.store.garbage import collect
from gankd.store.inventory import Entry, published, references, write_down
from gankd.store.lease import Lease
from gankd.store.root import open_root
from gankd.store.storage import NAME, checked, explain_full_disk

T = TypeVar("T")


class Store:
    """The artifacts under one storage root. Safe to use from many threads, processes and nodes at once."""

    def __init__(
        self,
        storage_uri: str | Path,
        cache: Path | None = None,
        lease_ttl_s: float | None = None,
        on_damage: Callable[[str], None] = warnings.warn,
    ) -> None:
        """Opens the root; UserError if it cannot be used.

        storage_uri: a folder or a bucket URI.
        cache: local folder for copies of a bucket's artifacts (default: ~/.cache/gankd); unused with a folder.
        on_damage: is told what was found damaged and set aside.
        lease_ttl_s: seconds of silence after which a lease counts as dead (default: 10 in a folder, 30 in a bucket).
        """
        self.storage = open_root(storage_uri)
        self.lease_ttl_s = self.storage.lease_ttl_s if lease_ttl_s is None else lease_ttl_s
        if isinstance(self.storage, Folder):
            self.cache = self.storage
        else:
            root = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gankd"
            self.cache = Folder(root / hashlib.sha256(self.storage.uri.encode()).hexdigest()[:12])
        self._on_damage = on_damage
        self._states = Checkpoints(self.storage, self.cache, on_damage)

    # ---- artifacts

    def has(self, key: str) -> bool:
        """Whether an artifact is published; it is verified only when read."""
        return self.storage.exists(f"{_artifact(key)}/{MANIFEST}")

    def get(self, key: str) -> Artifact | None:
        """The artifact, verified; None if there is none, or if it is damaged, which sets it aside with a warning.

        A process fetches and hashes the files of a publication once; again `get` reads the manifest and looks at sizes and
        times of change.
        """
        return self._read(key, lambda manifest: Artifact(key, manifest["stage"], self._fetch(key, manifest), manifest))

    def manifest(self, key: str) -> dict[str, Any] | None:
        """What an artifact's manifest records, without looking at its files; None as for `get`, damage likewise."""
        return self._read(key, lambda manifest: manifest)

    def _read(self, key: str, use: Callable[[dict[str, Any]], T]) -> T | None:
        """What `use` makes of the manifest; None if there is no artifact or damage was found, which is set aside."""
        while True:
            raw = self._manifest_bytes(key)
            if raw is None:
                return None
            try:
                return use(read_manifest(key, raw))
            except DamagedError as damage:
                # Another reader may have set it aside already, and a new one may be published since.
                if self._manifest_bytes(key) == raw:
                    self._set_aside(key, str(damage))
                    return None

    def _manifest_bytes(self, key: str) -> bytes | None:
        """The manifest as stored; empty if a local folder lost its manifest, None if there is no artifact."""
        # The folder first: one that is published between the two looks must not seem to lack its manifest.
        there = isinstance(self.storage, Folder) and self.storage.path(_artifact(key)).exists()
        try:
            return self.storage.read_bytes(f"{_artifact(key)}/{MANIFEST}")
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return b"" if there else None

    def _fetch(self, key: str, manifest: Mapping[str, Any]) -> Path:
        """The local folder of an artifact, verified. From a bucket: the copy in the cache, downloaded if need be."""
        if isinstance(self.storage, Folder):
            verify(self.storage.path(_artifact(key)), manifest)
            return self.storage.path(_artifact(key))
        copy = self._copy(key, manifest)
        with suppress(DamagedError):
            verify(self.cache.path(copy), manifest)
            return self.cache.path(copy)
        self.cache.delete_folder(copy)
        with self.cache.aside() as folder:
            for name in manifest["files"]:
                try:
                    self.storage.download(f"{_artifact(key)}/{manifest['publication']}/{name}", folder / name)
                except FileNotFoundError as error:
                    raise DamagedError(f"{name} is missing") from error
            self.cache.adopt(folder, copy)  # unless another process downloaded it at the same time
        verify(self.cache.path(copy), manifest)
        return self.cache.path(copy)

    @staticmethod
    def _copy(key: str, manifest: Mapping[str, Any]) -> str:
        return f"artifacts/{key}-{manifest['publication']}"

    def _set_aside(self, key: str, damage: str) -> None:
        number = 0
        while self.storage.list(f"damaged/{key}-{number}"):
            number += 1
        if self.storage.move_folder(_artifact(key), f"damaged/{key}-{number}"):
            self._on_damage(
                f"the artifact {key} in {self.storage.uri} is damaged ({damage}): it was moved to "
                f"damaged/{key}-{number} and is made again where it is needed"
            )

    def scratch(self, key: str) -> Path:
        """A fresh local folder for a stage's output, from where `publish` is a rename. `gc` removes what is left."""
        path = self.cache.scratch_path(checked(key))
        with explain_full_disk(path):
            path.mkdir()
        return path

    def publish(self, key: str, folder: Path, manifest: Mapping[str, Any], recipe: str = "") -> Artifact:
        """Publishes the files of a folder with `manifest`, which names at least the `stage`; the folder is used up.

        `recipe` names what the artifact is made from, for `of_recipe`; it matches the pattern of a key.

        The artifact is seen whole or not at all. If another process was faster, its artifact is kept and returned.
        UserError if the disk is full; checkpoints are then still there.
        """
        stage, recipe = str(manifest["stage"]), recipe and checked(recipe)
        with self.cache.aside() as ours, explain_full_disk(ours):
            _move(folder, ours)
            sealed = seal(checked(key), ours, {**manifest, "stage": stage})
            artifact = None
            while artifact is None:
                artifact = self._commit(key, ours, sealed) or self.get(key)
        if recipe:
            recipes.note(self.storage, recipe, key)
        self._states.delete(key)
        return artifact

    def _commit(self, key: str, folder: Path, manifest: dict[str, Any]) -> Artifact | None:
        """Makes a complete folder the artifact of `key`; None if there is one already."""
        raw = manifest_bytes(manifest)
        if isinstance(self.storage, Folder):
            (folder / MANIFEST).write_bytes(raw)
            _sync_tree(folder)
            if not self.storage.adopt(folder, _artifact(key)):
                return None
            size = len(raw) + sum(file["size"] for file in manifest["files"].values())
            write_down(self.storage, key, size, time.time())
            return Artifact(key, manifest["stage"], self.storage.path(_artifact(key)), manifest)
        files = f"{_artifact(key)}/{manifest['publication']}"
        if not self.has(key):
            for name in manifest["files"]:
                self.storage.upload(folder / name, f"{files}/{name}")
        if self.has(key):  # before the upload, or since
            self.storage.delete_folder(files)
            return None
        self.storage.write_bytes(f"{_artifact(key)}/{MANIFEST}", raw)
        copy = self._copy(key, manifest)
        self.cache.adopt(folder, copy)
        return Artifact(key, manifest["stage"], self.cache.path(copy), manifest)

    def of_recipe(self, recipe: str) -> list[str]:
        """The keys of the artifacts that were published with this recipe and still are, the newest (by `created`) last."""
        found = ((key, self.manifest(key)) for key in recipes.keys_of(self.storage, recipe))
        return [key for _, key in sorted((manifest["created"], key) for key, manifest in found if manifest)]

    @contextmanager
    def lease(self, key: str, *, on_wait: Callable[[str, float], None] | None = None) -> Iterator[Lease]:
        """Single flight: blocks until this caller may compute `key`, or until another has published it.

            artifact = store.get(key)
            if artifact is None:
                with store.lease(key):
                    artifact = store.get(key) or compute_and_publish()

        `on_wait(holder, seconds)` is called at each look while another holds the lease; it may raise to give up.
        """
        lease = Lease(self.storage, checked(key), self.lease_ttl_s)
        try:
            lease.acquire(done=lambda: self.has(key), on_wait=on_wait)
            yield lease
        finally:
            lease.release()

    # ---- checkpoints

    def save_checkpoint(self, key: str, data: bytes | Path) -> None:
        """Keeps the state of an unfinished stage (bytes, or a file that is copied); the last two are kept."""
        self._states.save(key, data)

    def load_checkpoint(self, key: str) -> Path | None:
        """The newest checkpoint that is intact, as a local file; None if there is none."""
        return self._states.load(key)

    # ---- sweeps

    def refer(self, sweep: str, trial: str, keys: Mapping[str, str]) -> None:
        """Notes that a trial uses these artifacts (stage -> key); call it before they are computed."""
        for key in keys.values():
            checked(key)
        self.storage.write_bytes(f"{_sweep(sweep)}/keys/{checked(trial, NAME)}.json", json.dumps(dict(keys)).encode())

    def remember_failure(self, sweep: str, key: str, reason: str) -> None:
        """Notes that a stage failed, so that the sweep's other trials do not repeat it."""
        self.storage.write_bytes(f"{_sweep(sweep)}/failed/{checked(key)}.json", json.dumps(reason).encode())

    def known_failure(self, sweep: str, key: str) -> str | None:
        """Why a stage failed earlier in this sweep; None if it did not."""
        try:
            return str(json.loads(self.storage.read_bytes(f"{_sweep(sweep)}/failed/{checked(key)}.json")))
        except (FileNotFoundError, ValueError):
            return None

    # ---- housekeeping

    def ls(self) -> list[Entry]:
        """All published artifacts, by key."""
        return published(self.storage, references(self.storage))

    def gc(self, dry_run: bool = False) -> list[Entry]:
        """Deletes artifacts that no sweep refers to, and what crashes left behind; returns what it deleted (or would).

        Nothing is touched whose lease is alive. Leases of other machines are watched for up to their time to live.
        """
        return collect(self.storage, self.cache, self.lease_ttl_s, dry_run)


def _artifact(key: str) -> str:
    return f"artifacts/{checked(key)}"


def _sweep(sweep: str) -> str:
    return f"sweeps/{checked(sweep, NAME)}"


def _move(folder: Path, target: Path) -> None:
    """Moves a folder onto an empty one: a rename, or a copy where that is another file system."""
    try:
        os.rename(folder, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copytree(folder, target, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(folder)


def _sync_tree(root: Path) -> None:
    """Flushes all files and folders, so that after a power cut a published artifact is there as it was."""
    for folder, _, names in os.walk(root):
        for name in names:
            with open(Path(folder, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(folder))
