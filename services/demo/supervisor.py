"""Supervisor of the demo's processes: starts them with a readiness check, restarts them with back-off after a
crash, stops them in order.

A parent guard (`services.local_servers.parent_guard`) ends every process with the supervisor, even if that is
killed. Ctrl-C in the terminal reaches the supervisor alone, which then decides the order."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from services.errors import UnavailableError
from services.local_servers.process import Server

FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0
STABLE_S = 20.0  # a process that ran this long has recovered: the next crash counts as the first
MAX_CRASHES = 6  # in a row
POLL_S = 0.1
LOG_LINE = re.compile(r"\{|\d{4}-\d\d-\d\d[ T]\d\d:\d\d")  # JSON, or text that begins with a time

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to run a process. `ready` is polled until it is true; by default a process is ready as soon as it
    runs. `nice` lowers the priority."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Callable[[], bool] = lambda: True
    nice: int = 0


@dataclass(slots=True)
class Child:
    """A supervised process. crashes: in a row; restart_at_s: None while it runs."""

    spec: ProcessSpec
    server: Server
    started_s: float
    crashes: int = 0
    restart_at_s: float | None = None


class CrashLoopError(UnavailableError):
    """A process crashed too often in a row."""


@dataclass(slots=True)
class Supervisor:
    """All processes, in the order of their start. `check` must be called regularly; `notify` receives crashes
    and restarts as text."""

    notify: Notify
    clock: Callable[[], float] = time.monotonic
    start: Callable[[ProcessSpec], Server] = lambda spec: Server(_command(spec), spec.log, spec.env)
    running: dict[str, Child] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, spec: ProcessSpec) -> None:
        """Start a process; `await_ready` waits for it."""
        with self.lock:
            self.running[spec.name] = Child(spec, self.start(spec), self.clock())

    def await_ready(self, name: str, timeout_s: float, stop: threading.Event) -> None:
        """Wait until a process is ready. Raises UnavailableError with the end of its log."""
        spec, end = self.running[name].spec, self.clock() + timeout_s
        while not spec.ready():
            if self.clock() > end:
                raise UnavailableError(name, f"not ready within {timeout_s:g} s. {tail(spec.log)}")
            if stop.wait(POLL_S):
                return

    def check(self) -> None:
        """Restart crashed processes after a back-off. Raises CrashLoopError after `MAX_CRASHES` in a row."""
        with self.lock:
            for child in self.running.values():
                if child.restart_at_s is None and not child.server.alive():
                    self._crashed(child)
                elif child.restart_at_s is not None and self.clock() >= child.restart_at_s:
                    self._restart(child)

    def stop(self, name: str) -> None:
        """Stop one process for good."""
        with self.lock:
            child = self.running.pop(name, None)
        if child is not None:
            child.server.stop()

    def stop_all(self) -> None:
        """Stop all processes concurrently; each gets SIGTERM first and finishes its work."""
        with self.lock:
            servers = [child.server for child in self.running.values()]
            self.running.clear()
        with ThreadPoolExecutor(max(1, len(servers))) as pool:
            list(pool.map(Server.stop, servers))

    def _crashed(self, child: Child) -> None:
        name, code = child.spec.name, child.server.exit_code()
        child.server.stop()  # closes its pipes
        stable = self.clock() - child.started_s >= STABLE_S
        child.crashes = 1 if stable else child.crashes + 1
        if child.crashes > MAX_CRASHES:
            raise CrashLoopError(name, f"it crashed {child.crashes} times in a row. {tail(child.spec.log)}")
        wait_s = min(FIRST_BACK_OFF_S * 2 ** (child.crashes - 1), LONGEST_BACK_OFF_S)
        child.restart_at_s = self.clock() + wait_s
        self.notify(f"{name} exited with code {code}; restarting in {wait_s:g} s")

    def _restart(self, child: Child) -> None:
        child.server = self.start(child.spec)
        child.started_s, child.restart_at_s = self.clock(), None
        self.notify(f"{child.spec.name} was restarted")


def run_command(
    spec: ProcessSpec, stop: threading.Event, on_line: Notify = lambda line: None, every_s: float = 0.2
) -> None:
    """Run a command until it ends, passing its newest line of output to `on_line`. Raises UnavailableError if
    it fails."""
    server, last = Server(_command(spec), spec.log, spec.env), ""
    try:
        while server.alive() and not stop.wait(every_s):
            line = last_line(spec.log)
            if line != last:
                on_line(line)
                last = line
        if not stop.is_set() and server.exit_code() != 0:
            raise UnavailableError(spec.name, f"it exited with code {server.exit_code()}. {tail(spec.log)}")
    finally:
        server.stop()


def last_line(log: Path, max_length: int = 120) -> str:
    """Newest line that is for a viewer: a progress line, also one that rewrites itself, but no log record."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        skipped = file.seek(max(0, log.stat().st_size - 2_000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")[bool(skipped) :]
    newest_first = (line.strip() for line in reversed(lines))
    return next((line[:max_length] for line in newest_first if line and not LOG_LINE.match(line)), "")


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, for an error message."""
    if not log.exists():
        return f"(it wrote nothing to {log})"
    return f"The end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _command(spec: ProcessSpec) -> list[str]:
    return [*(["nice", "-n", str(spec.nice)] if spec.nice else []), *spec.command]
