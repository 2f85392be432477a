"""A broker in memory, which producers, consumers, group members and admins of
services.adapters.memory.event_log share.

It behaves as real brokers do (order within a partition, positions, gaps, retention, loss of everything,
stalls), so tests of processes use it instead of mocks.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.errors import DataLossError, UnavailableError
from services.messages.topics import partition_of, topic_partitions
from services.ports.event_log import Record
from services.runtime.clock import wall_ms

Pair = tuple[str, int]
Clock = Callable[[], int]
Headers = Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class _Partition:
    """`start`: first offset kept; `end`: offset after the last; `records`: ascending offsets, with gaps."""

    start: int = 0
    end: int = 0
    records: list[Record] = field(default_factory=list)


class MemoryBroker:
    """A broker in this process. `clock` (ms) stamps `append_ms`; a test may set `down` and call `stall`.

    >>> broker = MemoryBroker(partitions=2, clock=lambda: 7)
    >>> broker.append("events", b"ada", b"hello").append_ms
    7
    """

    def __init__(self, partitions: int = 4, clock: Clock = wall_ms, log_id: str = "memory-1"):
        self.keyed_partitions = partitions
        self.clock = clock
        self.log_id = log_id
        self.down = False  # fails at once, as a dead broker does after the producer's deadline
        self.changed = threading.Condition()
        self.created: set[str] = set()
        self.groups: dict[tuple[str, tuple[str, ...]], list[object]] = {}  # members, in order of joining
        self._partitions: dict[Pair, _Partition] = {}
        self._stalled: list[Callable[[], None]] | None = None

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""
        return topic_partitions(topic, self.keyed_partitions)

    def append(
        self, topic: str, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Record:
        """Append to the partition of `key`, and return the record in the log."""
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
            records = log.records[first : first + limit]
            return records, (records[-1].offset + 1 if len(records) == limit else log.end)

    def bounds(self, pair: Pair) -> tuple[int, int]:
        """(first offset kept, offset after the last)."""
        with self.changed:
            log = self._log(pair)
            return log.start, log.end

    def since(self, pair: Pair, at_ms: int) -> int:
        """Offset of the first record appended at or after `at_ms`; after the last if there is none."""
        with self.changed:
            log = self._log(pair)
            return next((record.offset for record in log.records if record.append_ms >= at_ms), log.end)

    def records(self, topic: str) -> list[Record]:
        """All kept records of a topic, by partition and offset."""
        with self.changed:
            return [
                record
                for index in range(self.partitions(topic))
                for record in self._log((topic, index)).records
            ]

    def skip(self, topic: str, partition: int, offsets: int = 1) -> None:
        """Leave a gap of `offsets` offsets without a record, as transaction markers and compaction do."""
        with self.changed:
            self._log((topic, partition)).end += offsets
            self.changed.notify_all()

    def truncate(self, topic: str, partition: int, before: int) -> None:
        """Delete every record below offset `before`, as retention does."""
        with self.changed:
            log = self._log((topic, partition))
            log.start = before
            log.end = max(log.end, before)
            log.records = [record for record in log.records if record.offset >= before]

    def lose_everything(self, log_id: str) -> None:
        """Restart without the data: an empty log with another identity."""
        with self.changed:
            self._partitions.clear()
            self.log_id = log_id

    def stall(self) -> None:
        """Leave sends unacknowledged until `release`."""
        with self.changed:
            self._stalled = [] if self._stalled is None else self._stalled

    def release(self) -> None:
        """Append in order what was sent since `stall`."""
        with self.changed:
            waiting, self._stalled = self._stalled or [], None
        for deliver in waiting:
            deliver()

    def submit(self, deliver: Callable[[], None]) -> None:
        """Call `deliver` now, or at `release` if the broker is stalled."""
        with self.changed:
            if self._stalled is not None:
                self._stalled.append(deliver)
                return
        deliver()

    def idle(self) -> bool:
        """Whether no record waits to be appended."""
        with self.changed:
            return not self._stalled

    def _log(self, pair: Pair) -> _Partition:
        topic, index = pair
        if not 0 <= index < self.partitions(topic):
            raise UnavailableError("broker", f"topic {topic} has no partition {index}")
        return self._partitions.setdefault(pair, _Partition())
