"""Checkpoints: the last states of a stage that is not finished, by its artifact's key."""

import hashlib
import os
import re
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gankd.paths import file_digest
from gankd.store.folder import Folder
from gankd.store.storage import Storage, checked

FILE = re.compile(r"checkpoints/([a-z0-9_-]+)/(\d+)-([0-9a-f]{64})\.ckpt")
KEPT = 2


class Checkpoints:
    """The checkpoints in a storage; a bucket's are copied to the folder `cache` to be read."""

    def __init__(self, storage: Storage, cache: Folder, on_damage: Callable[[str], None] = warnings.warn) -> None:
        self.storage, self.cache, self._on_damage = storage, cache, on_damage

    def save(self, key: str, data: bytes | Path) -> None:
        """Keeps a state (bytes, or a file that is copied) and the one before it."""
        kept = self._all(key)
        number = kept[-1][0] + 1 if kept else 1
        digest = file_digest(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        name = f"checkpoints/{key}/{number:08d}-{digest}.ckpt"
        if isinstance(data, Path):
            self.storage.upload(data, name)
        else:
            self.storage.write_bytes(name, data)
        for _, _, old in kept[: max(0, len(kept) + 1 - KEPT)]:
            self.storage.delete(old)

    def load(self, key: str) -> Path | None:
        """The newest state that is intact, as a local file; None if there is none."""
        for _, digest, name in reversed(self._all(key)):
            path = self.cache.path(name)
            with suppress(FileNotFoundError):  # deleted by a newer one since it was listed
                if self.storage is not self.cache and not path.exists():
                    with self.cache.aside() as aside:
                        self.storage.download(name, aside / "checkpoint")
                        path.parent.mkdir(parents=True, exist_ok=True)
                        os.replace(aside / "checkpoint", path)
                if file_digest(path) == digest:
                    return path
                self._on_damage(f"the checkpoint {name} in {self.storage.uri} is damaged: the one before it is used")
                if self.storage is not self.cache:
                    path.unlink(missing_ok=True)  # perhaps only the copy is damaged
        return None

    def delete(self, key: str) -> None:
        """Deletes all of a key."""
        for root in {self.storage, self.cache}:
            root.delete_folder(f"checkpoints/{checked(key)}")

    def _all(self, key: str) -> list[tuple[int, str, str]]:
        """(number, sha256, name) of the checkpoints of a key, oldest first."""
        names = [info.name for info in self.storage.list(f"checkpoints/{checked(key)}")]
        return sorted((int(m[2]), m[3], n) for n in names if (m := FILE.fullmatch(n)))
