"""Topics, their numbers of partitions, and the partition of a key.

A key has the same partition in `exposures` and `events`, on the in-memory, the embedded and the real broker:
all of them hash as Kafka's default partitioner does.
"""

from services.messages.events import ACTIVITY, DEAD_LETTERS, DECISIONS, EVENTS, EXPOSURES, ITEMS

KEYED = (EXPOSURES, EVENTS, ACTIVITY)  # with the installation's number of partitions
SINGLE = (DECISIONS, ITEMS, DEAD_LETTERS)  # one partition: a total order
TOPICS = KEYED + SINGLE
LOG_ID_TOPIC = "ringside-log-"  # + uuid: a topic whose name is the identity of an embedded broker's log

_DAY_MS = 86_400_000


def topic_partitions(topic: str, partitions: int) -> int:
    """Number of partitions of `topic` where keyed topics have `partitions`."""
    return 1 if topic in SINGLE else partitions


def topic_configuration(topic: str) -> dict[str, str]:
    """Settings with which `topic` is created on Apache Kafka.

    The broker's clock stamps every record, because lateness is judged by it. Topics that are folded from
    their first record are kept forever: decisions as they are, changes of the catalogue compacted to the
    newest of each key (services.messages.events.ItemChanged.key). The others are kept for a week; the lake is
    their history.
    """
    stamped = {"message.timestamp.type": "LogAppendTime"}
    if topic == ITEMS:  # a day's segment or 16 MB: the broker never compacts the segment it writes to
        segment = {"segment.ms": str(_DAY_MS), "segment.bytes": str(16 << 20)}
        return {**stamped, **segment, "cleanup.policy": "compact", "retention.ms": "-1"}
    return {**stamped, "retention.ms": "-1" if topic == DECISIONS else str(7 * _DAY_MS)}


def partition_of(key: bytes | None, partitions: int) -> int:
    """Partition of `key` among `partitions`: Kafka's default for keyed records; 0 without a key.

    >>> partition_of(b"21", 4)
    0
    """
    from kafka.partitioner.default import murmur2  # here: kafka-python takes 0.2 s to import

    if key is None or partitions == 1:
        return 0
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
