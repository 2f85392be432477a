"""EventConsumer and GroupConsumer over kafka-python. They commit nothing and never guess a position.

A consumer is not thread-safe; it belongs to the thread that polls it.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any

from kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError, LogTruncationError, OffsetOutOfRangeError

from services.adapters.kafka.client import connection, kafka_errors
from services.adapters.kafka.header_names import patch_kafka_python
from services.errors import DataLossError, UnavailableError
from services.messages.topics import topic_partitions
from services.ports.event_log import Record
from services.settings import Settings

log = logging.getLogger(__name__)
Pair = tuple[str, int]

GATHER_S = 0.02
# How long a broker may wait with an empty fetch. The embedded broker waits even if a record arrives
# meanwhile, so there it is the delay of every record.
FETCH_WAIT_MS = {"embedded": 20, "kafka": 500}
SESSION_MS = 10_000  # a member without a heartbeat for this long loses its partitions


class KafkaEventConsumer:
    """EventConsumer of chosen partitions. It starts without a broker, and `poll` returns nothing
    meanwhile."""

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
        """See EventConsumer."""
        self._client.assign([TopicPartition(*pair) for pair in positions])
        for pair, offset in positions.items():
            self._client.seek(TopicPartition(*pair), offset)
        self._placed = set(positions)

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """See EventConsumer.

        The embedded broker returns one batch for each partition, however small. There `poll` gathers batches
        for GATHER_S, because otherwise a busy topic would be read more slowly than it is written.
        """
        records = self._fetch(timeout_s, max_records)
        if not records or self._settings.kafka_mode == "kafka":
            return records
        end = time.monotonic() + GATHER_S
        with contextlib.suppress(DataLossError):  # the records read so far count; the next poll raises again
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
            self._drop_unread()
            return []
        return [self._record(raw) for records in fetched.values() for raw in records]

    def _drop_unread(self) -> None:
        """Make kafka-python fetch again the batch that it could not decode.

        It keeps the batch and searches it for more records for ever, whatever the timeout, so that the other
        partitions would never be read.
        """
        unread = self._client._fetcher._next_partition_records
        if unread is not None:
            unread.drain()

    def positions(self) -> dict[Pair, int]:
        """See EventConsumer."""
        # The public `position` inspects every partition at each call: 6 ms for 32 of them, in every step.
        assigned = self._client._subscription.assignment
        states = {pair: assigned.get(TopicPartition(*pair)) for pair in sorted(self._placed)}
        return {pair: state.position.offset for pair, state in states.items() if state and state.position}

    def lag(self) -> dict[Pair, int]:
        """See EventConsumer."""
        assigned = self._client._subscription.assignment
        ends = {
            pair: getattr(assigned.get(TopicPartition(*pair)), "highwater", None) for pair in self._placed
        }
        positions = self.positions()
        return {
            pair: max(0, end - positions[pair])
            for pair, end in ends.items()
            if end is not None and pair in positions
        }

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See EventConsumer."""
        pair = TopicPartition(topic, partition)
        with kafka_errors(self._settings):
            deadline_ms = self._settings.broker_ack_deadline_ms
            start = self._client.beginning_offsets([pair], timeout_ms=deadline_ms)[pair]
            return start, self._client.end_offsets([pair], timeout_ms=deadline_ms)[pair]

    def end_offsets(self, pairs: Iterable[Pair]) -> dict[Pair, int]:
        """See EventConsumer."""
        wanted = [TopicPartition(*pair) for pair in pairs]
        with kafka_errors(self._settings):
            ends = self._client.end_offsets(wanted, timeout_ms=self._settings.broker_ack_deadline_ms)
        return {(pair.topic, pair.partition): offset for pair, offset in ends.items()}

    def offsets_since(self, pairs: Iterable[Pair], at_ms: int) -> dict[Pair, int]:
        """See EventConsumer. The embedded broker has no index of times."""
        wanted = [TopicPartition(*pair) for pair in pairs]
        deadline_ms = self._settings.broker_ack_deadline_ms
        with kafka_errors(self._settings):
            if self._settings.kafka_mode == "embedded":
                offsets = self._client.beginning_offsets(wanted, timeout_ms=deadline_ms)
            else:
                # The ends come first, so that records appended between the two requests are not skipped.
                offsets = self._client.end_offsets(wanted, timeout_ms=deadline_ms)
                times = self._client.offsets_for_times(dict.fromkeys(wanted, at_ms), timeout_ms=deadline_ms)
                offsets |= {pair: first.offset for pair, first in times.items() if first is not None}
        return {(pair.topic, pair.partition): offset for pair, offset in offsets.items()}

    def close(self) -> None:
        """See EventConsumer."""
        self._client.close(autocommit=False, timeout_ms=1_000)

    def _record(self, raw: Any) -> Record:
        headers = tuple((name, value or b"") for name, value in raw.headers)
        return Record(raw.topic, raw.partition, raw.offset, raw.timestamp, raw.key, raw.value or b"", headers)

    def _outside(self, error: Exception) -> str:
        offsets = error.args[0] if error.args and isinstance(error.args[0], Mapping) else {}
        return "; ".join(self._out_of_range(pair, offset) for pair, offset in offsets.items()) or str(error)

    def _out_of_range(self, pair: TopicPartition, offset: int) -> str:
        message = f"{pair.topic}/{pair.partition}: position {offset} is outside the log"
        try:
            start, end = self.bounds(*pair)
        except UnavailableError:
            return message
        return f"{message}, which holds [{start}, {end})"


class KafkaGroupConsumer(KafkaEventConsumer):
    """GroupConsumer: on Apache Kafka a member of `group`, on the embedded broker the owner of all partitions.

    Partitions are assigned by range, so a member gets the same partition numbers of every topic. A newly
    assigned pair is paused until `assign` names its offset. A pair that a rebalance revokes and assigns again
    continues.
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
        """See GroupConsumer."""
        if not self._shares:
            return self._all
        return frozenset((pair.topic, pair.partition) for pair in self._client.assignment())

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """See GroupConsumer; rebalances happen here."""
        if self._shares:
            self._rebalance.poll_started()
        return super().poll(timeout_s, max_records)

    def assign(self, positions: Mapping[Pair, int]) -> None:
        """See GroupConsumer. Pairs of other members are ignored; pairs of this member that are not named
        wait."""
        owned = {pair: offset for pair, offset in positions.items() if pair in self.assignment()}
        if not self._shares:
            super().assign(owned)
            return
        self._rebalance.positions_set(owned)
        self.place(owned)

    def place(self, positions: Mapping[Pair, int]) -> None:
        """Seek and resume the pairs in `positions`, and pause every other pair of this member."""
        for pair in self.assignment():
            where = TopicPartition(*pair)
            # A paused pair needs a position too, because otherwise poll raises.
            self._client.seek(where, positions.get(pair, 0))
            (self._client.resume if pair in positions else self._client.pause)(where)
        self._placed = set(positions)


class _Rebalance(ConsumerRebalanceListener):  # type: ignore[misc]  # kafka-python has no types
    """Keeps positions over rebalances that the caller cannot see.

    These are all but the last one within a poll, and one that takes several polls, during which `assignment`
    does not change.
    """

    def __init__(self, consumer: KafkaGroupConsumer):
        self._consumer = consumer
        self._before: dict[Pair, int] = {}
        self._pending = False

    def poll_started(self) -> None:
        """Drop the old positions, because the caller knows the assignment, unless a rebalance is in
        progress."""
        if not self._pending:
            self._before = {}

    def positions_set(self, positions: Mapping[Pair, int]) -> None:
        """Replace the old positions with those that the caller assigned during a rebalance."""
        if self._pending:
            self._before = dict(positions)

    def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Remember the positions."""
        self._pending = True
        self._before |= self._consumer.positions()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Continue pairs that are assigned again. If another member counted them meanwhile, the guarded write
        fails."""
        self._pending = False
        assigned_now = self._consumer.assignment()
        kept = {pair: offset for pair, offset in self._before.items() if pair in assigned_now}
        self._consumer.place(kept)
