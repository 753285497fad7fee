"""MLflow's own pages on the runs of this machine."""

from __future__ import annotations

import errno
import os
import socket
import sys
from typing import NoReturn

from gankd.errors import UserError
from gankd.tracking.client import public
from gankd.tracking.pages import run_tables


def ui(uri: str, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Become `mlflow server` on the tracking store `uri`.

    Raises UserError for an address that cannot be had, a store behind http, and one that cannot be opened.
    """
    if uri.lower().startswith(("http://", "https://", "databricks")):
        raise UserError(f"the tracking URI {public(uri)!r} is a server already: open it in a browser")
    _check_free(host, port)
    server = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    tables = run_tables(uri, server)
    print(f"MLflow on {public(uri)}: {server}  (Ctrl-C ends it)")
    for experiment, address in tables.items():
        print(f"  {experiment}: {address}")
    sys.stdout.flush()
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    command = server_command(uri, host, port)
    os.execv(command[0], command)


def server_command(uri: str, host: str, port: int) -> list[str]:
    """One worker: more of them only fight for SQLite's write lock."""
    options = {"--backend-store-uri": uri, "--workers": "1", "--host": host, "--port": str(port)}
    return [sys.executable, "-m", "mlflow", "server", *(text for pair in options.items() for text in pair)]


def _check_free(host: str, port: int) -> None:
    try:
        _bind(host, port)
    except OSError as error:
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise UserError(f"this machine has no address {host!r} to listen on; give another --host") from error
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} of {host} is in use; choose a free one, such as --port {_bind(host, 0)}") from error
        raise UserError(f"port {port} of {host} cannot be used ({error.strerror}); choose another --port") from error
    except UnicodeError as error:  # of a name that no host can have
        raise UserError(f"{host!r} is not the name of a host; give another --host") from error


def _bind(host: str, port: int) -> int:
    """Listen there for a moment; the port, which is a free one for 0."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
