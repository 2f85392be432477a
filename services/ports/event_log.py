"""The event log (Kafka): producing, consuming, administration."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from services.messages.events import EVENTS, EXPOSURES


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic.

    append_ms: time at which the broker appended it (LogAppendTime), in ms since the epoch; on the embedded
    broker the producer's time. A value that is null in Kafka, also of a header, is read as empty.
    """

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class EventProducer(Protocol):
    """Idempotent producer behind a bounded queue. It never blocks the caller, and starts without a broker."""

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """Queue a record for the partition that a stable hash of the key (text as UTF-8) chooses.

        The future holds the record's position (with an empty `value`) once the broker has acknowledged it. It
        fails with UnavailableError if the queue is full or the acknowledgement is late, with BadMessageError
        if the broker rejects the size, and with ConfigurationError if the topic has a wrong number of
        partitions.
        """

    def flush(self, timeout_s: float) -> bool:
        """Wait until all futures are done; False if that takes longer than `timeout_s`."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and stop."""


class EventConsumer(Protocol):
    """Reads chosen partitions from chosen offsets. It commits nothing, because positions are stored with the
    state that they belong to."""

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Read these (topic, partition) pairs from these offsets; replaces the previous assignment."""

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """Next records, in order within a partition. Raises DataLossError if a position is outside the
        log."""

    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset of each assigned partition; it may pass offsets that have no record."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset kept, offset after the last) of a partition. Raises UnavailableError."""

    def end_offsets(self, pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Offset after the last of each partition, in one round trip. Raises UnavailableError."""

    def offsets_since(self, pairs: Iterable[tuple[str, int]], at_ms: int) -> dict[tuple[str, int], int]:
        """An offset of each partition before which no record was appended at or after `at_ms` (ms).

        It is the first offset kept if the broker has no index of times. Raises UnavailableError.
        """

    def lag(self) -> dict[tuple[str, int], int]:
        """Records between the position and the end of each assigned partition, as of the last poll.

        Partitions whose end is not known yet are left out. Sends no request.
        """

    def close(self) -> None:
        """Stop; idempotent."""


class GroupConsumer(EventConsumer, Protocol):
    """A consumer that shares partitions with the other members of its group. On the embedded broker it has
    all.

    The share changes only inside `poll`. A newly assigned partition yields no records and is not in
    `positions()` until `assign` names it.
    """

    def assignment(self) -> frozenset[tuple[str, int]]:
        """Partitions of this member. After a change drop the state of those that left and load that of new
        ones."""


class LogAdmin(Protocol):
    """Topics and identity of a log. All methods raise UnavailableError."""

    def create_topics(self, partitions: int) -> list[str]:
        """Create those of Ringside's topics that are missing, and return their names.

        Raises ConfigurationError if an existing topic has another number of partitions.
        """

    def check_partitions(self) -> None:
        """Raise ConfigurationError if an existing topic has another number of partitions than the settings
        say."""

    def delete_topics(self) -> None:
        """Delete Ringside's topics with all their records, and wait until they are gone."""

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """Identity of the log of these topics.

        A broker that lost its data returns another identity. Apache Kafka does so too after a topic was
        deleted and created again.
        """
