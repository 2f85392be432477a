"""Base classes of the wrappers that measure or trace a port."""

from functools import partial
from typing import Any, Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

Port = TypeVar("Port")
WRITE_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class PortWrapper(Generic[Port]):
    """Passes everything to `inner`, except the methods that a subclass defines."""

    def __init__(self, inner: Port):
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class MeteredPort(PortWrapper[Port]):
    """Makes its metrics in `registry`: `_counter`, `_gauge`, and `_histogram` for the seconds of a write."""

    def __init__(self, inner: Port, registry: CollectorRegistry):
        super().__init__(inner)
        self._counter = partial(Counter, registry=registry)
        self._gauge = partial(Gauge, registry=registry)
        self._histogram = partial(Histogram, buckets=WRITE_S, registry=registry)
