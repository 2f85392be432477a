"""Several processes on one port: each a replica of its own, restarted when it dies."""

import logging
import multiprocessing
import os
import shutil
import socket
import threading
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from services.recommend.metrics import MULTIPROCESS_DIR
from services.settings import Settings

log = logging.getLogger(__name__)

CHECK_EVERY_S = 0.5
RESTART_AFTER_S = 1.0


def listener(host: str, port: int) -> socket.socket:
    """A listening socket that other processes may open too; the kernel spreads connections over them."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind((host, port))
    found.set_inheritable(False)
    return found


def supervise(settings: Settings, serve: Callable[[Settings], None], stop: threading.Event) -> None:
    """Keep `settings.recommend_workers` processes of `serve` running until `stop` is set."""
    _share_metrics(settings.home / "recommend" / "metrics")
    workers = [_started(settings, serve, index) for index in range(settings.recommend_workers)]
    while not stop.wait(CHECK_EVERY_S):
        for index, worker in enumerate(workers):
            if not worker.is_alive():
                log.error("worker %d ended with %s; another one starts", index, worker.exitcode)
                stop.wait(RESTART_AFTER_S)
                workers[index] = _started(settings, serve, index)
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(15)
        if worker.is_alive():
            worker.kill()


def _started(settings: Settings, serve: Callable[[Settings], None], index: int) -> BaseProcess:
    """Spawned, not forked: threads and sockets of this process stay out of it."""
    name = f"{settings.replica or socket.gethostname()}-{index}"
    worker = multiprocessing.get_context("spawn").Process(
        target=serve, args=(settings.model_copy(update={"replica": name}),), name=name
    )
    worker.start()
    return worker


def _share_metrics(folder: Path) -> None:
    """prometheus_client keeps counters in files of this folder, and each worker answers for all."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[MULTIPROCESS_DIR] = str(folder)
