"""Liveness files, by which a health check outside a process detects whether its loop still runs.

Processes with HTTP have `/health/ready`. A worker's loop checks its stop event at every turn, and that check
touches a small file; a loop that hangs no longer checks. A process that shuts down cleanly deletes its file,
so a stale file means that the process hung or crashed. A process also notes where its metrics are
(services.runtime.metrics_endpoint), and a note whose process is gone means the same.
"""

import contextlib
import http.client
import json
import math
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from services.settings import Settings

TOUCH_EVERY_S = 1.0
HTTP_DEADLINE_S = 3.0
MAX_CLOCK_CHANGE_S = 3_600.0  # the wall clock may have been set by this much since
# Processes by the name they had before the folders were renamed: `ringside health` still takes the old name,
# and a file that a process of the older release left behind is ignored.
RENAMED = {"bandit": "attribution", "trainer": "training"}


class StopEvent(threading.Event):
    """A stop event that touches `file` whenever its owner checks it, and deletes the file once it is set."""

    def __init__(self, file: Path):
        super().__init__()
        self._file = file
        self._next = 0.0

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._refresh(super().is_set())

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set, for at most `timeout` seconds; whether it is set."""
        self._refresh(super().is_set())
        return self._refresh(super().wait(timeout))

    def _refresh(self, stopping: bool) -> bool:
        if stopping:
            with contextlib.suppress(OSError):
                self._file.unlink()
        else:
            self._touch()
        return stopping

    def _touch(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + TOUCH_EVERY_S
        with contextlib.suppress(OSError):  # a full disk must not end a process that still works
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()


def liveness_file(settings: Settings, process: str) -> Path:
    """File of the one process of this name on this host (in compose: in this container)."""
    return settings.home / "alive" / f"{process}@{socket.gethostname()}"


def set_unhealthy_reason(settings: Settings, process: str, reason: str) -> None:
    """Store in the liveness file why `process` is unhealthy although its loop runs; "" clears the reason."""
    with contextlib.suppress(OSError):
        liveness_file(settings, process).write_text(reason)


def silence_s_by_process(settings: Settings) -> dict[str, float]:
    """Seconds since the last sign of life of each process of this host that was not stopped cleanly.

    0 for a process that runs and has a health check over HTTP; inf for one that is gone. If another process
    of the same name runs, the one that is gone is listed with its pid. A worker that runs and has not begun
    its loop is left out.
    """
    ages_s: dict[str, float] = {}
    pattern = liveness_file(settings, "*")
    for file in sorted(pattern.parent.glob(pattern.name)):
        process = file.name.partition("@")[0]
        if process not in RENAMED:
            with contextlib.suppress(OSError):  # it is just stopping
                ages_s[process] = time.time() - file.stat().st_mtime
    noted = _running_by_note(settings)
    for process in {process for process, _ in noted}:
        pids = {pid: runs for (name, pid), runs in noted.items() if name == process}
        gone = [pid for pid, runs in pids.items() if not runs]
        if len(gone) == len(pids):
            ages_s[process] = math.inf
            continue
        ages_s |= {f"{process} {pid}": math.inf for pid in gone}
        if process in _ports(settings):
            ages_s[process] = 0.0
    return dict(sorted(ages_s.items()))


def _running_by_note(settings: Settings) -> dict[tuple[str, int], bool]:
    """Whether each process of this host runs, by name and pid, from the notes of their metrics endpoints. A
    process that stops cleanly deletes its note."""
    runs = {}
    for file in (settings.home / "metrics").glob(f"*@{socket.gethostname()}-*.json"):
        process, pid = file.name.partition("@")[0], file.stem.rpartition("-")[2]
        if process not in RENAMED:
            with contextlib.suppress(OSError, ValueError):  # it is just stopping
                runs[process, int(pid)] = _is_running(int(pid), file.stat().st_mtime)
    return runs


def _is_running(pid: int, noted_s: float) -> bool:
    """Whether the process that wrote a note at `noted_s` still runs; its pid may belong to a later one."""
    try:
        process = psutil.Process(pid)
        zombie = process.status() == psutil.STATUS_ZOMBIE
        return not zombie and process.create_time() < noted_s + MAX_CLOCK_CHANGE_S
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def unhealthy_reason(settings: Settings, process: str, within_s: float) -> str:
    """Why `process` is unhealthy; "" if it is healthy. A worker must have given a sign of life in the last
    `within_s` seconds."""
    process = RENAMED.get(process, process)
    ports = _ports(settings)
    if process in ports:
        path = "live" if process == "shop" else "ready"
        return _health_problem(_health_url(settings.host, ports[process], path))
    file = liveness_file(settings, process)
    if not file.exists():
        return f"{process} left no sign of life in {file}"
    age_s = time.time() - file.stat().st_mtime
    if age_s > within_s:
        return f"{process} gave its last sign of life {age_s:.0f} s ago"
    reason = file.read_text(errors="replace")
    return f"{process} is alive, but {reason}" if reason else ""


def is_ringside(host: str, port: int) -> bool:
    """Whether /health/live answers there, as it does in every Ringside process that listens."""
    return not _health_problem(_health_url(host, port, "live"))


def _ports(settings: Settings) -> dict[str, int]:
    """Ports of the processes with a health check over HTTP."""
    return {
        "recommend": settings.recommend_port,
        "console": settings.console_port,
        "shop": settings.shop_port,
    }


def _health_url(host: str, port: int, path: str) -> str:
    """Address of a health check, from this host."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/health/{path}"


def _health_problem(url: str) -> str:
    """Why a health check is not answered with success; "" if it is. With urllib, because importing httpx
    would take longer than the rest of `ringside health`, which containers run every ten seconds."""
    try:
        with urllib.request.urlopen(url, timeout=HTTP_DEADLINE_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url}: {error.code} {error.reason}{_status(error.read(1_000))}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {getattr(error, 'reason', error)}"


def _status(body: bytes) -> str:
    """The status in the body of our health checks, after a comma; "" if there is none."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f", {json.loads(body)['status']}"
    return ""
