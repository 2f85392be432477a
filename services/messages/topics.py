"""Which topics there are, how many partitions each has, and which partition a key belongs to.

Every adapter of the log computes the partition here, so a key lies in the same partition of `exposures` and
of `events` on the in-memory, the embedded and the real broker alike.
"""

from services.messages.events import ACTIVITY, DEAD_LETTERS, DECISIONS, EVENTS, EXPOSURES, ITEMS

KEYED = (EXPOSURES, EVENTS, ACTIVITY)  # as many partitions as the installation chose
SINGLE = (DECISIONS, ITEMS, DEAD_LETTERS)  # one partition: a total order
TOPICS = KEYED + SINGLE
LOG_ID_TOPIC = "ringside-log-"  # + uuid: a topic whose name is the identity of an embedded broker's log

_DAY_MS = 86_400_000
_MASK = 0xFFFFFFFF
_M = 0x5BD1E995
_SEED = 0x9747B28C


def topic_partitions(topic: str, partitions: int) -> int:
    """How many partitions `topic` has where keyed topics have `partitions`."""
    return 1 if topic in SINGLE else partitions


def topic_configuration(topic: str) -> dict[str, str]:
    """Settings with which `topic` is created on Apache Kafka.

    The broker's clock stamps every record: lateness is judged by it. What is folded from the first record on
    is kept forever: decisions as they are, changes of the catalogue compacted, so that the newest of each key
    (services.messages.events.ItemChanged.key) stays. The rest is kept for a week, with the lake as its
    history.
    """
    stamped = {"message.timestamp.type": "LogAppendTime"}
    if topic == ITEMS:  # a day's segment or 16 MB: the broker never compacts the segment it writes to
        segment = {"segment.ms": str(_DAY_MS), "segment.bytes": str(16 << 20)}
        return {**stamped, **segment, "cleanup.policy": "compact", "retention.ms": "-1"}
    return {**stamped, "retention.ms": "-1" if topic == DECISIONS else str(7 * _DAY_MS)}


def murmur2(data: bytes) -> int:
    """32-bit MurmurHash2 with Kafka's seed, as in the Java client's `Utils.murmur2` (unsigned here).

    >>> hex(murmur2(b"21"))
    '0xc5f2f8ec'
    """
    h = (_SEED ^ len(data)) & _MASK
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(data[at : at + 4], "little") * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    h = (h ^ (h >> 13)) * _M & _MASK
    return h ^ (h >> 15)


def partition_of(key: bytes | None, partitions: int) -> int:
    """Partition of `key` among `partitions`: Kafka's default for keyed records; 0 without a key."""
    if key is None or partitions == 1:
        return 0
    return (murmur2(key) & 0x7FFFFFFF) % partitions
