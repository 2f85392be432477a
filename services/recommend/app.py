"""`ringside recommend`: serve recommendations over HTTP, with one process or several workers."""

import contextlib
import gc
import logging
import os
import signal
import socket
from collections import deque
from multiprocessing.connection import Connection

import scipy.linalg.lapack  # noqa: F401 (the BLAS of models; only a loaded library can be limited)
import uvicorn
from fastapi import FastAPI
from threadpoolctl import threadpool_limits

from services import bootstrap
from services.errors import UnavailableError
from services.recommend.deps import Deps
from services.recommend.http_app import create_app, fast_path
from services.runtime.clock import wall_ms
from services.runtime.metrics_endpoint import serve_registry
from services.runtime.process import raise_open_files_limit, replica_name, stop_on_signal
from services.settings import Settings
from services.web.api_keys import Keys, signing_keys
from services.web.connection_limits import http_protocol
from services.web.graceful_server import DrainingServer
from services.web.response_coalescing import CoalescingProtocol
from services.web.worker_supervisor import listener, supervise

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 5  # an idle connection is closed after this


def run(settings: Settings) -> None:
    """Serve until a signal. Raises ConfigurationError at once if keys are missing or invalid, or if the
    topics have another number of partitions."""
    Keys.of(settings)
    signing_keys(settings)
    # A slate and its clicks have to be in the partitions that the workers read. Without a broker the champion
    # is served anyway; the producer checks once a broker answers, and rejects records then.
    with contextlib.suppress(UnavailableError):
        bootstrap.check_partitions(settings)
    if settings.recommend_workers == 1:
        serve(settings, listener(settings.host, settings.recommend_port))
    else:
        bootstrap.configure_logging(settings, "recommend")
        supervise(settings, serve, stop_on_signal())


def serve(settings: Settings, listening: socket.socket, parent: Connection | None = None) -> None:
    """Compose one replica and answer on `listening` until a signal, or until its supervisor (`parent`) is
    gone."""
    if parent is not None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # meant for the supervisor
    bootstrap.configure_logging(settings, "recommend")
    raise_open_files_limit()
    app = create_app(compose(settings))
    leaving, scraped = app.state.parts.leaving, _scraped(settings, app, parent)
    server = DrainingServer(serving_config(settings, app), settings.drain_s, leaving, parent, scraped)
    log.info("http://%s:%d", settings.host, listening.getsockname()[1])
    # Collect garbage rarely, because answers leave almost no cycles, and it costs 80 of 300 µs an answer.
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # One row times one matrix is too little work for BLAS threads, which would slow the other processes.
    with threadpool_limits(1, "blas"), contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


def _scraped(
    settings: Settings, app: FastAPI, parent: Connection | None
) -> contextlib.AbstractContextManager[None]:
    """The metrics port of this process, unless a supervisor has one for all workers."""
    if parent is not None:
        return contextlib.nullcontext()
    return serve_registry(settings, "recommend", app.state.parts.metrics.exposed)


def serving_config(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """uvicorn's configuration of the API."""
    metrics = app.state.parts.metrics
    return uvicorn.Config(
        fast_path(app),
        loop="uvloop",
        http=http_protocol(settings, CoalescingProtocol, refused=lambda: metrics.shed("connections")),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=10,
    )


def compose(settings: Settings) -> Deps:
    """The ports of one replica, with the wall clock and random ids."""
    tracing, producer = bootstrap.tracing(settings, "recommend"), bootstrap.producer(settings)
    return Deps(
        settings=settings,
        reader=bootstrap.online_reader(settings),
        producer=tracing.producer(producer) if tracing else producer,
        traced=tracing.endpoint if tracing else None,
        state=bootstrap.state_cache(settings),
        decisions=bootstrap.decision_log(settings),
        recounting=bootstrap.recounting(settings),
        overlay=bootstrap.item_overlay(settings),
        consumer=bootstrap.consumer(settings),
        admin=bootstrap.log_admin(settings),
        data=bootstrap.data_store(settings),
        models=bootstrap.model_store(settings),
        clock_ms=wall_ms,
        new_id=Ids(),
        replica=replica_name(settings),
    )


class Ids:
    """Random 128-bit ids in hex, for any thread. One system call (5 µs) makes 256 of them."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()

    def __call__(self) -> str:
        """The next one."""
        try:
            return self._ready.popleft()
        except IndexError:
            block = os.urandom(4_096)
            self._ready.extend(block[at : at + 16].hex() for at in range(16, len(block), 16))
            return block[:16].hex()
