"""What lies in the topics, as Parquet: by a plain consumer (another client library than the product's)."""

from pathlib import Path

import confluent_kafka
import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [("topic", pa.string()), ("p", pa.int32()), ("o", pa.int64()), ("append_ms", pa.int64())]
    + [("value", pa.string())]
)


def dump(bootstrap: str, topics: tuple[str, ...], folder: Path) -> int:
    """Write every record of `topics` to `folder`/<topic>.parquet; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "dump", "enable.auto.commit": False}
    )
    try:
        return sum(_dump(consumer, topic, folder) for topic in topics)
    finally:
        consumer.close()


def _dump(consumer: confluent_kafka.Consumer, topic: str, folder: Path) -> int:
    left = {
        index: end
        for index in consumer.list_topics(topic, 30).topics[topic].partitions
        if (end := _end(consumer, topic, index))
    }
    consumer.assign([confluent_kafka.TopicPartition(topic, index, 0) for index in left])
    rows: list[dict[str, object]] = []
    while left:
        message = consumer.poll(30)
        assert message is not None, f"{topic}: nothing after {len(rows)} records; ends not reached: {left}"
        assert message.error() is None, message.error()
        index, offset = message.partition(), message.offset()
        value = message.value().decode()
        rows.append(
            {"topic": topic, "p": index, "o": offset, "append_ms": message.timestamp()[1], "value": value}
        )
        if index in left and offset >= left[index] - 1:
            del left[index]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / f"{topic}.parquet")
    return len(rows)


def _end(consumer: confluent_kafka.Consumer, topic: str, partition: int) -> int:
    low, high = consumer.get_watermark_offsets(confluent_kafka.TopicPartition(topic, partition), 30)
    assert low == 0, f"{topic}/{partition} begins at {low}: records are gone"
    return int(high)
