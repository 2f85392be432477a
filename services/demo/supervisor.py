"""Processes under supervision: started with a health check, restarted with back-off when they crash,
stopped in order.

Every child hangs on a leash (`services.local_servers.process`): it dies with the supervisor, however that
dies, and Ctrl-C in the terminal reaches the supervisor alone, so that it decides the order."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.errors import UnavailableError
from services.local_servers.process import Server

FIRST_BACK_OFF_S = 0.5
LONGEST_BACK_OFF_S = 10.0
STEADY_S = 20.0  # alive this long, a child has recovered: the next crash counts from the start again
MOST_CRASHES = 6  # in a row: then it is not bad luck
READY_EVERY_S = 0.1
LOG_LINE = re.compile(r"\{|\d{4}-\d\d-\d\d[ T]\d\d:\d\d")  # JSON, or text with its time: for the file

Probe = Callable[[], bool]
Tell = Callable[[str], None]


def always() -> bool:
    """Of a process without an address: ready as soon as it runs."""
    return True


@dataclass(frozen=True, slots=True)
class Spec:
    """How a child is run. `ready` is asked until it says yes; `nice` lowers its priority."""

    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    ready: Probe = always
    nice: int = 0


@dataclass(slots=True)
class Child:
    """One process and its history. `crashes`: in a row; `restarts`: ever."""

    spec: Spec
    server: Server
    started_s: float
    crashes: int = 0
    restarts: int = 0
    due_s: float | None = None  # when it is started again; None while it runs


class GaveUpError(UnavailableError):
    """A child crashed again and again."""


@dataclass(slots=True)
class Children:
    """All children, in order of start. `tend` is called now and then; `tell` hears of crashes and
    restarts."""

    tell: Tell
    clock: Callable[[], float] = time.monotonic
    start: Callable[[Spec], Server] = lambda spec: Server(_command(spec), spec.log, spec.env)
    running: dict[str, Child] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def add(self, spec: Spec) -> None:
        """Start a child; `await_ready` waits for it."""
        with self.lock:
            self.running[spec.name] = Child(spec, self.start(spec), self.clock())

    def await_ready(self, name: str, timeout_s: float, stop: threading.Event) -> None:
        """Wait until the child is ready. Raises UnavailableError with the end of its log if it never is."""
        spec, end = self.running[name].spec, self.clock() + timeout_s
        while not spec.ready():
            if self.clock() > end:
                raise UnavailableError(name, f"not ready within {timeout_s:g} s. {tail(spec.log)}")
            if stop.wait(READY_EVERY_S):
                return

    def tend(self) -> None:
        """Restart what crashed, when its back-off is over. Raises GaveUpError after `MOST_CRASHES` in a
        row."""
        with self.lock:
            for child in self.running.values():
                if child.due_s is None and not child.server.alive():
                    self._crashed(child)
                elif child.due_s is not None and self.clock() >= child.due_s:
                    self._restart(child)

    def restarts(self) -> dict[str, int]:
        """Children that had to be restarted, and how often."""
        return {name: child.restarts for name, child in self.running.items() if child.restarts}

    def stop(self, name: str) -> None:
        """Stop one child for good."""
        with self.lock:
            child = self.running.pop(name, None)
        if child is not None:
            child.server.stop()

    def stop_all(self) -> None:
        """Stop all, each ending its own work (SIGTERM first), at the same time."""
        with self.lock:
            servers = [child.server for child in self.running.values()]
            self.running.clear()
        stopping = [threading.Thread(target=server.stop) for server in servers]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def _crashed(self, child: Child) -> None:
        name, code = child.spec.name, child.server.exit_code()
        child.server.stop()  # it has ended; this closes its pipes
        steady = self.clock() - child.started_s >= STEADY_S
        child.crashes = 1 if steady else child.crashes + 1
        if child.crashes > MOST_CRASHES:
            raise GaveUpError(name, f"it crashed {child.crashes} times in a row. {tail(child.spec.log)}")
        wait_s = min(FIRST_BACK_OFF_S * 2 ** (child.crashes - 1), LONGEST_BACK_OFF_S)
        child.due_s = self.clock() + wait_s
        self.tell(f"{name} ended with code {code}; it starts again in {wait_s:g} s")

    def _restart(self, child: Child) -> None:
        child.server = self.start(child.spec)
        child.started_s, child.due_s = self.clock(), None
        child.restarts += 1
        self.tell(f"{child.spec.name} was started again")


def run_step(
    spec: Spec, stop: threading.Event, on_line: Tell = lambda line: None, every_s: float = 0.2
) -> None:
    """Run a command to its end, telling its newest line of output. Raises UnavailableError if it fails."""
    server, last = Server(_command(spec), spec.log, spec.env), ""
    try:
        while server.alive() and not stop.wait(every_s):
            line = last_line(spec.log)
            if line != last:
                on_line(line)
                last = line
        if not stop.is_set() and server.exit_code() != 0:
            raise UnavailableError(spec.name, f"it ended with code {server.exit_code()}. {tail(spec.log)}")
    finally:
        server.stop()


def last_line(log: Path, most: int = 120) -> str:
    """Newest line that says something to a viewer: progress that rewrites its line counts, a logger's not."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        skipped = file.seek(max(0, log.stat().st_size - 2_000))
        lines = file.read().decode(errors="replace").replace("\r", "\n").split("\n")[bool(skipped) :]
    told = (line.strip() for line in reversed(lines))
    return next((line[:most] for line in told if line and not LOG_LINE.match(line)), "")


def tail(log: Path, lines: int = 12) -> str:
    """The end of a log, for an error message."""
    if not log.exists():
        return f"(it wrote nothing to {log})"
    return f"The end of {log}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _command(spec: Spec) -> list[str]:
    return [*(["nice", "-n", str(spec.nice)] if spec.nice else []), *spec.command]
