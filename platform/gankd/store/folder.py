"""The storage in a folder on a disk or on a network file system."""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gankd.errors import UserError
from gankd.store.storage import BLOCK, FileInfo, Storage, explain_full_disk

SCRATCH = "scratch"  # below a local root: everything unfinished lives here, on the file system of the root


def sync_folder(folder: Path) -> None:
    """Flushes a folder's list of names to the disk, so that a rename survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _files(folder: str, prefix: str) -> Iterator[FileInfo]:
    """All files below a folder, with names that begin with `prefix`. Plain text, no Path: there may be 10^5 of them."""
    try:
        entries = os.scandir(folder)
    except OSError:  # missing, gone since it was seen, or another user's
        return
    with entries:
        for entry in entries:
            name = f"{prefix}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, name)
            else:
                with suppress(FileNotFoundError):  # gone since the folder was read
                    status = entry.stat()
                    yield FileInfo(name, status.st_size, status.st_mtime)


class Folder(Storage):
    """A folder on a disk or on a network file system (rename and O_EXCL are atomic on both; no file locks are used)."""

    lease_ttl_s = 10.0
    poll_s = 0.15

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root.expanduser()))
        self.uri = str(self.root)
        advice = "name a folder that you may write with --storage"
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.scratch_path(".tmp")
            probe.touch()
            probe.unlink()
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"The storage {self.root} is not a folder: {advice}.") from error
        except OSError as error:
            raise UserError(f"The storage {self.root} cannot be written ({error.strerror}): {advice}.") from error

    def path(self, name: str) -> Path:
        """Where a file or folder lies on the disk."""
        return self.root / name

    def scratch_path(self, label: str) -> Path:
        """A free name in the scratch folder: what lies there is unfinished and can be renamed into place."""
        (self.root / SCRATCH).mkdir(parents=True, exist_ok=True)
        return self.root / SCRATCH / f"{label}-{uuid.uuid4().hex}"

    @contextmanager
    def aside(self) -> Iterator[Path]:
        """A folder for what is complete in a moment; its age protects it from `gc`, as a lease does a stage's scratch."""
        path = self.scratch_path(".tmp")
        path.mkdir()
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def read_bytes(self, name: str) -> bytes:
        return self.path(name).read_bytes()

    def write_bytes(self, name: str, data: bytes, *, sync: bool = True) -> None:
        with self._file_aside(name, sync) as file:
            file.write(data)

    @contextmanager
    def _file_aside(self, name: str, sync: bool) -> Iterator[IO[bytes]]:
        """An open file that takes the name `name` once it is complete."""
        target, aside = self.path(name), self.scratch_path(".tmp")
        try:
            with explain_full_disk(target):
                with aside.open("xb") as file:
                    yield file
                    file.flush()
                    if sync:
                        os.fsync(file.fileno())
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(aside, target)
                if sync:
                    sync_folder(target.parent)
        finally:
            aside.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with explain_full_disk(path):
            try:
                file = path.open("xb")
            except FileExistsError:
                return False
            try:
                with file:
                    file.write(data)
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return True

    def exists(self, name: str) -> bool:
        return self.path(name).is_file()

    def list(self, prefix: str) -> Sequence[FileInfo]:
        return sorted(_files(os.path.join(self.root, prefix), prefix))

    def names(self, folder: str) -> Sequence[str]:
        try:
            return sorted(os.listdir(os.path.join(self.root, folder)))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def append(self, name: str, data: bytes) -> None:
        """Adds to the end of a file, made if missing; on a network file system the last bytes of another may be lost."""
        handle = os.open(self.path(name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(handle, data)
        finally:
            os.close(handle)

    def delete(self, name: str) -> None:
        self.path(name).unlink(missing_ok=True)

    def delete_folder(self, name: str) -> None:
        away = self.scratch_path(Path(name).name)
        with suppress(FileNotFoundError):
            os.rename(self.path(name), away)
        shutil.rmtree(away, ignore_errors=True)

    def move_folder(self, source: str, target: str) -> bool:
        return self.adopt(self.path(source), target)

    def adopt(self, folder: Path, target: str) -> bool:
        """Renames a folder from anywhere on the root's file system to the name `target`: see `move_folder`."""
        path = self.path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.rename(folder, path)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                return False
            raise
        sync_folder(path.parent)
        return True

    def upload(self, source: Path, name: str) -> None:
        with source.open("rb") as data, self._file_aside(name, sync=True) as file:
            shutil.copyfileobj(data, file, BLOCK)

    def download(self, name: str, target: Path) -> None:
        with explain_full_disk(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path(name), target)
