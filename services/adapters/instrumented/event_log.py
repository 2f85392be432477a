"""Metrics of the event log: records read, lag, records sent, dead letters."""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from services.adapters.instrumented.wrapper import MeteredPort
from services.messages.events import DEAD_LETTERS
from services.ports.event_log import EventConsumer, EventProducer, Record
from services.runtime.dead_letters import CODES, DEAD_LETTERED_BY

Pair = tuple[str, int]


class MeteredConsumer(MeteredPort[EventConsumer]):
    """An EventConsumer that counts what it reads; the lag is that of the last poll."""

    def __init__(self, inner: EventConsumer, registry: CollectorRegistry):
        super().__init__(inner, registry)
        self._read = self._counter("ringside_records_read", "Records read from a topic.", ["topic"])
        self._lag = self._gauge("ringside_consumer_lag_records", "Records not read yet.", ["topic"])
        self._owned = self._gauge("ringside_partitions", "Partitions being read.", ["topic"])
        self._topics: set[str] = set()

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """See EventConsumer."""
        self._inner.assign(positions)
        owned = Counts(topic for topic, _ in positions)
        self._topics |= set(owned)
        for topic in self._topics:
            self._owned.labels(topic).set(owned[topic])
            self._read.labels(topic)
            if not owned[topic]:
                self._lag.labels(topic).set(0)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """See EventConsumer."""
        records = self._inner.poll(timeout_s, max_records)
        for topic, count in Counts(record.topic for record in records).items():
            self._read.labels(topic).inc(count)
        by_topic: Counts[str] = Counts()
        for (topic, _), lag in self._inner.lag().items():
            by_topic[topic] += lag
        for topic, lag in by_topic.items():
            self._lag.labels(topic).set(lag)
        return records


class MeteredProducer(MeteredPort[EventProducer]):
    """An EventProducer that counts records by result, and dead letters by their original topic."""

    def __init__(self, inner: EventProducer, registry: CollectorRegistry):
        super().__init__(inner, registry)
        self._sent = self._counter(
            "ringside_records_sent", "Records by result: acknowledged or failed.", ["topic", "result"]
        )
        self._dead_letters = self._counter(
            "ringside_dead_letters",
            "Records that could not be decoded, by original topic.",
            ["topic", "reason"],
        )
        for original_topic in DEAD_LETTERED_BY:  # start at 0, so that the first dead letter is an increase
            for code in CODES:
                self._dead_letters.labels(original_topic, code)

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """See EventProducer."""
        self._sent.labels(topic, "failed")
        future = self._inner.send(topic, key, value, headers)
        future.add_done_callback(lambda done: self._settled(topic, done))
        named = dict(headers) if topic == DEAD_LETTERS else {}
        if "origin" in named:  # without it the record marks a dead letter as replayed
            original_topic = named["origin"].decode().partition("/")[0]
            self._dead_letters.labels(original_topic, named["code"].decode()).inc()
        return future

    def _settled(self, topic: str, done: "Future[Record]") -> None:
        failed = done.cancelled() or done.exception() is not None
        self._sent.labels(topic, "failed" if failed else "acknowledged").inc()
