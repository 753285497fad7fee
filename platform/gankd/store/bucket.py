"""The storage in a bucket of an object store."""

import random
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from gankd.errors import UserError
from gankd.store.storage import BLOCK, FULL, FileInfo, Storage, explain_full_disk


class Bucket(Storage):
    """A bucket of an object store through pyarrow (`s3://`, `gs://`, ...); AWS_ENDPOINT_URL names another S3 server."""

    lease_ttl_s = 30.0  # a beat is a request over a network that may stall for seconds
    poll_s = 0.75  # a look is three requests, and requests cost money
    settle_s = 1.0  # see `create`

    def __init__(self, uri: str) -> None:
        self.uri = re.sub(r"(?<=://)[^/]*@", "", uri)  # shown to people, so without credentials
        with self._explained("opened"):
            self.fs, root = fs.FileSystem.from_uri(uri)
            self.root = root.rstrip("/")
        probe = f".probe-{uuid.uuid4().hex}"
        self.write_bytes(probe, b"probe")
        self.delete(probe)

    @contextmanager
    def _explained(self, verb: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # pyarrow says ValueError to a malformed URI
            if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) in FULL:
                raise
            what = f"{name} of the storage {self.uri}" if name else f"The storage {self.uri}"
            reason = re.sub(r"(?<=://)[^/]*@", "", str(error))
            raise UserError(
                f"{what} cannot be {verb} ({reason}): check the URI, the network, AWS_ENDPOINT_URL and the "
                "credentials, or name another place with --storage."
            ) from error

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def read_bytes(self, name: str) -> bytes:
        with self._explained("read", name), self.fs.open_input_stream(self._path(name)) as file:
            return bytes(file.read())

    def write_bytes(self, name: str, data: bytes, *, sync: bool = True) -> None:
        with self._explained("written", name), self.fs.open_output_stream(self._path(name)) as file:
            file.write(data)

    def create(self, name: str, data: bytes) -> bool:
        """As a shared register: write, let other writers settle, read back; who wrote last has created the file.

        pyarrow has no conditional put. A writer that stalls for longer than the settling time between its look and its
        write makes two owners. That is rare and costs a computation, not a result: the store keeps one artifact.
        """
        if self.exists(name):
            return False
        self.write_bytes(name, data)
        time.sleep(self.settle_s * random.uniform(1.0, 1.2))
        try:
            return self.read_bytes(name) == data
        except FileNotFoundError:
            return False

    def exists(self, name: str) -> bool:
        with self._explained("read", name):
            return bool(self.fs.get_file_info(self._path(name)).type == fs.FileType.File)

    def list(self, prefix: str) -> Sequence[FileInfo]:
        with self._explained("listed", prefix):
            infos = self.fs.get_file_info(fs.FileSelector(self._path(prefix), recursive=True, allow_not_found=True))
        start = len(self.root) + 1
        return sorted(FileInfo(i.path[start:], i.size, (i.mtime_ns or 0) / 1e9) for i in infos if i.type == fs.FileType.File)

    def names(self, folder: str) -> Sequence[str]:
        with self._explained("listed", folder):
            infos = self.fs.get_file_info(fs.FileSelector(self._path(folder), allow_not_found=True))
        return sorted(info.base_name for info in infos)

    def delete(self, name: str) -> None:
        with suppress(FileNotFoundError), self._explained("deleted", name):
            self.fs.delete_file(self._path(name))

    def delete_folder(self, name: str) -> None:
        with suppress(FileNotFoundError), self._explained("deleted", name):
            self.fs.delete_dir(self._path(name))

    def move_folder(self, source: str, target: str) -> bool:
        """Copies and deletes file by file, those directly in the folder first: its manifest goes before its data."""
        if self.list(target):
            return False
        files = sorted(self.list(source), key=lambda info: (info.name.count("/"), info.name))
        for info in files:
            with suppress(FileNotFoundError), self._explained("moved", info.name):
                self.fs.move(self._path(info.name), self._path(target + info.name.removeprefix(source)))
        return bool(files)

    def upload(self, source: Path, name: str) -> None:
        with (
            source.open("rb") as data,
            self._explained("written", name),
            self.fs.open_output_stream(self._path(name)) as file,
        ):
            shutil.copyfileobj(data, file, BLOCK)

    def download(self, name: str, target: Path) -> None:
        with explain_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                target.open("wb") as file,
                self._explained("read", name),
                self.fs.open_input_stream(self._path(name)) as data,
            ):
                while block := data.read(BLOCK):
                    file.write(block)
