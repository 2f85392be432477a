"""A server process that Ringside starts for itself and that ends with its owner."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from services.errors import ConfigurationError, UnavailableError
from services.local_servers.directory_lock import DirectoryLock

STOP_S = 10.0


class Stoppable(ABC):
    """A server that stops at the end of a `with` block."""

    @abstractmethod
    def stop(self) -> None:
        """Stop; idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Stoppable):
    """A running server.

    pid: its process, not the guard's. log: file of its output; None: the output of this process. env: its
    whole environment; None: that of this process. lock: of its folder, held for as long as it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path | None = None,
        env: Mapping[str, str] | None = None,
        lock: DirectoryLock | None = None,
    ):
        parent_guard = [sys.executable, "-m", "services.local_servers.parent_guard"]
        options = [] if log is None else ["--log", str(log)]
        self.log = log
        self._guard = subprocess.Popen(
            [*parent_guard, *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=None if env is None else dict(env),
            pass_fds=() if lock is None else (lock.file,),
        )
        self.pid = int(self.read_line() or 0)

    def read_line(self) -> str:
        """Next line of the server's stdout, "" at its end. With `log` there are none."""
        assert self._guard.stdout is not None
        return self._guard.stdout.readline().decode().strip()

    def alive(self) -> bool:
        """Whether the server runs."""
        return self._guard.poll() is None

    def exit_code(self) -> int | None:
        """Exit code; None while it runs. A signal gives 256 minus its number."""
        return self._guard.poll()

    def wait_until(self, ready: Callable[[], bool], timeout_s: float, what: str) -> None:
        """Poll `ready` every 20 ms. Raises UnavailableError with the end of the log if it never is."""
        end = time.monotonic() + timeout_s
        while not ready():
            if not self.alive() or time.monotonic() > end:
                self.kill()
                raise UnavailableError(what, f"it did not start. {self._log_tail()}")
            time.sleep(0.02)

    def freeze(self) -> None:
        """Send SIGSTOP and wait until it took effect: the server hangs and its connections stay open."""
        os.kill(self.pid, signal.SIGSTOP)
        while not _is_stopped(self.pid):  # a thread on another core runs on for a moment
            time.sleep(0.001)

    def thaw(self) -> None:
        """Send SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL, as a crash would end it; idempotent."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def stop(self) -> None:
        """Terminate it cleanly; idempotent."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
        self._reap()

    def _reap(self) -> None:
        try:
            self._guard.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()

    def _log_tail(self) -> str:
        if self.log is None or not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return f"The end of {self.log}:\n" + "\n".join(lines)


def _is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped, or the process is gone."""
    try:
        states = [
            file.read_text().rpartition(")")[2].split()[0]
            for file in Path(f"/proc/{pid}/task").glob("*/stat")
        ]
    except OSError:  # a thread ended meanwhile
        return False
    return all(state in "TtZX" for state in states)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def require_free(port: int | None, host: str = "127.0.0.1") -> None:
    """Raise ConfigurationError if another process has `port`; None passes, because a free one is chosen."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
        try:
            probe.bind((host, port or 0))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} on {host}: {error.strerror}; choose another with --port"
            ) from error


def answers(host: str, port: int, timeout_s: float = 0.2) -> bool:
    """Whether a server accepts connections at this address."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def hold(server: Server, stop: threading.Event) -> None:
    """Wait until `stop` is set. Raises UnavailableError if the server ends by itself."""
    while not stop.wait(0.2):
        if not server.alive():
            raise UnavailableError("the server", f"it ended by itself with code {server.exit_code()}")
