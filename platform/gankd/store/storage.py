"""What the store and the leases need of a root that all nodes share: a local (or network) folder, or a bucket.

Names are relative and use slashes: `artifacts/<key>/manifest.json`. A file appears whole or not at all: in a folder
it is written aside and renamed, in a bucket an object becomes visible when its upload ends.
"""

import errno
import random
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gankd.errors import StageFailed, UserError

FULL = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 8 << 20  # bytes copied at a time to and from a bucket
KEY = re.compile(r"[a-z0-9_-]+")  # of an artifact or a recipe
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")  # of a sweep or a trial


def checked(name: str, pattern: re.Pattern[str] = KEY) -> str:
    """The name itself; ValueError if it could reach outside its folder."""
    if not pattern.fullmatch(name):
        raise ValueError(f"{name!r} is not a name in the store: it must match {pattern.pattern}")
    return name


class FileInfo(NamedTuple):
    """A stored file: its name below the root, its size in bytes, its last change in seconds since 1970."""

    name: str
    size: int
    mtime: float


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turns a write that failed because the disk of `path` is full into a UserError with the path and the free space.

    Libraries hide the error number (numpy and torch do), so a disk with less than 1 MiB left also counts as full.
    """
    try:
        yield
    except (UserError, StageFailed):
        raise
    except Exception as error:
        there = next(p for p in (path, *path.parents) if p.exists())
        free, number = shutil.disk_usage(there).free, getattr(error, "errno", None)
        if number not in FULL and not (number is None and free < 1 << 20):
            raise
        raise UserError(
            f"The disk (or quota) that holds {path} is full, {free / 2**20:.1f} MiB are free: "
            "free some (`gankd store gc` deletes what no sweep uses), or name another place with --storage."
        ) from error


class Storage(ABC):
    """What the store and the leases need of a root."""

    lease_ttl_s: float  # seconds without a heartbeat after which a lease counts as dead
    poll_s: float  # seconds between two looks at a lease, on average
    uri: str

    def pause(self) -> None:
        """Sleeps until the next look; at random, so that many waiters do not march in step."""
        time.sleep(self.poll_s * random.uniform(0.67, 1.33))

    @abstractmethod
    def read_bytes(self, name: str) -> bytes:
        """The whole file; FileNotFoundError if there is none."""

    @abstractmethod
    def write_bytes(self, name: str, data: bytes, *, sync: bool = True) -> None:
        """Writes or replaces a file in one step; with `sync`, it survives a power cut once this returns."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Writes a file that does not exist yet; False if it exists or another writer was faster."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    @abstractmethod
    def list(self, prefix: str) -> Sequence[FileInfo]:
        """All files below the folder `prefix`, sorted by name; none if the folder is missing."""

    @abstractmethod
    def names(self, folder: str) -> Sequence[str]:
        """The names of the files and folders directly in `folder`, sorted; none if it is missing. Cheaper than `list`."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Deletes a file; nothing happens if it is gone already."""

    @abstractmethod
    def delete_folder(self, name: str) -> None:
        """Deletes a folder; readers of a local folder never see half of it."""

    @abstractmethod
    def move_folder(self, source: str, target: str) -> bool:
        """Moves a folder in one step where the storage can; False if the source is gone or the target is taken."""

    @abstractmethod
    def upload(self, source: Path, name: str) -> None:
        """Stores a local file under `name`."""

    @abstractmethod
    def download(self, name: str, target: Path) -> None:
        """Copies a stored file to a local path; FileNotFoundError if there is none."""
