"""What other programs may put on a topic: records whose value is null."""

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaProducer

from services.adapters.kafka.client import connection
from services.adapters.kafka.consumer import KafkaEventConsumer
from services.messages.events import EVENTS
from services.settings import Settings


def test_a_null_value_reads_as_no_bytes(embedded_broker: Any, settings_for: Callable[..., Settings]) -> None:
    settings = settings_for(embedded_broker)
    client = KafkaProducer(**connection(settings))
    client.send(EVENTS, value=None, key=b"ada", partition=0).get(10)
    client.close()
    consumer = KafkaEventConsumer(settings)
    consumer.assign({(EVENTS, 0): 0})
    records, end = [], time.monotonic() + 20
    while not records and time.monotonic() < end:
        records = consumer.poll(0.2)
    consumer.close()
    assert [(record.key, record.value) for record in records] == [(b"ada", b"")]
