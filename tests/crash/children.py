"""Processes of the product, forked from one that has imported them: a restart costs milliseconds, not
seconds."""

import ctypes
import importlib
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil

from services.settings import Settings
from tests.crash.instants import DISARMED, INSTANTS, install

RUN = {
    "bandit": "services.bandit.attribution.app",
    "decider": "services.bandit.decider.app",
    "activity": "services.activity.app",
    "lake": "services.lake.app",
    "trainer": "services.training.app",
    "recommend": "services.recommend.app",
}
PRELOADED = [
    *RUN.values(),
    "tests.crash.children",
    "services.adapters.instrumented.meters",
    "services.adapters.kafka",
    "services.adapters.redis.sum_store",
    "services.adapters.redis.state_cache",
    "services.adapters.feast.online_reader",
    "services.adapters.feast.activity_store",
    "services.adapters.files.lake_files",
    "services.adapters.files.lake_history",
    "services.adapters.redis.item_overlay",
    "services.adapters.files.data_store",
    "services.adapters.files.model_store",
    "services.adapters.mlflow_registry",
    "services.features.app",
    "services.data_import.app",
    "mlflow",
    "duckdb",
    "pandera",
]
TICK_S = 0.25  # of the decider: weights must change often within the life of a unit
_PR_SET_PDEATHSIG = 1

forks = multiprocessing.get_context("forkserver")


def preload() -> None:
    """To be called once, before the first child."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    forks.set_forkserver_preload(PRELOADED)


@dataclass(eq=False)
class Child:
    """One place in the cast: a process of `kind`, and the next one after its death. `settings` are its own;
    `listening`: the socket that it shares (recommend)."""

    name: str
    kind: str
    settings: Settings
    session_s: float
    log: Path
    listening: socket.socket | None = None
    process: BaseProcess | None = None
    started_s: float = 0.0
    lives: int = 0
    armed: Any = field(default_factory=lambda: forks.RawValue("i", DISARMED))
    pipe: Connection | None = None
    heard: bool = False

    def start(self) -> None:
        """A new process under the same name; the replica name is its own."""
        self.lives += 1
        self.armed.value = DISARMED
        settings = self.settings.model_copy(update={"replica": f"{self.name}.{self.lives}"})
        self.heard, theirs = False, None
        if self.kind == "recommend":
            self.pipe, theirs = forks.Pipe()
        arguments = (self.kind, settings, self.armed, self.session_s, self.log, self.listening, theirs)
        self.process = forks.Process(target=live, args=arguments, name=self.name, daemon=True)
        self.process.start()
        self.started_s = time.monotonic()
        if theirs is not None:
            theirs.close()

    @property
    def alive(self) -> bool:
        """Whether its process runs (or hangs)."""
        return self.process is not None and self.process.is_alive()

    @property
    def exit_code(self) -> int | None:
        """Of the process that ran last."""
        return self.process.exitcode if self.process is not None else None

    @property
    def ready(self) -> bool:
        """Whether it accepts requests (recommend), or runs at all."""
        if self.pipe is None:
            return self.alive
        self.heard = self.heard or self.pipe.poll()
        return self.alive and self.heard

    @property
    def stopped(self) -> bool:
        """Whether it hangs (SIGSTOP)."""
        assert self.process is not None
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def signal(self, number: int) -> None:
        """Send a signal to the process."""
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def stop(self, patience_s: float = 60.0) -> int | None:
        """End it in order; its exit code."""
        if self.process is None:
            return 0
        if self.process.is_alive():
            self.signal(signal.SIGTERM)
            self.process.join(patience_s)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


def live(
    kind: str,
    settings: Settings,
    armed: Any,
    session_s: float,
    log: Path,
    listening: socket.socket | None,
    parent: Connection | None,
) -> None:
    """What `ringside <kind>` does, in this forked process."""
    settle_in(log)
    from services.adapters.kafka import consumer
    from services.bandit.decider import app as decider

    consumer.SESSION_MS = round(session_s * 1_000)
    decider.TICK_S = TICK_S
    install(INSTANTS[kind], armed)
    module = importlib.import_module(RUN[kind])
    if listening is None:
        module.run(settings)
    else:
        module.serve(settings, listening, parent)


def settle_in(log: Path) -> None:
    """Write into `log`, and never outlive the one we were forked from."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def call(function: Any, log: Path, *arguments: Any) -> None:
    """Run `function` in a child to its end; raises RuntimeError if it fails."""
    process = forks.Process(target=_called, args=(function, log, *arguments))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{function.__name__} ended with {process.exitcode}; see {log}")


def _called(function: Any, log: Path, *arguments: Any) -> None:
    settle_in(log)
    function(*arguments)
