"""The metrics endpoint of a process: a small HTTP server on its own thread, and a file with its address.

The file is a target file for Prometheus' `file_sd_configs`, so that Prometheus finds all processes that share
a home folder, whatever port each one has.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from services.runtime.atomic_write import write_atomically
from services.runtime.process import replica_name
from services.settings import Settings

log = logging.getLogger(__name__)

OFF = -1
REQUEST_TIMEOUT_S = 10.0  # with a client that connects and sends no request
SILENT_S = 30.0  # a worker whose loop has not turned for this long counts as hanging
AgeReader = Callable[[], float]  # seconds since the last turn of the loop


class Endpoint:
    """GET /metrics and GET /health/live (503 after `silent_s` without a turn of the loop)."""

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, age_s: AgeReader, silent_s: float = SILENT_S
    ):
        """Listen on `port`; 0 takes a free one and stores its number. Raises OSError if the port is taken."""
        self._registry, self._age_s, self._silent_s = registry, age_s, silent_s
        self._server = _Server((host, port), self._handler())
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/metrics":
            return 200, CONTENT_TYPE_PLAIN_0_0_4, generate_latest(self._registry)
        if path == "/health/live":
            age_s = self._age_s()
            body = json.dumps({"status": "live" if age_s <= self._silent_s else "silent", "age_s": age_s})
            return (200 if age_s <= self._silent_s else 503), "application/json", body.encode()
        return 404, "text/plain", b"GET /metrics or /health/live\n"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            timeout = REQUEST_TIMEOUT_S

            def do_GET(self) -> None:
                status, kind, body = answer(self.path.partition("?")[0])
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing, because scrapes are frequent."""

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]):
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def server_bind(self) -> None:
        """Bind without the library's reverse look-up of the host name, which may take seconds."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


def open_endpoint(
    settings: Settings, registry: CollectorRegistry, age_s: AgeReader, silent_s: float = SILENT_S
) -> Endpoint:
    """The endpoint at `metrics_port`, or at a free port if another process of this host has that one."""
    try:
        return Endpoint(registry, settings.host, settings.metrics_port, age_s, silent_s)
    except OSError as error:
        other = Endpoint(registry, settings.host, 0, age_s, silent_s)
        log.warning("metrics port %d: %s; metrics are at port %d", settings.metrics_port, error, other.port)
        return other


@contextlib.contextmanager
def serve_metrics(
    settings: Settings,
    process: str,
    replica: str,
    registry: CollectorRegistry,
    age_s: AgeReader,
    silent_s: float = SILENT_S,
) -> Iterator[None]:
    """Serve `registry` and announce its address while the block runs; do nothing if `metrics_port` is -1."""
    if settings.metrics_port == OFF:
        yield
        return
    served = open_endpoint(settings, registry, age_s, silent_s)
    try:
        with announce_target(settings, process, replica, served.port):
            yield
    finally:
        served.close()


def serve_registry(
    settings: Settings, process: str, registry: CollectorRegistry
) -> contextlib.AbstractContextManager[None]:
    """Serve `registry`, which has no liveness file, at `metrics_port` while the block runs."""
    return serve_metrics(settings, process, replica_name(settings), registry, liveness_age(None, 0.0))


@contextlib.contextmanager
def announce_target(settings: Settings, process: str, replica: str, port: int) -> Iterator[None]:
    """Keep the target file of this process while the block runs; go on without it if it can't be written."""
    file: Path | None = None
    with contextlib.suppress(OSError):  # a full disk must not stop the process
        file = _write_target_file(settings, process, replica, port)
    try:
        yield
    finally:
        if file is not None:
            file.unlink(missing_ok=True)


def _write_target_file(settings: Settings, process: str, replica: str, port: int) -> Path:
    """Write the target file, and remove those of processes that died."""
    folder = settings.home / "metrics"
    _remove_stale(folder)
    wildcard = settings.host in ("0.0.0.0", "::", "")
    host = socket.gethostname() if wildcard else settings.host
    host = f"[{host}]" if ":" in host else host
    labels = {"process": process, "replica": replica}
    labels |= {"__meta_host": socket.gethostname(), "__meta_pid": str(os.getpid())}
    file = folder / f"{process}@{socket.gethostname()}-{os.getpid()}.json"
    write_atomically(file, json.dumps([{"targets": [f"{host}:{port}"], "labels": labels}]) + "\n")
    return file


def _remove_stale(folder: Path) -> None:
    for file in folder.glob(f"*@{socket.gethostname()}-*.json"):
        pid = file.stem.rpartition("-")[2]
        if pid.isdigit() and int(pid) != os.getpid() and not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                file.unlink()


def liveness_age(file: Path | None, began_s: float) -> AgeReader:
    """A function that returns the seconds since `file` was touched (since `began_s` if there is none yet).

    Without a file it returns 0: such a process is alive while it answers.
    """

    def age_s() -> float:
        if file is None:
            return 0.0
        try:
            return max(0.0, time.time() - file.stat().st_mtime)
        except OSError:
            return time.time() - began_s

    return age_s
