"""The SQLite database of a working folder: made once, kept at one with its folder, and locked while one looks and then writes.

MLflow makes its tables in some forty migrations, of which two processes must not take a share each, and it writes absolute
places of artifacts into them, which a folder that is moved leaves behind.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from gankd.errors import UserError

FILE, ARTIFACTS = "mlflow.db", "mlruns"  # in a working folder
WAIT_S = 120.0  # for another process to make the tables, or to write
LOCKED_S = 20.0  # as long as MLflow waits for SQLite
# Where MLflow 3.17 keeps the places of artifacts.
PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)

_log = logging.getLogger(__name__)


def sqlite_uri(file: Path) -> str:
    """The tracking URI of an absolute database file."""
    text = str(file)
    if "?" not in text and "%" not in text:  # where a query and an escape begin
        return f"sqlite:///{text}"
    # Of a URI that names no driver, MLflow makes the folder that it reads there, escapes and all.
    return "sqlite+pysqlite:///" + text.replace("%", "%25").replace("?", "%3F")


def sqlite_file(uri: str) -> Path | None:
    """The database file of a tracking URI; None for a server, another database, or one in memory."""
    scheme, _, path = uri.partition(":///")
    if scheme.partition("+")[0] != "sqlite":
        return None
    path = unquote(path.partition("?")[0])
    return None if path in ("", ":memory:") or path.startswith("file:") else Path(path).absolute()


@contextmanager
def alone(uri: str) -> Iterator[bool]:
    """Keep other processes and threads from the database meanwhile, so that what one has looked up still holds when one writes.

    Can be entered again within. Gives whether it could: a server has no such lock, nor have some file systems; there, one looks
    again afterwards. Raises UserError when another process does not come to an end.
    """
    file = sqlite_file(uri)
    lock = FileLock(f"{file}.lock", timeout=WAIT_S, is_singleton=True) if file else None
    try:
        if lock:
            lock.acquire()
    except Timeout as error:
        raise UserError(
            f"another process has kept the lock {str(lock and lock.lock_file)!r} for {WAIT_S:.0f} s; end it and try again"
        ) from error
    except (OSError, NotImplementedError):  # a folder to read from, or a file system without locks
        lock = None
    try:
        yield lock is not None
    finally:
        if lock:
            lock.release()


def prepare(uri: str) -> None:
    """See that the database of a SQLite URI has tables; nothing for other URIs.

    Raises UserError for a file that is no database, or cannot be read.
    """
    file = sqlite_file(uri)
    if file is None:
        return
    with _explained(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        if not _has_tables(file):
            with alone(uri):
                if not _has_tables(file):
                    _make(file)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        if "locked" in str(error):
            wrong = "is locked; end the program that holds it"
        elif isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            wrong = f"is no SQLite database, or a damaged one ({error}); move it away, and a new one is made"
        else:
            wrong = f"cannot be opened ({error}); move it away or let yourself read and write it"
        raise UserError(f"the tracking database {str(file)!r} {wrong}, or set MLFLOW_TRACKING_URI") from error


def _has_tables(file: Path) -> bool:
    if not file.exists():
        return False
    if file.is_dir():
        raise IsADirectoryError("it is a folder")
    with closing(_connect(file)) as database:
        found = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return bool(found[0])


def _connect(file: Path) -> sqlite3.Connection:
    # Nobody but the driver of a sweep may make a file that is not there.
    return sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=LOCKED_S, isolation_level=None)


def _make(file: Path) -> None:
    """Make the tables aside: an interrupted migration would leave a database that no later one goes on from."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    aside = file.with_name(f"{file.name}.new")
    aside.unlink(missing_ok=True)
    # MLflow writes a plain path into SQL as it is, whatever quotes and colons it has.
    SqlAlchemyStore(sqlite_uri(aside), (file.parent / ARTIFACTS).as_uri()).engine.dispose()
    aside.replace(file)


def follow_folder(uri: str) -> None:
    """Where the folder of a database was moved or copied with its artifacts, let the database find them in it.

    For a database whose tables are those of this MLflow. Raises UserError when it cannot be written.
    """
    file = sqlite_file(uri)
    here = file.parent / ARTIFACTS if file else None
    if file is None or here is None or not here.is_dir():
        return
    with _explained(file):
        if not _left_behind(file, here):
            return
        with alone(uri):
            moved = _left_behind(file, here)
            if not moved:
                return
            try:
                changed = _rewrite(file, moved, here)
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"the folder of {str(file)!r} was moved, but the database still names {min(moved)!r} and cannot be "
                    f"written ({error}); make it writable once, or move the folder back"
                ) from error
    _log.warning("the folder of %s was moved or copied: %d places of artifacts now lie below %s", file, changed, here)


def _left_behind(file: Path, here: Path) -> set[str]:
    """The artifact folders that experiments name, belong to this database, and are not the one beside it."""
    with closing(_connect(file)) as database:
        # Number 0 is MLflow's own, which gankd never uses.
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments WHERE experiment_id != 0").fetchall()
        places = [place for (place,) in database.execute("SELECT artifact_uri FROM runs").fetchall()]
    roots = {root for (place,) in rows if (root := _root(place))}
    return {root for root in roots if _is_left_behind(Path(root), file.name, here) and _lies_here(root, places, here)}


def _lies_here(root: str, places: list[str | None], here: Path) -> bool:
    """Whether what runs have left below `root` is found below `here`: a folder that is only away has moved nowhere."""
    theirs = [Path(_moved(place, root, here)) for place in places if place and _root(place) == root]
    return not theirs or any(Path(_path(str(place))).exists() for place in theirs)


def _is_left_behind(root: Path, database: str, here: Path) -> bool:
    if root == here:
        return False
    if not root.exists():
        return True
    return not root.samefile(here) and (root.parent / database).exists()  # the folder that this one is a copy of


def _root(place: str | None) -> str | None:
    """The folder `mlruns` that a place of artifacts lies in."""
    path = _path(place or "")
    parts = Path(path).parts
    if not path.startswith("/") or ARTIFACTS not in parts:
        return None
    last = len(parts) - parts[::-1].index(ARTIFACTS)
    return str(Path(*parts[:last]))


def _path(place: str) -> str:
    return unquote(urlsplit(place).path) if place.startswith("file:") else place


def _rewrite(file: Path, moved: set[str], here: Path) -> int:
    """Put `here` in the place of the folders that were left behind, all or nothing; the number of places."""
    changed = 0
    with closing(_connect(file)) as database:
        database.execute("BEGIN IMMEDIATE")
        for table, column in PLACES:
            rows = database.execute(f"SELECT rowid, {column} FROM {table} WHERE {column} IS NOT NULL").fetchall()
            news = [(_moved(place, root, here), row) for row, place in rows if (root := _root(place)) in moved and root]
            database.executemany(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", news)
            changed += len(news)
        database.execute("COMMIT")
    return changed


def _moved(place: str, root: str, here: Path) -> str:
    path = here / Path(_path(place)).relative_to(root)
    return path.as_uri() if place.startswith("file:") else str(path)
