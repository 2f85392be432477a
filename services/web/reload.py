"""`ringside recommend --reload`: tell the supervisor of this host to replace its workers, and wait for it."""

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

from services.errors import ConfigurationError, UnavailableError
from services.runtime.atomic_write import write_atomically
from services.settings import Settings

LOOK_EVERY_S = 0.1


class Progress:
    """A file that says which process supervises, and how its reloads went."""

    def __init__(self, settings: Settings):
        self._path = _path(settings)
        since_s = psutil.Process().create_time()
        self._record: dict[str, object] = {"pid": os.getpid(), "since_s": since_s, "reloads": 0, "last": None}
        self._write()

    def rolled(self, how: str) -> None:
        """A reload is over: done, or failed (then the old workers stay)."""
        self._record |= {"reloads": int(str(self._record["reloads"])) + 1, "last": how}
        self._write()

    def forget(self) -> None:
        """The supervisor ends."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_atomically(self._path, json.dumps(self._record))


def reload(settings: Settings, within_s: float) -> None:
    """Replace the workers one by one, without a request lost. Raises ConfigurationError when nobody
    supervises here, UnavailableError when new workers don't get ready: then the old ones stay."""
    before = _known(settings)
    if not _runs(before):  # one that was killed left its file, and its pid may be somebody else's
        raise _nobody(settings)
    os.kill(before["pid"], signal.SIGHUP)
    end = time.monotonic() + within_s
    while (now := _known(settings))["reloads"] == before["reloads"]:
        if time.monotonic() > end:
            raise UnavailableError("reload", f"not over after {within_s:g} s; it goes on")
        time.sleep(LOOK_EVERY_S)
    if now["last"] != "done":
        raise UnavailableError("reload", "a new worker did not start; the old ones stay. See its log")


def _runs(known: Mapping[str, float]) -> bool:
    try:
        return psutil.Process(int(known["pid"])).create_time() == known["since_s"]
    except (psutil.NoSuchProcess, KeyError):
        return False


def _known(settings: Settings) -> dict[str, int]:
    try:
        return json.loads(_path(settings).read_text("utf-8"))
    except FileNotFoundError:
        raise _nobody(settings) from None


def _nobody(settings: Settings) -> ConfigurationError:
    return ConfigurationError(
        f"recommend_workers: no supervisor on this host for port {settings.recommend_port}; only `ringside "
        f"recommend` with RINGSIDE_RECOMMEND_WORKERS of 2 or more can reload"
    )


def _path(settings: Settings) -> Path:
    name = f"supervisor-{socket.gethostname()}-{settings.recommend_port}.json"
    return settings.home / "recommend" / name
