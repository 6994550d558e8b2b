"""MLflow's UI on the store, with the addresses of the views that show stages, tokens and texts.

    fourstage ui                                 # http://127.0.0.1:5000, on mlruns/
    fourstage ui port=5001 uri=sqlite:///other/mlflow.db

| word | means |
|---|---|
| `uri=` | the store; `sqlite:///mlruns/mlflow.db` by itself |
| `port=`, `host=` | where the UI listens; 127.0.0.1:5000 by itself, so this machine only |

Ctrl-C ends it. For a tracking server the address is printed: its UI runs already.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence

from fourstage.cli.command import parse_words, run_command
from fourstage.stages import UserError

WORDS = {"uri": "sqlite:///mlruns/mlflow.db", "host": "127.0.0.1", "port": "5000"}
MLFLOWS_OWN = "ignore:starlette.middleware.wsgi is deprecated"  # a warning to its developers


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Gives the exit code, where there is a server already; else MLflow takes this process over."""

    def command(words: Sequence[str]) -> int:
        from fourstage.tracking.destination import resolved_uri
        from fourstage.tracking.store import check_existing

        given = parse_words(words, WORDS)
        uri, host, port = given["uri"], given["host"], given["port"]
        if uri.startswith(("http://", "https://")):
            _print_addresses(uri, uri)
            return 0
        if not port.isdigit() or not 0 < int(port) < 65536:
            raise UserError(f"port={port}: expected a whole number from 1 to 65535")
        check_existing(uri)
        _check_free(host, int(port))
        _print_addresses(f"http://{host}:{port}", uri)
        environment = os.environ | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # half of its start-up
            "PYTHONWARNINGS": ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), MLFLOWS_OWN))),
        }
        arguments = ["ui", "--backend-store-uri", resolved_uri(uri), "--workers", "1", "--host", host, "--port", port]
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "mlflow", *arguments], environment)

    return run_command(__doc__, argv, command)


def _check_free(host: str, port: int) -> None:
    """Raise UserError where somebody listens already: MLflow would end with a page of its server's log."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another port=") from error


def _print_addresses(server: str, uri: str) -> None:
    from fourstage.tracking.views import addresses

    for experiment, where in addresses(server, uri).items():
        print(f"{experiment}: {where}")
