"""Names of files and folders that come from outside, through one gate."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gankd.errors import UserError
from gankd.text import shortened

DEFAULT_STORAGE = "runs"


def absolute_path(text: str, what: str) -> str:
    """A path made absolute, `~` resolved. Raises UserError, starting with `what`, for one that cannot be."""
    if not text.strip():
        raise UserError(f"{what} is empty; give a path")
    if "\0" in text:
        raise UserError(f"{what} cannot be {shortened(text)}: it holds a null character")
    try:
        return str(Path(text).expanduser().absolute())
    except RuntimeError:  # no such user
        raise UserError(f"{what} cannot be {shortened(text)}: there is no user of that name; write the path out") from None


def absolute_storage(storage: str) -> str:
    """A folder as an absolute path, because workers run elsewhere; a URI as it is."""
    return storage if "://" in storage else absolute_path(storage, "--storage")


def is_file(path: Path) -> bool:
    """Whether a file is there; False also for what no file can be called."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def check_place(path: Path, what: str) -> None:
    """Raises UserError, starting with `what`, when no file can be written there."""
    if not path.parent.is_dir():
        raise UserError(f"the folder of {what} {str(path)!r} does not exist; make it, or choose another one")
    try:
        if path.exists():
            path.open("ab").close()
        else:
            path.open("xb").close()
            path.unlink()
    except (OSError, ValueError) as error:
        raise UserError(f"{what} {str(path)!r} cannot be written ({error}); choose another file") from error


def file_digest(file: Path) -> str:
    """sha256 of a file's content, in hex. Raises OSError."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def read_text(file: Path, what: str) -> str:
    """The text of a file. Raises UserError, starting with `what`, for a file that cannot be read or is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{what} {str(file)!r} is no text (UTF-8)") from None
    except OSError as error:
        raise UserError(f"{what} {str(file)!r} cannot be read: {error.strerror}") from None
