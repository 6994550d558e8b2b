"""Real servers for tests, on loopback: PostgreSQL, an MLflow tracking server, a Ray cluster.

Each is a context manager that starts one in a folder of its own and ends the process that it started. Where the
programs are not installed the test is skipped with the reason, or fails if FOURSTAGE_REQUIRE names `servers`.

    with postgres() as database, mlflow_server(database, folder) as uri: ...
"""

from __future__ import annotations

import http.server
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

POSTGRES_USER = "postgres"  # whose name Debian's package makes; PostgreSQL refuses to run as root
RAY_HOST = "127.0.0.2"  # Ray replaces 127.0.0.1 by the machine's address in the network


def free_port() -> int:
    """A port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL server with an empty database: `postgresql://user@127.0.0.1:port/postgres`."""
    programs = _postgres_programs()
    port = free_port()
    with _folder("fourstage-pg-") as folder:
        become: list[str] = []
        if os.geteuid() == 0:
            become = ["setpriv", f"--reuid={POSTGRES_USER}", f"--regid={POSTGRES_USER}", "--clear-groups"]
            shutil.chown(folder, POSTGRES_USER, POSTGRES_USER)
        make = [*become, str(programs / "initdb"), "-D", str(folder / "data"), "-U", "fourstage", "-A", "trust"]
        done = subprocess.run([*make, "-E", "UTF8", "--locale=C", "--no-sync"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        command = [*become, str(programs / "postgres"), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        ready = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        # SIGINT is PostgreSQL's fast shutdown: it does not wait for clients to leave
        with _process(command, folder / "log", os.environ, signal.SIGINT) as process:
            _wait(lambda: subprocess.run(ready).returncode == 0, process, folder / "log", 60)
            yield f"postgresql://fourstage@127.0.0.1:{port}/postgres"


@contextmanager
def mlflow_server(backend: str, folder: Path, port: int | None = None) -> Iterator[str]:
    """An MLflow server on a database `backend` that serves the artifacts in `folder`: `http://127.0.0.1:port`."""
    port = port or free_port()
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", backend, "--artifacts-destination", str(folder / "files"), "--serve-artifacts"),
    ]
    environ = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _process(command, folder / "mlflow.log", environ, signal.SIGTERM) as process:
        uri = f"http://127.0.0.1:{port}"
        _wait(lambda: _answers(f"{uri}/health"), process, folder / "mlflow.log", 120)
        yield uri


@contextmanager
def ray_cluster(folder: Path, processors: int = 4) -> Iterator[dict[str, str]]:
    """A Ray head node whose jobs run in `folder`; gives the environment that a sweep needs to join it.

    `RAY_ADDRESS` in it is `host:port`.
    """
    program = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        absent("ray", "pip install 'fourstage[ray]'")
    port = free_port()
    with ray_home() as environment:
        environ = os.environ | environment
        home = Path(environment["HOME"])
        command = [
            *(str(program), "start", "--head", f"--node-ip-address={RAY_HOST}", f"--port={port}", "--block"),
            *(f"--num-cpus={processors}", "--object-store-memory=80000000", "--include-dashboard=false"),
            "--disable-usage-stats",
        ]
        with _process(command, home / "log", environ, signal.SIGTERM, cwd=folder) as process:
            _wait(lambda: "ray runtime started" in (home / "log").read_text().lower(), process, home / "log", 120)
            yield environment | {"RAY_ADDRESS": f"{RAY_HOST}:{port}"}


@contextmanager
def ray_home() -> Iterator[dict[str, str]]:
    """An environment in which Ray leaves the home folder alone, asks for no token and does not report its use."""
    with _folder("fs-ray-") as home:  # short: the paths of Ray's sockets may have 107 bytes
        yield {
            **{"HOME": str(home), "RAY_TMPDIR": str(home)},
            **{"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        }


@contextmanager
def proxy(upstream: str = "") -> Iterator[Proxy]:
    """A server on loopback that answers as its `mode` says, and with "ok" as the server `upstream` does."""
    answering = Proxy(upstream)
    thread = threading.Thread(target=answering.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield answering
    finally:
        answering.released.set()
        answering.shutdown()
        answering.server_close()
        thread.join()


class Proxy(http.server.ThreadingHTTPServer):
    """`mode`: ok, hang, drip (a byte a second), reset, or a status with a type and a body; `seen`: what was sent."""

    daemon_threads = True
    block_on_close = False
    mode: str | tuple[int, str, bytes] = "hang"

    def __init__(self, upstream: str):
        super().__init__(("127.0.0.1", 0), _Answer)
        self.upstream, self.released = upstream, threading.Event()
        self.seen: list[tuple[str, bytes]] = []
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that gave up is no fault."""


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((f"{self.path}\n{self.headers}", body))
        mode = self.server.mode
        if mode == "hang":
            self.server.released.wait(60)
        elif mode == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "600")
            self.end_headers()
            while not self.server.released.wait(0.2):
                self.wfile.write(b" ")
        elif mode == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
        elif mode == "ok":
            self.send(*self.forwarded(body))
        else:
            assert isinstance(mode, tuple)
            self.send(*mode)

    def forwarded(self, body: bytes) -> tuple[int, str, bytes]:
        passed = {name: value for name, value in self.headers.items() if name.lower() in ("content-type", "accept")}
        request = urllib.request.Request(
            f"{self.server.upstream}{self.path}", body or None, passed, method=self.command
        )
        try:
            found = urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as error:
            found = error
        with found:
            return found.status, found.headers.get("Content-Type", ""), found.read()

    def send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815


def _postgres_programs() -> Path:
    """The folder of initdb, postgres and pg_isready: Debian keeps it out of the PATH."""
    found = shutil.which("initdb")
    folders = [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *([Path(found).resolve().parent] if found else [])]
    needed = ("initdb", "postgres", "pg_isready")
    folders = [folder for folder in folders if all((folder / name).exists() for name in needed)]
    if not folders:
        absent("PostgreSQL", "apt-get install postgresql")
    return folders[-1]


def absent(what: str, how: str) -> None:
    """Skip the test, since `what` is not installed, or fail it where it must not be skipped."""
    reason = f"no {what}: {how}"
    if "servers" in os.environ.get("FOURSTAGE_REQUIRE", ""):
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def _folder(prefix: str) -> Iterator[Path]:
    """A folder that others may enter: pytest's are their owner's alone, and PostgreSQL runs as somebody else."""
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextmanager
def _process(
    command: list[str], log: Path, environ: dict[str, str] | os._Environ[str], stop: int, cwd: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a group of its own, told to stop at the end; what is left of its group after 30 s is killed."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=environ, cwd=cwd, start_new_session=True)
    try:
        yield process
    finally:
        process.send_signal(stop)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, limit_s: float) -> None:
    """Until `ready` says so; fails with the end of the log if the process ends, or takes more than `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if process.poll() is not None:
            pytest.fail(f"{process.args!r} ended with {process.returncode}: {log.read_text()[-2000:]}")
        if time.monotonic() > deadline:
            pytest.fail(f"{process.args!r} was not ready in {limit_s:g} s: {log.read_text()[-2000:]}")
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False
