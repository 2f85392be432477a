"""Signs of life: how a health check outside a process learns that its loop still turns.

Processes with HTTP have `/health/ready`. A worker's loop asks its stop event, at every turn, whether to go
on; that question leaves a fresh time stamp on a small file, and a loop that hangs stops asking. Who is told
to stop takes its file away, so one that grows old is of a process that hangs or died. A process also notes
where its metrics are (services.runtime.metrics_endpoint): a note of a process that is gone tells the same.
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

EVERY_S = 1.0
HTTP_DEADLINE_S = 3.0
CLOCK_S = 3_600.0  # a clock may have been set by so much since


class Stop(threading.Event):
    """A stop event that leaves a sign of life on `file` whenever its owner looks at it."""

    def __init__(self, file: Path):
        super().__init__()
        self._file = file
        self._next = 0.0

    def is_set(self) -> bool:
        """Whether to stop."""
        return self._told(super().is_set())

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is set; whether it is."""
        self._told(super().is_set())
        return self._told(super().wait(timeout))

    def _told(self, stopping: bool) -> bool:
        """Leave the sign that goes with it."""
        if stopping:
            with contextlib.suppress(OSError):
                self._file.unlink()
        else:
            self._beat()
        return stopping

    def _beat(self) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY_S
        with contextlib.suppress(OSError):  # a full disk must not end what still works
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.touch()


def pulse_file(settings: Settings, process: str) -> Path:
    """Of the one process of this kind on this host (in compose: in this container)."""
    return settings.home / "alive" / f"{process}@{socket.gethostname()}"


def complain(settings: Settings, process: str, why: str) -> None:
    """Leave with the sign of life of `process` what goes wrong though its loop turns; empty: nothing does."""
    with contextlib.suppress(OSError):
        pulse_file(settings, process).write_text(why)


def silent_s(settings: Settings) -> dict[str, float]:
    """How long ago each process of this host that was not told to stop gave its last sign of life, s; 0 for
    one that runs and answers over HTTP instead, inf for one that is gone. Where another of its kind runs on,
    one that is gone is told with its number. A worker that runs and did not begin its loop is not told."""
    found: dict[str, float] = {}
    for file in sorted(pulse_file(settings, "*").parent.glob(pulse_file(settings, "*").name)):
        with contextlib.suppress(OSError):  # it stops just now
            found[file.name.partition("@")[0]] = time.time() - file.stat().st_mtime
    noted = _noted(settings)
    for process in {process for process, _ in noted}:
        pids = {pid: runs for (name, pid), runs in noted.items() if name == process}
        gone = [pid for pid, runs in pids.items() if not runs]
        if len(gone) == len(pids):
            found[process] = math.inf
            continue
        found |= {f"{process} {pid}": math.inf for pid in gone}
        if process in _ports(settings):
            found[process] = 0.0
    return dict(sorted(found.items()))


def _noted(settings: Settings) -> dict[tuple[str, int], bool]:
    """Processes of this host by name and number, as they noted where their metrics are, and whether they run.
    Who stops in an orderly way takes its note away."""
    found = {}
    for file in (settings.home / "metrics").glob(f"*@{socket.gethostname()}-*.json"):
        process, pid = file.name.partition("@")[0], file.stem.rpartition("-")[2]
        with contextlib.suppress(OSError, ValueError):  # it stops just now
            found[process, int(pid)] = _runs(int(pid), file.stat().st_mtime)
    return found


def _runs(pid: int, noted_s: float) -> bool:
    """Whether who wrote a note at `noted_s` runs still: its number may be another's by now, who began
    later."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() < noted_s + CLOCK_S
    except psutil.AccessDenied:
        return True
    except psutil.NoSuchProcess:
        return False


def complaint(settings: Settings, process: str, within_s: float) -> str:
    """Why `process` is not healthy; empty if it is."""
    ports = _ports(settings)
    if process in ports:
        path = "live" if process == "shop" else "ready"
        return _unanswered(_address(settings.host, ports[process], path))
    file = pulse_file(settings, process)
    if not file.exists():
        return f"{process} left no sign of life in {file}"
    age_s = time.time() - file.stat().st_mtime
    if age_s > within_s:
        return f"{process} gave its last sign of life {age_s:.0f} s ago"
    wrong = file.read_text(errors="replace")
    return f"{process} is alive, but {wrong}" if wrong else ""


def _ports(settings: Settings) -> dict[str, int]:
    """Of processes that are asked over HTTP."""
    return {
        "recommend": settings.recommend_port,
        "console": settings.console_port,
        "shop": settings.shop_port,
    }


def _address(host: str, port: int, path: str) -> str:
    """Of a health check from this host."""
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/health/{path}"


def _unanswered(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=HTTP_DEADLINE_S):
            return ""
    except urllib.error.HTTPError as error:
        with error:
            return f"{url}: {error.code} {error.reason}{_status(error.read(1_000))}"
    except (OSError, http.client.HTTPException) as error:
        return f"{url}: {getattr(error, 'reason', error)}"


def _status(body: bytes) -> str:
    """What our health checks say of themselves, with a comma."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return f", {json.loads(body)['status']}"
    return ""


def answers_as_ours(host: str, port: int) -> bool:
    """Whether /health/live answers there, as it does in every process of ours that listens."""
    return not _unanswered(_address(host, port, "live"))
