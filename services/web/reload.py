"""`ringside recommend --reload`: ask the supervisor of this host to replace its workers, and wait for it."""

import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import psutil

from services.errors import ConfigurationError, UnavailableError
from services.runtime.atomic_write import write_atomically
from services.settings import Settings

POLL_EVERY_S = 0.1


class Status(msgspec.Struct, frozen=True):
    """The supervising process and the result of its last reload: done, or failed (the old workers stay)."""

    pid: int
    since_s: float
    reloads: int = 0
    last: str | None = None


class StatusFile:
    """The file in which a supervisor publishes its `Status`."""

    def __init__(self, settings: Settings):
        self._path = _path(settings)
        self._write(Status(os.getpid(), psutil.Process().create_time()))

    def finish(self, result: str) -> None:
        """Publish that a reload is over."""
        before = self._status
        self._write(Status(before.pid, before.since_s, before.reloads + 1, result))

    def remove(self) -> None:
        """Delete the file, because the supervisor ends."""
        self._path.unlink(missing_ok=True)

    def _write(self, status: Status) -> None:
        self._status = status
        write_atomically(self._path, msgspec.json.encode(status))


def reload(settings: Settings, within_s: float) -> None:
    """Replace the workers one by one, without losing a request.

    Raises ConfigurationError without a supervisor on this host, and UnavailableError if new workers do not
    get ready; then the old ones stay.
    """
    before = _status(settings)
    if not _runs(before):  # a killed supervisor left its file, and its pid may belong to another process now
        raise _no_supervisor(settings)
    os.kill(before.pid, signal.SIGHUP)
    end = time.monotonic() + within_s
    while (now := _status(settings)).reloads == before.reloads:
        if time.monotonic() > end:
            raise UnavailableError(
                "reload", f"not finished after {within_s:g} s; it continues in the background"
            )
        time.sleep(POLL_EVERY_S)
    if now.last != "done":
        raise UnavailableError(
            "reload", "a new worker did not start, so the old ones stay; see the log of the workers"
        )


def _runs(status: Status) -> bool:
    try:
        return psutil.Process(status.pid).create_time() == status.since_s
    except psutil.NoSuchProcess:
        return False


def _status(settings: Settings) -> Status:
    try:
        return msgspec.json.decode(_path(settings).read_bytes(), type=Status)
    except FileNotFoundError:
        raise _no_supervisor(settings) from None


def _no_supervisor(settings: Settings) -> ConfigurationError:
    return ConfigurationError(
        f"recommend_workers: no supervisor on this host for port {settings.recommend_port}; only `ringside "
        f"recommend` with RINGSIDE_RECOMMEND_WORKERS of 2 or more can reload"
    )


def _path(settings: Settings) -> Path:
    name = f"supervisor-{socket.gethostname()}-{settings.recommend_port}.json"
    return settings.home / "recommend" / name
