"""MLflow's own pages on the runs of this machine."""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from gankd.errors import UserError
from gankd.tracking.pages import run_tables


def ui(uri: str, host: str = "127.0.0.1", port: int = 5000) -> NoReturn:
    """Become `mlflow server` on the tracking store `uri`. Raises UserError for a port in use or a store behind http."""
    if uri.startswith(("http://", "https://")):
        raise UserError(f"the tracking URI {uri!r} is a server already: open it in a browser")
    if not _is_free(host, port):
        free = next((p for p in range(port + 1, port + 200) if _is_free(host, p)), None)
        raise UserError(f"port {port} of {host} is in use; choose a free one, such as --port {free}")
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    server = f"http://{host}:{port}"
    print(f"MLflow on {uri}: {server}  (Ctrl-C ends it)")
    for experiment, address in run_tables(uri, server).items():
        print(f"  {experiment}: {address}")
    sys.stdout.flush()
    command = server_command(uri, host, port)
    os.execv(command[0], command)


def server_command(uri: str, host: str, port: int) -> list[str]:
    """One worker: more of them only fight for SQLite's write lock."""
    options = {"--backend-store-uri": uri, "--workers": "1", "--host": host, "--port": str(port)}
    return [sys.executable, "-m", "mlflow", "server", *(text for pair in options.items() for text in pair)]


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
