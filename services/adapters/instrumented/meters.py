"""Metrics of one process: its own registry, filled by wrappers around its ports and by its loop."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from starlette.types import ASGIApp

from services.adapters.instrumented.decision_log import MeteredDecisionLog
from services.adapters.instrumented.event_log import MeteredConsumer, MeteredProducer
from services.adapters.instrumented.http import MeteredApp, MeteredTransport
from services.adapters.instrumented.stores import MeteredActivityStore, MeteredLakeFiles, MeteredSumStore
from services.errors import RingsideError
from services.ports.event_log import EventConsumer, EventProducer
from services.ports.features import ActivityStore
from services.ports.lake import LakeFiles
from services.ports.state import DecisionLog, SumStore
from services.runtime.liveness import liveness_file
from services.runtime.metrics_endpoint import liveness_age, serve_metrics
from services.settings import Settings

if TYPE_CHECKING:
    from services.adapters.instrumented.tracing import Tracing


class Meters:
    """The registry of a process, and the wrappers that measure its ports. Each method may be called once."""

    def __init__(self, settings: Settings, process: str, replica: str, tracing: "Tracing | None" = None):
        self._tracing = tracing
        self.registry = CollectorRegistry()
        self._steps = Counter(
            "ringside_steps",
            "Turns of the loop by result: ok, or the kind of error.",
            ["result"],
            registry=self.registry,
        )
        self._steps.labels("ok")
        ProcessCollector(registry=self.registry)
        labels = {"process": process, "replica": replica, "version": version("ringside")}
        info = Gauge(
            "ringside_process_info", "1; the labels name the process.", list(labels), registry=self.registry
        )
        info.labels(**labels).set(1)
        free = Gauge("ringside_disk_free_bytes", "Free space where RINGSIDE_HOME is.", registry=self.registry)
        free.set_function(lambda: shutil.disk_usage(_existing(settings)).free)

    def consumer(self, inner: EventConsumer) -> EventConsumer:
        """Measure a consumer, and trace it if tracing is on."""
        return MeteredConsumer(self._tracing.consumer(inner) if self._tracing else inner, self.registry)

    def producer(self, inner: EventProducer) -> EventProducer:
        """Measure a producer, and trace it if tracing is on."""
        return MeteredProducer(self._tracing.producer(inner) if self._tracing else inner, self.registry)

    def decisions(self, inner: DecisionLog) -> DecisionLog:
        """Measure a decision log."""
        return MeteredDecisionLog(inner, self.registry)

    def sums(self, inner: SumStore) -> SumStore:
        """Measure a sum store."""
        return MeteredSumStore(inner, self.registry)

    def activity(self, inner: ActivityStore) -> ActivityStore:
        """Measure an activity store."""
        return MeteredActivityStore(inner, self.registry)

    def lake(self, inner: LakeFiles) -> LakeFiles:
        """Measure lake files."""
        return MeteredLakeFiles(inner, self.registry)

    def app(self, inner: ASGIApp) -> ASGIApp:
        """Measure the requests to an application."""
        return MeteredApp(inner, self.registry)

    def transport(self, inner: httpx.AsyncBaseTransport) -> httpx.AsyncBaseTransport:
        """Measure the calls of an HTTP client."""
        return MeteredTransport(inner, self.registry)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Count a turn of the loop as ok, or by the kind of error, which is raised again."""
        try:
            yield
        except Exception as error:
            kind = type(error).__name__ if isinstance(error, RingsideError | OSError) else "unexpected"
            self._steps.labels(kind).inc()
            raise
        self._steps.labels("ok").inc()


@contextmanager
def metered(
    settings: Settings,
    process: str,
    replica: str,
    *,
    loops: bool = True,
    silent_s: float = 30.0,
    tracing: "Tracing | None" = None,
) -> Iterator[Meters]:
    """Serve the metrics of a process while the block runs.

    loops: the process writes a liveness file, and /health/live is 503 if that is older than `silent_s`.
    """
    meters = Meters(settings, process, replica, tracing)
    age_s = liveness_age(liveness_file(settings, process) if loops else None, time.time())
    with ExitStack() as stack:
        if tracing is not None:
            stack.callback(tracing.close)
        stack.enter_context(serve_metrics(settings, process, replica, meters.registry, age_s, silent_s))
        yield meters


def _existing(settings: Settings) -> str:
    home = settings.home.absolute()
    return str(next(folder for folder in (home, *home.parents) if folder.exists()))
