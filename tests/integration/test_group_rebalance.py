"""A rebalance on a real Apache Kafka may take longer than a poll; who keeps partitions must go on reading
them."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from services import bootstrap
from services.messages import events
from services.settings import Settings

TOPICS = (events.EXPOSURES, events.EVENTS)
SHORT_S, REBALANCE_S = 0.02, 4.0  # a poll; longer than heartbeats take to tell of a rebalance


@pytest.mark.slow
@pytest.mark.kafka
def test_a_member_keeps_reading_through_a_long_rebalance(
    kafka_broker: Any, settings_for: Callable[..., Settings]
) -> None:
    settings = settings_for(kafka_broker)
    stays, slow, comes = (bootstrap.group_consumer(settings, "rebalance", TOPICS) for _ in range(3))
    producer = bootstrap.producer(settings)
    try:
        until(lambda: polled(stays) and len(stays.assignment()) == 2 * 4)
        until(lambda: polled(stays, slow) and len(stays.assignment()) == len(slow.assignment()) == 4)
        stays.assign(dict.fromkeys(stays.assignment(), 0))
        kept = {index for topic, index in stays.assignment() if topic == events.EVENTS}
        for _ in range(round(REBALANCE_S / SHORT_S)):  # the broker waits for the slow one, and so do we
            polled(stays, comes)
        comes.close()  # so everybody gets again what they had
        for number in range(40):
            producer.send(events.EVENTS, f"user{number}", b"{}")
        assert producer.flush(10)
        read: list[Any] = []
        wanted = expected(settings, kept)
        until(lambda: read.extend(stays.poll(SHORT_S)) or (polled(slow) and len(read) >= wanted))
        assert {record.partition for record in read} == kept
        assert len(read) == wanted
    finally:
        for consumer in (stays, slow):
            consumer.close()
        producer.close()


def polled(*consumers: Any) -> bool:
    """Each gets a turn shorter than the rebalance."""
    for consumer in consumers:
        consumer.poll(SHORT_S)
    return True


def expected(settings: Settings, partitions: set[int]) -> int:
    """Records of events in these partitions."""
    consumer = bootstrap.consumer(settings)
    ends = consumer.end_offsets([(events.EVENTS, index) for index in partitions])
    consumer.close()
    return sum(ends.values())


def until(holds: Callable[[], Any]) -> None:
    """Wait for it, a minute at most."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, "it did not happen within a minute"
