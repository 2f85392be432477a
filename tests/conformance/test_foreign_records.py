"""Records that other producers wrote in ways of their own: read, whatever they hold, and never a reader that
hangs."""

import threading
from collections.abc import Callable
from typing import Any

import confluent_kafka
import pytest
from kafka import KafkaProducer
from kafka.errors import CorruptRecordError

from services.adapters.kafka.consumer import KafkaEventConsumer
from services.adapters.kafka.header_names import LenientHeaderBatch
from services.messages.events import EVENTS
from services.ports.event_log import Record
from services.settings import Settings
from tests.conformance.test_event_log import consumed

BROKERS = ["embedded_broker", pytest.param("kafka_broker", marks=pytest.mark.kafka)]


@pytest.fixture(params=BROKERS)
def settings(request: pytest.FixtureRequest, settings_for: Callable) -> Settings:
    return settings_for(broker=request.getfixturevalue(request.param))


class Raw(str):
    """A name that is sent as these bytes."""

    def encode(self, *_: Any, **__: Any) -> bytes:
        return b"\xff\xfe\xc3("


def read(settings: Settings, count: int, partition: int = 0) -> list[Record]:
    """In a thread of its own, so that a reader that hangs fails the test rather than the run."""
    read: list[Record] = []

    def reading() -> None:
        consumer = KafkaEventConsumer(settings)
        consumer.assign({(EVENTS, partition): 0})
        read.extend(consumed(consumer, count))
        consumer.close()

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "poll does not return"
    return read


def test_a_header_may_have_any_bytes_as_its_name(kafka_broker: Any, settings_for: Callable) -> None:
    """Also where key, value and another name are the same bytes, in the middle of a batch."""
    settings = settings_for(broker=kafka_broker)
    odd = Raw().encode()
    producer = KafkaProducer(bootstrap_servers=settings.kafka_bootstrap, linger_ms=200)  # in one batch
    for value, name in ((b"first", "a"), (odd, Raw("b")), (b"last", "c")):
        headers = [("plain", odd), (name, b"1"), ("é", b"")]
        producer.send(EVENTS, value, key=odd, headers=headers, partition=0)
    producer.flush()
    producer.close()
    records = read(settings, 3)
    assert [record.value for record in records] == [b"first", odd, b"last"]
    assert [record.headers[1] for record in records] == [("a", b"1"), ("???(", b"1"), ("c", b"1")]
    assert {record.headers[0] for record in records} == {("plain", odd)}
    assert {(record.key, record.headers[2]) for record in records} == {(odd, ("é", b""))}


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_records_may_be_compressed_in_any_way(settings: Settings, codec: str) -> None:
    producer = confluent_kafka.Producer(
        {"bootstrap.servers": settings.kafka_bootstrap, "compression.type": codec, "linger.ms": 100}
    )
    values = [b"%d " % number * 400 for number in range(20)]
    for value in values:
        producer.produce(EVENTS, value, partition=0)
    producer.flush(30)
    assert [record.value for record in read(settings, 20)] == values


def test_what_cannot_be_read_keeps_no_other_partition_waiting(
    embedded_broker: Any, settings_for: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(broker=embedded_broker)
    producer = confluent_kafka.Producer({"bootstrap.servers": settings.kafka_bootstrap})
    for partition, value in ((0, b"torn"), (0, b"after"), (1, b"good")):
        producer.produce(EVENTS, value, partition=partition)
    producer.flush(30)
    whole = LenientHeaderBatch._read_msg

    def torn(batch: LenientHeaderBatch, **options: Any) -> Any:
        record = whole(batch, **options)
        if record.value == b"torn":
            raise CorruptRecordError("torn")
        return record

    monkeypatch.setattr(LenientHeaderBatch, "_read_msg", torn)
    read: list[Record] = []

    def reading() -> None:
        consumer = KafkaEventConsumer(settings)
        consumer.assign({(EVENTS, 0): 0, (EVENTS, 1): 0})
        for _ in range(20):
            read.extend(consumer.poll(0.2))
        assert consumer.positions() == {(EVENTS, 0): 0, (EVENTS, 1): 1}
        consumer.close()
        read.append(None)  # type: ignore[arg-type]

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    thread.join(30)
    assert [record and record.value for record in read] == [b"good", None]
