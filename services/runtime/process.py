"""Basics of a process: its stop event, its name, its limit of open files."""

import os
import resource
import signal
import socket
import threading

from services.runtime.liveness import StopEvent, liveness_file
from services.settings import Settings


def stop_on_signal(settings: Settings | None = None, process: str = "") -> threading.Event:
    """Return an event that SIGTERM and SIGINT set; a process loops until it is set.

    With settings and the name of the process, checking the event refreshes the liveness file that
    `ringside health` reads.
    """
    stop = threading.Event() if settings is None else StopEvent(liveness_file(settings, process))
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    return stop


def replica_name(settings: Settings) -> str:
    """Name under which this process reports itself."""
    return settings.replica or f"{socket.gethostname()}-{os.getpid()}"


def raise_open_files_limit(most: int = 65_536) -> None:
    """Raise the limit of open files to `most`, as far as the system allows.

    Many systems default to 1,024, which a single client with as many idle connections would exhaust.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
