"""From the text that a user gives as --storage to the storage behind it."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from gankd.errors import UserError
from gankd.store.folder import Folder
from gankd.store.storage import Storage


def open_root(uri: str | Path) -> Storage:
    """Opens a folder (made if missing) or a bucket URI (`s3://bucket/path?...`) and checks that it can be written.

    Raises UserError when it is not a folder, not writable or not reachable.
    """
    text = str(uri)
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
        if not text.startswith("/"):
            raise UserError(f"--storage {str(uri)!r} names no folder: a file:// URI has a whole path, as in file:///data/runs")
    if "://" not in text:
        return Folder(Path(text))
    from gankd.store.bucket import Bucket  # needs pyarrow, which takes 0.3 s to import

    return Bucket(text)


def below(root: str, *parts: str) -> str:
    """The path or URI of a folder below a root; the query of a URI stays at its end."""
    place, mark, query = root.partition("?") if "://" in root else (root, "", "")
    return "/".join((place.rstrip("/"), *parts)) + mark + query


def sweep_folder(root: str, sweep: str) -> str:
    """Where the records and the events of a sweep lie."""
    return below(root, "sweeps", sweep)


def sweep_events(root: str, sweep: str) -> str:
    """Where all processes that work for a sweep leave their events."""
    return below(root, "sweeps", sweep, "events")
