"""The event log in memory: one `MemoryBroker` shared by producers, consumers, group members and the admin.

It keeps the laws of the real brokers (order within a partition, positions, gaps, retention, losing everything
or standing still) and none of their costs, so processes are tested against it instead of against mocks.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from services.adapters.topics import TOPICS, partition_of, topic_partitions
from services.errors import ConfigurationError, DataLossError, UnavailableError
from services.ports import Record

Pair = tuple[str, int]
Clock = Callable[[], int]
Headers = Sequence[tuple[str, bytes]]


def wall_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Partition:
    """`start`: first offset kept; `end`: offset after the last; `records`: ascending offsets, with gaps."""

    start: int = 0
    end: int = 0
    records: list[Record] = field(default_factory=list)


class MemoryBroker:
    """A broker in this process. `clock` (ms) stamps `append_ms`; `down` and `stalled` make it misbehave.

    >>> broker = MemoryBroker(partitions=2, clock=lambda: 7)
    >>> MemoryEventProducer(broker).send("events", "ada", b"hello").result().append_ms
    7
    """

    def __init__(self, partitions: int = 4, clock: Clock = wall_ms, log_id: str = "memory-1"):
        self.keyed_partitions = partitions
        self.clock = clock
        self.log_id = log_id
        self.down = False  # refuses at once, as a dead broker does after the producer's deadline
        self.changed = threading.Condition()
        self.created: set[str] = set()
        self.groups: dict[tuple[str, tuple[str, ...]], list[MemoryGroupConsumer]] = {}
        self._partitions: dict[Pair, _Partition] = {}
        self._stalled: list[Callable[[], None]] | None = None

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""
        return topic_partitions(topic, self.keyed_partitions)

    def append(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Record:
        """Append to the partition of `key`; the record as the log holds it."""
        index = partition_of(key, self.partitions(topic))
        with self.changed:
            log = self._log((topic, index))
            record = Record(topic, index, log.end, self.clock(), key, value, tuple(headers))
            log.records.append(record)
            log.end += 1
            self.changed.notify_all()
        return record

    def read(self, pair: Pair, offset: int, limit: int) -> tuple[list[Record], int]:
        """At most `limit` records from `offset` on, and the position after them. Raises DataLossError."""
        with self.changed:
            log = self._log(pair)
            if not log.start <= offset <= log.end:
                raise DataLossError(
                    f"{pair[0]}/{pair[1]}: position {offset} is outside the log, "
                    f"which holds [{log.start}, {log.end})"
                )
            first = bisect_left(log.records, offset, key=lambda record: record.offset)
            found = log.records[first : first + limit]
            return found, (found[-1].offset + 1 if len(found) == limit else log.end)

    def bounds(self, pair: Pair) -> tuple[int, int]:
        """(first offset kept, offset after the last)."""
        with self.changed:
            log = self._log(pair)
            return log.start, log.end

    def records(self, topic: str) -> list[Record]:
        """Everything still kept of a topic, by partition and offset."""
        with self.changed:
            return [
                record
                for index in range(self.partitions(topic))
                for record in self._log((topic, index)).records
            ]

    def skip(self, topic: str, partition: int, offsets: int = 1) -> None:
        """Leave a gap of `offsets` offsets that hold no record (as markers and compaction do)."""
        with self.changed:
            self._log((topic, partition)).end += offsets
            self.changed.notify_all()

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Retention: forget every record below offset `before`."""
        with self.changed:
            log = self._log((topic, partition))
            log.start = before
            log.end = max(log.end, before)
            log.records = [record for record in log.records if record.offset >= before]

    def lose_everything(self, log_id: str) -> None:
        """A restart of a broker that kept nothing: an empty log with another identity."""
        with self.changed:
            self._partitions.clear()
            self.log_id = log_id

    def stall(self) -> None:
        """Stand still: sends stay unacknowledged until `release`."""
        with self.changed:
            self._stalled = [] if self._stalled is None else self._stalled

    def release(self) -> None:
        """Go on: what was sent meanwhile is appended in order."""
        with self.changed:
            waiting, self._stalled = self._stalled or [], None
        for deliver in waiting:
            deliver()

    def submit(self, deliver: Callable[[], None]) -> None:
        """Deliver now, or after `release` when stalled."""
        with self.changed:
            if self._stalled is not None:
                self._stalled.append(deliver)
                return
        deliver()

    def idle(self) -> bool:
        """Whether nothing waits to be appended."""
        with self.changed:
            return not self._stalled

    def _log(self, pair: Pair) -> _Partition:
        topic, index = pair
        if not 0 <= index < self.partitions(topic):
            raise UnavailableError("broker", f"topic {topic} has no partition {index}")
        return self._partitions.setdefault(pair, _Partition())


class MemoryEventProducer:
    """EventProducer into a MemoryBroker. Delivery happens in the caller's thread, at once."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker

    def send(self, topic: str, key: str | None, value: bytes, headers: Headers = ()) -> "Future[Record]":
        """Append (after `release` when the broker is stalled); UnavailableError while it is down."""
        future: Future[Record] = Future()
        self._broker.submit(lambda: self._deliver(future, topic, key, value, headers))
        return future

    def flush(self, timeout_s: float) -> bool:
        """Whether everything sent is in the log; nobody else moves it, so there is nothing to wait for."""
        return self._broker.idle()

    def close(self, timeout_s: float = 5.0) -> None:
        """Nothing to stop."""

    def _deliver(
        self,
        future: "Future[Record]",
        topic: str,
        key: str | None,
        value: bytes,
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        if self._broker.down:
            future.set_exception(UnavailableError("broker", "no acknowledgement before the deadline"))
            return
        record = self._broker.append(topic, None if key is None else key.encode(), value, headers)
        future.set_result(Record(topic, record.partition, record.offset, record.append_ms, record.key, b""))


class MemoryEventConsumer:
    """EventConsumer of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker
        self._positions: dict[Pair, int] = {}

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """Read these pairs from these offsets on; replaces the earlier assignment."""
        self._positions = dict(positions)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """Next records; waits at most `timeout_s` for the first one."""
        end = time.monotonic() + timeout_s
        while True:
            records = self._read(max_records)
            left = end - time.monotonic()
            if records or left <= 0:
                return records
            with self._broker.changed:
                self._broker.changed.wait(min(left, 0.05))

    def positions(self) -> dict[Pair, int]:
        """Next offset of every assigned pair."""
        return dict(self._positions)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset kept, offset after the last). Raises UnavailableError while the broker is down."""
        if self._broker.down:
            raise UnavailableError("broker", "it is down")
        return self._broker.bounds((topic, partition))

    def ends(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """Offset after the last of each."""
        return {pair: self.bounds(*pair)[1] for pair in pairs}

    def close(self) -> None:
        """Forget the assignment; idempotent."""
        self._positions = {}

    def _read(self, max_records: int) -> list[Record]:
        records: list[Record] = []
        if self._broker.down:
            return records
        for pair in sorted(self._positions):
            found, after = self._broker.read(pair, self._positions[pair], max_records - len(records))
            records += found
            self._positions[pair] = after
            if len(records) >= max_records:
                break
        return records


class MemoryGroupConsumer(MemoryEventConsumer):
    """GroupConsumer of a MemoryBroker: members share the partition indices, the same ones of every topic.

    As with the real one, the share changes only inside `poll` (so a member that doesn't poll is a zombie),
    and a pair that was just assigned yields nothing until `assign` says where to read from.
    """

    def __init__(self, broker: MemoryBroker, group: str, topics: tuple[str, ...]):
        super().__init__(broker)
        self._topics = topics
        self._owned: frozenset[Pair] = frozenset()
        self._members = broker.groups.setdefault((group, topics), [])
        self._members.append(self)

    def assignment(self) -> frozenset[Pair]:
        """Pairs that are ours as of the last poll."""
        return self._owned

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """Read these pairs, of those that are ours, from these offsets on."""
        super().assign({pair: offset for pair, offset in positions.items() if pair in self._owned})

    def close(self) -> None:
        """Leave the group; idempotent."""
        super().close()
        self._owned = frozenset()
        if self in self._members:
            self._members.remove(self)

    def _read(self, max_records: int) -> list[Record]:
        if not self._broker.down:
            self._owned = self._share()
            self.assign(self.positions())
        return super()._read(max_records)

    def _share(self) -> frozenset[Pair]:
        mine, members = self._members.index(self), len(self._members)
        return frozenset(
            (topic, index)
            for topic in self._topics
            for index in range(self._broker.partitions(topic))
            if index % members == mine
        )


class MemoryLogAdmin:
    """LogAdmin of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker):
        self._broker = broker

    def create_topics(self, partitions: int) -> list[str]:
        """Topics that were not created before. Raises ConfigurationError for another partition count."""
        if partitions != self._broker.keyed_partitions:
            raise ConfigurationError(
                f"kafka_partitions: {partitions}, but the topics have {self._broker.keyed_partitions}"
            )
        created = [topic for topic in TOPICS if topic not in self._broker.created]
        self._broker.created.update(created)
        return created

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""
        return self._broker.partitions(topic)

    def log_id(self) -> str:
        """Identity of this log. Raises UnavailableError while the broker is down."""
        if self._broker.down:
            raise UnavailableError("broker", "it is down")
        return self._broker.log_id
