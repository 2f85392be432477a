"""The event log (Kafka): producing, consuming, administration."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from services.messages.events import EVENTS, EXPOSURES


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic. `append_ms`: when the broker appended it (LogAppendTime; on the embedded broker
    the producer's time), ms since the epoch. What Kafka calls null, a value or a header's, reads as empty."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class EventProducer(Protocol):
    """Idempotent producer on its own thread behind a bounded queue. Never blocks the caller, starts without
    a broker."""

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """Queue a record; partition = stable hash of key (text as UTF-8). The future holds the position once
        acknowledged (`value` empty), or UnavailableError (queue full, broker gone past its deadline)."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is acknowledged; False if that took longer."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and stop."""


class EventConsumer(Protocol):
    """Reads chosen partitions from chosen offsets; commits nothing (positions live with the state they
    belong to)."""

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Read these (topic, partition) pairs from these offsets on; replaces the earlier assignment."""

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """Next records, in order within a partition. Raises DataLossError if a position is outside the
        log."""

    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset to be read of every assigned partition (may run past offsets that hold no record)."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset kept, offset after the last) of the log. Raises UnavailableError."""

    def end_offsets(self, pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Offset after the last of many partitions, in one round trip. Raises UnavailableError."""

    def offsets_since(self, pairs: Iterable[tuple[str, int]], at_ms: int) -> dict[tuple[str, int], int]:
        """An offset of each from which on everything is found that was appended at `at_ms` (ms) or later; the
        first one kept where the broker can't look up by time. Raises UnavailableError."""

    def lag(self) -> dict[tuple[str, int], int]:
        """Records between us and the end of each assigned partition, as the last poll saw it; partitions
        whose end isn't known yet are left out. Asks nobody."""

    def close(self) -> None:
        """Stop; idempotent."""


class GroupConsumer(EventConsumer, Protocol):
    """A consumer that shares partitions with the other members of its group (Apache Kafka only; embedded:
    all).

    The share changes only inside `poll`. A pair that is new to us yields nothing and stands in no
    `positions()` until `assign` names it.
    """

    def assignment(self) -> frozenset[tuple[str, int]]:
        """Pairs that are ours now. A change means: drop what belongs to the others, load what is new."""


class LogAdmin(Protocol):
    """Topics and identity of a log."""

    def create_topics(self, partitions: int) -> list[str]:
        """Create what is missing of Ringside's topics; returns the names created."""

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """Identity of these topics' log. A broker that lost its data answers another one, and one that can
        tell also when a topic was deleted and made anew. Raises UnavailableError."""
