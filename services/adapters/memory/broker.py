"""A broker in memory, which producers, consumers, group members and admins of
services.adapters.memory.event_log share.

It behaves as real brokers do (order within a partition, positions, retention, loss of everything), so tests
of processes use it instead of mocks.
"""

import threading
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

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
    """A broker in this process. `clock` (ms) stamps `append_ms`.

    >>> broker = MemoryBroker(partitions=2, clock=lambda: 7)
    >>> broker.append("events", b"ada", b"hello").append_ms
    7
    """

    def __init__(self, partitions: int = 4, clock: Clock = wall_ms, log_id: str = "memory-1"):
        self.keyed_partitions = partitions
        self.clock = clock
        self.log_id = log_id
        self.changed = threading.Condition()
        self.created: set[str] = set()
        self.groups: dict[tuple[str, tuple[str, ...]], list[object]] = {}  # members, in order of joining
        self._partitions: dict[Pair, _Partition] = {}

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""
        return topic_partitions(topic, self.keyed_partitions)

    def append(self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> Record:
        """Append to the partition of `key`, and return the record in the log."""
        index = partition_of(key, self.partitions(topic))
        with self.changed:
            log = self._log((topic, index))
            record = Record(topic, index, log.end, self.clock(), key, value, tuple(headers))
            log.records.append(record)
            log.end += 1
            self.changed.notify_all()
        return record

    def send(self, topic: str, key: bytes | None, value: bytes, headers: Headers = ()) -> "Future[Record]":
        """Append, and acknowledge at once."""
        future: Future[Record] = Future()
        future.set_result(replace(self.append(topic, key, value, headers), value=b""))
        return future

    def idle(self) -> bool:
        """Whether every record that was sent is appended."""
        return True

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

    def end(self, pair: Pair) -> int:
        """Offset after the last record."""
        return self._log(pair).end

    def identity(self) -> str:
        """Identity of this log; another one after its data were lost."""
        return self.log_id

    def since(self, pair: Pair, at_ms: int) -> int:
        """Offset of the first record appended at or after `at_ms`; after the last if there is none."""
        with self.changed:
            log = self._log(pair)
            return next((record.offset for record in log.records if record.append_ms >= at_ms), log.end)

    def lose_everything(self, log_id: str) -> None:
        """Restart without the data: an empty log with another identity."""
        with self.changed:
            self._partitions.clear()
            self.log_id = log_id

    def _log(self, pair: Pair) -> _Partition:
        topic, index = pair
        if not 0 <= index < self.partitions(topic):
            raise UnavailableError("broker", f"topic {topic} has no partition {index}")
        return self._partitions.setdefault(pair, _Partition())
