"""EventConsumer and GroupConsumer over kafka-python. They commit nothing, and never guess a position.

Not thread-safe: a consumer belongs to the thread that polls it.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from services.adapters.kafka.client import answering, connection
from services.adapters.kafka.header_names import patch_kafka_python
from services.errors import DataLossError, UnavailableError
from services.messages.topics import topic_partitions
from services.ports.event_log import Record
from services.settings import Settings

log = logging.getLogger(__name__)
Pair = tuple[str, int]

GATHER_S = 0.02
# How long a broker may keep a fetch that finds nothing. The embedded broker keeps it that long even if a
# record arrives meanwhile, so there the wait is the delay of every record.
FETCH_WAIT_MS = {"embedded": 20, "kafka": 500}
SESSION_MS = 10_000  # a member that is silent this long loses its partitions


class KafkaEventConsumer:
    """EventConsumer of chosen partitions. Starts without a broker; poll returns nothing while there is
    none."""

    def __init__(self, settings: Settings, **options: Any):
        self._settings = settings
        self._placed: set[Pair] = set()
        patch_kafka_python()
        self._client = KafkaConsumer(
            **connection(settings),
            auto_offset_reset="none",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            fetch_max_wait_ms=FETCH_WAIT_MS[settings.kafka_mode],
            **options,
        )

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """Read these pairs from these offsets on; replaces the earlier assignment."""
        self._client.assign([TopicPartition(*pair) for pair in positions])
        for pair, offset in positions.items():
            self._client.seek(TopicPartition(*pair), offset)
        self._placed = set(positions)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """Next records, in order within a partition. Raises DataLossError if a position is outside the
        log.

        The embedded broker answers a fetch with one batch a partition, however small: there, what can be had
        within `GATHER_S` is gathered, else a busy topic is read more slowly than it is written.
        """
        records = self._fetch(timeout_s, max_records)
        if not records or self._settings.kafka_mode == "kafka":
            return records
        end = time.monotonic() + GATHER_S
        with contextlib.suppress(DataLossError):  # what was read counts; the next poll meets the loss again
            while len(records) < max_records and (left_s := end - time.monotonic()) > 0:
                records += self._fetch(left_s, max_records - len(records))
        return records

    def _fetch(self, timeout_s: float, max_records: int) -> list[Record]:
        try:
            fetched = self._client.poll(round(timeout_s * 1_000), max_records=max_records)
        except (OffsetOutOfRangeError, LogTruncationError) as error:
            raise DataLossError(self._outside(error)) from error
        except KafkaError as error:
            log.warning("poll: %s", error)
            self._let_go()
            return []
        return [self._record(raw) for records in fetched.values() for raw in records]

    def _let_go(self) -> None:
        """Fetch what could not be read anew. kafka-python keeps it, at its end, and would look for more in it
        for ever, whatever the timeout; so the other partitions would never be read."""
        unread = self._client._fetcher._next_partition_records
        if unread is not None:
            unread.drain()

    def positions(self) -> dict[Pair, int]:
        """Next offset to be read of every assigned pair."""
        # The public `position` looks at every partition each time: 6 ms for 32 of them, at every turn.
        held = self._client._subscription.assignment
        states = {pair: held.get(TopicPartition(*pair)) for pair in sorted(self._placed)}
        return {pair: state.position.offset for pair, state in states.items() if state and state.position}

    def lag(self) -> dict[Pair, int]:
        """Records before the end that the last fetch told of."""
        held = self._client._subscription.assignment
        ends = {pair: getattr(held.get(TopicPartition(*pair)), "highwater", None) for pair in self._placed}
        positions = self.positions()
        return {
            pair: max(0, end - positions[pair])
            for pair, end in ends.items()
            if end is not None and pair in positions
        }

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset kept, offset after the last). Raises UnavailableError at its deadline."""
        pair = TopicPartition(topic, partition)
        with answering(self._settings):
            deadline_ms = self._settings.broker_ack_deadline_ms
            start = self._client.beginning_offsets([pair], timeout_ms=deadline_ms)[pair]
            return start, self._client.end_offsets([pair], timeout_ms=deadline_ms)[pair]

    def end_offsets(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """Offset after the last of each, in one request a broker. Raises UnavailableError at its deadline."""
        wanted = [TopicPartition(*pair) for pair in pairs]
        with answering(self._settings):
            found = self._client.end_offsets(wanted, timeout_ms=self._settings.broker_ack_deadline_ms)
        return {(pair.topic, pair.partition): offset for pair, offset in found.items()}

    def offsets_since(self, pairs: Iterable[Pair], at_ms: int) -> dict[Pair, int]:
        """By the broker's index of times; the embedded broker has none. Raises UnavailableError at its
        deadline."""
        wanted = [TopicPartition(*pair) for pair in pairs]
        deadline_ms = self._settings.broker_ack_deadline_ms
        with answering(self._settings):
            if self._settings.kafka_mode == "embedded":
                found = self._client.beginning_offsets(wanted, timeout_ms=deadline_ms)
            else:
                # The ends first: what comes between the two answers must not be passed over.
                found = self._client.end_offsets(wanted, timeout_ms=deadline_ms)
                times = self._client.offsets_for_times(dict.fromkeys(wanted, at_ms), timeout_ms=deadline_ms)
                found |= {pair: first.offset for pair, first in times.items() if first is not None}
        return {(pair.topic, pair.partition): offset for pair, offset in found.items()}

    def close(self) -> None:
        """Stop; idempotent."""
        self._client.close(autocommit=False, timeout_ms=1_000)

    def _record(self, raw: Any) -> Record:
        headers = tuple((name, value or b"") for name, value in raw.headers)
        return Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value or b"", headers)

    def _outside(self, error: Exception) -> str:
        offsets = error.args[0] if error.args and isinstance(error.args[0], Mapping) else {}
        return "; ".join(self._told(pair, offset) for pair, offset in offsets.items()) or str(error)

    def _told(self, pair: TopicPartition, offset: int) -> str:
        told = f"{pair.topic}/{pair.partition}: position {offset} is outside the log"
        try:
            start, end = self.bounds(*pair)
        except UnavailableError:
            return told
        return f"{told}, which holds [{start}, {end})"


class KafkaGroupConsumer(KafkaEventConsumer):
    """GroupConsumer: on Apache Kafka a member of `group`, on the embedded broker the owner of everything.

    Partitions are dealt by range, so a member gets the same partition numbers of every topic. A pair that is
    new to us is paused until `assign` says where to read it from; one that a rebalance takes and gives back
    goes on.
    """

    def __init__(self, settings: Settings, group: str, topics: tuple[str, ...]):
        self._shares = settings.kafka_mode == "kafka"
        self._all = frozenset(
            (topic, index)
            for topic in topics
            for index in range(topic_partitions(topic, settings.kafka_partitions))
        )
        if not self._shares:
            super().__init__(settings)
            return
        super().__init__(
            settings,
            group_id=group,
            partition_assignment_strategy=(RangePartitionAssignor,),
            session_timeout_ms=SESSION_MS,
            heartbeat_interval_ms=SESSION_MS // 5,
        )
        self._rebalance = _Rebalance(self)
        self._client.subscribe(topics, listener=self._rebalance)

    def assignment(self) -> frozenset[Pair]:
        """Pairs that are ours now; changes only inside `poll`."""
        if not self._shares:
            return self._all
        return frozenset((pair.topic, pair.partition) for pair in self._client.assignment())

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """As EventConsumer; rebalances happen here. Records are only of pairs that `assign` named."""
        if self._shares:
            self._rebalance.forget()
        return super().poll(timeout_s, max_records)

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """Read these pairs, of those that are ours, from these offsets on; the others of ours wait."""
        ours = {pair: offset for pair, offset in positions.items() if pair in self.assignment()}
        if not self._shares:
            super().assign(ours)
            return
        self._rebalance.moved(ours)
        self.place(ours)

    def place(self, positions: Mapping[Pair, int]) -> None:
        """Seek and resume `positions`, pause every other pair of ours."""
        for pair in self.assignment():
            where = TopicPartition(*pair)
            self._client.seek(
                where, positions.get(pair, 0)
            )  # a paused pair needs a position too, or poll raises
            (self._client.resume if pair in positions else self._client.pause)(where)
        self._placed = set(positions)


class _Rebalance(ConsumerRebalanceListener):
    """Carries positions over the rebalances that the caller can't see: those of one poll, of which it sees
    only the last, and one that takes several polls, all through which `assignment` stays what it was."""

    def __init__(self, consumer: KafkaGroupConsumer):
        self._consumer = consumer
        self._before: dict[Pair, int] = {}
        self._pending = False

    def forget(self) -> None:
        """A new poll: the caller has seen what is ours, unless that is just being settled."""
        if not self._pending:
            self._before = {}

    def moved(self, positions: Mapping[Pair, int]) -> None:
        """The caller chose positions anew."""
        if self._pending:
            self._before = dict(positions)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Remember where we stood."""
        self._pending = True
        self._before |= self._consumer.positions()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """What comes back goes on from there; if somebody counted it meanwhile, the guarded write will
        tell."""
        self._pending = False
        ours = self._consumer.assignment()
        self._consumer.place({pair: offset for pair, offset in self._before.items() if pair in ours})
