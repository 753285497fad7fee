"""MLflow's client, quiet and soon at an end with its patience, and what goes wrong with it as one sentence."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from gankd.errors import UserError
from gankd.tracking.database import alone, follow_folder, prepare, sqlite_file

# Errors by which a server that is there says no to what was sent: sending it again would not help.
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "RESOURCE_ALREADY_EXISTS"}
SCHEMES = ("http", "https", "databricks", "sqlite", "postgresql", "mysql", "mssql")
EXISTS = "RESOURCE_ALREADY_EXISTS"
ELSEWHERE = "set MLFLOW_TRACKING_URI to one that answers (unset, it is a SQLite file in the working folder)"


def mlflow_client(uri: str) -> Any:
    """An MlflowClient that gives up soon and keeps quiet. What the user has set in the environment stands.

    Makes the database of a working folder where it is missing. Raises what MLflow raises, and UserError.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # the tracker has its own patience
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")  # no talk of tables and migrations
    logging.getLogger("alembic").setLevel(logging.WARNING)
    prepare(uri)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs a traceback of what it also raises
    with alone(uri):  # an older database is migrated
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    follow_folder(uri)
    return client


def on_server(uri: str) -> bool:
    """Whether a server chooses where artifacts lie."""
    return uri.lower().startswith(("http://", "https://", "databricks"))


def pages(search: Callable[..., Any]) -> Iterator[Any]:
    """All that a search of MLflow finds; `search` is called with `page_token`."""
    token = None
    while True:
        found = search(page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def quoted(text: str) -> str:
    """A text in a filter of MLflow. Raises UserError for one that MLflow cannot express."""
    mark = "'" if "'" not in text else '"'
    if mark in text:
        raise UserError(f"MLflow cannot search for {text!r}, which has both kinds of quotes; choose a name without")
    return f"{mark}{text}{mark}"


def is_refusal(error: Exception) -> bool:
    """Whether the server answered, and will never take this."""
    return getattr(error, "error_code", None) in REFUSALS


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """What a tracking store answers wrongly, or not at all, becomes the user's sentence."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, ImportError) as error:  # of requests, of JSON, of a database without its driver
        raise explained(uri, error) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("mlflow", "sqlalchemy", "alembic"):
            raise
        raise explained(uri, error) from error


def explained(uri: str, error: Exception) -> UserError:
    """The user's sentence for an error of a tracking store."""
    if isinstance(error, UserError):
        return error
    store, said = f"the MLflow tracking store {public(uri)!r}", first_line(error)
    if schema := re.search(r"found version (\w+)|revision identified by '(\w+)'", said):
        return UserError(f"{store} {_of_another_mlflow(uri, schema[1] or schema[2])}, or {ELSEWHERE}")
    if re.split(r"\+|:", uri.lower())[0] not in SCHEMES:
        return UserError(f"{store} is of no kind that MLflow takes, such as http://host:port; {ELSEWHERE}")
    if is_refusal(error):
        return UserError(f"{store} refuses ({said}); mend that there, or {ELSEWHERE}")
    if sqlite_file(uri):
        return UserError(f"{store} cannot be used ({said}); mend that, or {ELSEWHERE}")
    return UserError(f"{store} cannot be opened ({said}); start that server or log in to it, or {ELSEWHERE}")


def _of_another_mlflow(uri: str, schema: str) -> str:
    import mlflow

    if any(Path(mlflow.__file__).parent.glob(f"store/db_migrations/versions/{schema}_*.py")):
        return f"was made by an older MLflow; copy it, then run `mlflow db upgrade '{public(uri)}'`"
    return f"was made by a newer MLflow (its schema is {schema}); install that version in the place of {mlflow.__version__}"


def public(uri: str) -> str:
    """The URI without user name and password."""
    try:
        parts = urlsplit(uri)
    except ValueError:  # such as an address with half of its brackets
        return uri.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])) if "@" in parts.netloc else uri


def first_line(error: Exception) -> str:
    """What an error says, short and without passwords."""
    of_database = getattr(error.__cause__, "orig", None) or getattr(error, "orig", None)  # below SQLAlchemy's own words
    text = next(iter(str(of_database or error).strip().splitlines()), type(error).__name__)
    if cause := re.search(r"\(Caused by (.+)\)$", text):
        text = cause[1]
    return re.sub(r"//[^/@\s]+@", "//", text)[:300]
