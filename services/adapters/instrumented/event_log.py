"""The event log, measured: what is read, how far behind, what is sent, what is buried.

Wrappers around the ports, so that workers count records without knowing that somebody watches.
"""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.adapters.instrumented.wrapper import PortWrapper
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventConsumer, EventProducer, Record
from services.runtime.dead_letters import CODES, DEAD_LETTERED_BY

Pair = tuple[str, int]


class MeteredConsumer(PortWrapper):
    """An EventConsumer that counts what it reads; the lag is that of the last poll."""

    def __init__(self, inner: EventConsumer, registry: CollectorRegistry):
        super().__init__(inner)
        self._read = Counter(
            "ringside_records_read", "Records read from a topic.", ["topic"], registry=registry
        )
        self._lag = Gauge(
            "ringside_consumer_lag_records", "Records not read yet.", ["topic"], registry=registry
        )
        self._owned = Gauge("ringside_partitions", "Partitions being read.", ["topic"], registry=registry)
        self._topics: set[str] = set()

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """As EventConsumer."""
        self._inner.assign(positions)
        owned = Counts(topic for topic, _ in positions)
        self._topics |= set(owned)
        for topic in self._topics:
            self._owned.labels(topic).set(owned[topic])
            self._read.labels(topic)
            if not owned[topic]:
                self._lag.labels(topic).set(0)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """As EventConsumer."""
        records = self._inner.poll(timeout_s, max_records)
        for topic, count in Counts(record.topic for record in records).items():
            self._read.labels(topic).inc(count)
        behind: Counts[str] = Counts()
        for (topic, _), lag in self._inner.lag().items():
            behind[topic] += lag
        for topic, lag in behind.items():
            self._lag.labels(topic).set(lag)
        return records


class MeteredProducer(PortWrapper):
    """An EventProducer that counts what became of each record, and dead letters by where they came from."""

    def __init__(self, inner: EventProducer, registry: CollectorRegistry):
        super().__init__(inner)
        self._sent = Counter(
            "ringside_records_sent",
            "Records by what the broker said: acknowledged or failed.",
            ["topic", "result"],
            registry=registry,
        )
        self._buried = Counter(
            "ringside_dead_letters",
            "Records that could not be read, by topic of origin.",
            ["topic", "reason"],
            registry=registry,
        )
        for origin in DEAD_LETTERED_BY:  # from 0 on: the first dead letter must be seen as an increase
            for code in CODES:
                self._buried.labels(origin, code)

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """As EventProducer."""
        self._sent.labels(topic, "failed")
        future = self._inner.send(topic, key, value, headers)
        future.add_done_callback(lambda done: self._settled(topic, done))
        told = dict(headers) if topic == DEAD_LETTERS else {}
        if "origin" in told:  # else it says that a letter was put back
            self._buried.labels(told["origin"].decode().partition("/")[0], told["code"].decode()).inc()
        return future

    def _settled(self, topic: str, done: "Future[Record]") -> None:
        failed = done.cancelled() or done.exception() is not None
        self._sent.labels(topic, "failed" if failed else "acknowledged").inc()
