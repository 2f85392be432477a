"""Several worker processes behind one listening socket. Each is a replica; one that dies is replaced, and a
reload replaces all, one by one.

The supervisor opens the socket and every worker inherits it, so that connections which no worker has accepted
yet survive any worker's death. If each had its own socket (SO_REUSEPORT), the kernel would reset those that
wait at the dead one: infra/adr/0007.
"""

import logging
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import mark_process_dead

from services.runtime.metrics_endpoint import serve_registry
from services.settings import Settings
from services.web import worker_metrics
from services.web.reload import StatusFile

log = logging.getLogger(__name__)
spawning = multiprocessing.get_context("spawn")

CHECK_EVERY_S = 0.1
RESTART_AFTER_S = 1.0
START_WITHIN_S = 120.0  # a worker that isn't ready by then is given up
LEAVE_S = 20.0  # beyond `drain_s`: answers under way and the producer's flush

Serve = Callable[[Settings, socket.socket, Connection | None], None]


def listener(host: str, port: int) -> socket.socket:
    """A bound socket, not yet listening: until the first worker is ready, callers are refused."""
    if _answers(host, port):
        log.warning(
            "%s:%d is already in use; the kernel will balance connections between both processes", host, port
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # a new version starts while the old one runs
    bound.bind((host, port))
    bound.set_inheritable(False)
    return bound


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), 0.2):
            return True
    except OSError:
        return False


@dataclass(eq=False)
class Worker:
    """A process and the supervisor's end of its pipe. `old`: a reload will replace it. `leaving`: it was
    asked to end."""

    process: BaseProcess
    pipe: Connection
    kill_at_s: float = field(default_factory=lambda: time.monotonic() + START_WITHIN_S)
    ready: bool = False
    old: bool = False
    leaving: bool = False

    def poll(self) -> None:
        """Check whether it accepts requests; kill it if it does not get ready or does not end in time."""
        try:
            self.ready = self.ready or self.pipe.poll()
        except (OSError, EOFError):
            return
        if (self.leaving or not self.ready) and time.monotonic() > self.kill_at_s:
            log.error("%s did not %s in time", self.process.name, "end" if self.leaving else "get ready")
            self.process.kill()

    def leave(self, within_s: float) -> None:
        """Ask it to drain and end."""
        self.leaving, self.kill_at_s = True, time.monotonic() + within_s
        self.process.terminate()


class Supervisor:
    """Keeps `settings.recommend_workers` processes of `serve` behind one socket. `poll` makes one pass."""

    def __init__(self, settings: Settings, serve: Serve):
        self._settings = settings
        self._serve = serve
        self._leave_s = settings.drain_s + LEAVE_S
        # by host and port, because another supervisor may run in the same home
        place = f"metrics-{socket.gethostname()}-{settings.recommend_port}"
        self._metrics = settings.home / "recommend" / place
        _share_metrics(self._metrics)
        self._socket = listener(settings.host, settings.recommend_port)
        self._status = StatusFile(settings)
        self._workers: list[Worker] = []
        self._started = 0
        self._start_at_s = 0.0
        self._rolling = False

    @property
    def exposed(self) -> CollectorRegistry:
        """Metrics of all workers, including those that ended."""
        return worker_metrics.merged(self._metrics)

    def roll(self) -> None:
        """Begin to replace every worker; each new one is ready before an old one leaves."""
        log.warning("reloading %d workers one by one", len(self._staying()))
        self._rolling = True
        for worker in self._workers:
            worker.old = True

    def poll(self) -> None:
        """Notice workers that got ready or died, start missing ones, and end one that a new one replaces."""
        for worker in self._workers:
            worker.poll()
        for worker in [worker for worker in self._workers if not worker.process.is_alive()]:
            self._remove(worker)
        staying = self._staying()
        if self._rolling and not any(worker.old for worker in self._workers):
            self._rolled("done")
        swapping = self._rolling and not any(worker.leaving for worker in self._workers)
        wanted = self._settings.recommend_workers + swapping
        if len(staying) < wanted and time.monotonic() >= self._start_at_s:
            self._workers.append(self._start())
        elif swapping and len(staying) == wanted and all(worker.ready for worker in staying):
            next(worker for worker in staying if worker.old).leave(self._leave_s)

    def end(self) -> None:
        """Drain all at once; kill those that do not end."""
        self._socket.close()
        for worker in self._workers:
            worker.leave(self._leave_s)
        for worker in self._workers:
            worker.process.join(self._leave_s)
            worker.process.kill()
        self._status.remove()
        shutil.rmtree(self._metrics, ignore_errors=True)

    def _staying(self) -> list[Worker]:
        return [worker for worker in self._workers if not worker.leaving]

    def _remove(self, worker: Worker) -> None:
        self._workers.remove(worker)
        mark_process_dead(worker.process.pid, str(self._metrics))  # type: ignore[no-untyped-call]
        worker.pipe.close()
        if worker.leaving:
            return
        log.error(
            "%s ended with exit code %s; another one starts", worker.process.name, worker.process.exitcode
        )
        self._start_at_s = time.monotonic() + RESTART_AFTER_S
        if self._rolling and not worker.ready:
            for old in self._workers:
                old.old = False
            self._rolled("failed")

    def _rolled(self, result: str) -> None:
        log.warning("reload %s", result)
        self._rolling = False
        self._status.finish(result)

    def _start(self) -> Worker:
        """Spawn, not fork, so that the worker has none of our threads and imports the newest code."""
        base = self._settings.replica or socket.gethostname()
        name = f"{base}-{self._started}"  # never used again, because a heartbeat belongs to one process
        self._started += 1
        own_end, worker_end = multiprocessing.Pipe()
        settings = self._settings.model_copy(update={"replica": name})
        arguments = (settings, self._socket, worker_end)
        process = spawning.Process(target=self._serve, args=arguments, name=name)
        process.start()
        worker_end.close()
        return Worker(process, own_end)


def supervise(settings: Settings, serve: Serve, stop: threading.Event) -> None:
    """Keep the workers running until `stop` is set; SIGHUP replaces them one by one."""
    supervisor = Supervisor(settings, serve)
    reload = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: reload.set())
    log.info("http://%s:%d", settings.host, settings.recommend_port)
    with serve_registry(settings, "recommend", supervisor.exposed):
        while not stop.wait(CHECK_EVERY_S):
            if reload.is_set():
                reload.clear()
                supervisor.roll()
            supervisor.poll()
        supervisor.end()


def _share_metrics(folder: Path) -> None:
    """Make prometheus_client keep the workers' counters in files of this folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[worker_metrics.MULTIPROCESS_DIR] = str(folder)
