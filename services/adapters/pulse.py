"""Signs of life: how a health check outside a process learns that its loop still turns.

Processes with HTTP have `/health/ready`. A worker's loop asks its stop event, at every turn, whether to go
on; that question leaves a fresh time stamp on a small file, and a loop that hangs stops asking. Who is told
to stop takes its file away, so one that grows old is of a process that hangs or died.
"""

import contextlib
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from services.settings import Settings

EVERY_S = 1.0
HTTP_DEADLINE_S = 3.0


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
    """How long ago each process of this host that was not told to stop gave its last sign of life, s."""
    found = {}
    for file in sorted(pulse_file(settings, "*").parent.glob(pulse_file(settings, "*").name)):
        with contextlib.suppress(OSError):  # it stops just now
            found[file.name.partition("@")[0]] = time.time() - file.stat().st_mtime
    return found


def complaint(settings: Settings, process: str, within_s: float) -> str:
    """Why `process` is not healthy; empty if it is."""
    ports = {
        "recommend": settings.recommend_port,
        "console": settings.console_port,
        "shop": settings.shop_port,
    }
    if process in ports:
        path = "live" if process == "shop" else "ready"
        return _unanswered(f"http://127.0.0.1:{ports[process]}/health/{path}")
    file = pulse_file(settings, process)
    if not file.exists():
        return f"{process} left no sign of life in {file}"
    age_s = time.time() - file.stat().st_mtime
    if age_s > within_s:
        return f"{process} gave its last sign of life {age_s:.0f} s ago"
    wrong = file.read_text(errors="replace")
    return f"{process} is alive, but {wrong}" if wrong else ""


def _unanswered(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=HTTP_DEADLINE_S):
            return ""
    except (urllib.error.URLError, OSError) as error:
        return f"{url}: {error}"


def answers_as_ours(host: str, port: int) -> bool:
    """Whether /health/live answers there, as it does in every process of ours that listens."""
    wildcard = host in ("0.0.0.0", "::", "")
    return not _unanswered(f"http://{'127.0.0.1' if wildcard else host}:{port}/health/live")
