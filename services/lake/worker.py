"""The lake worker: records in, Parquet files out, each record exactly once.

A file is the commit: its name holds the span of offsets that it covers, and it appears whole or not at all.
No position is stored elsewhere, so a crash between two writes can neither lose nor double a record.

Records wait in a buffer until their partition is due, by age or by number. A crash loses the buffers, and the
next worker reads the records again from the end of the last file. A file holds records of one hour of the
broker's clock, so a buffer may become several files.

Only records that certainly belong to the log named in the file may be written. So they are confirmed first:
the identity of the log is read after the records were fetched, and if it is unchanged, they came from it.
It is needed because a log that was deleted and created again may have grown past the old position;
then no read fails.

One step: take over partitions (each has one writer; `LakeFiles.acquire`), poll, buffer, and at most once in
CONFIRM_MS confirm the buffers and write those that are due.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from services.errors import DataLossError, StalePositionError, UnavailableError
from services.lake.tables import Malformed, activity_history, table
from services.messages import events
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin, Record
from services.ports.features import FeatureStore
from services.ports.lake import LakeFiles, Span
from services.runtime.dead_letters import DEAD_LETTERED_BY, DeadLetterWriter

logger = logging.getLogger(__name__)

HOUR_MS = 3_600_000
CONFIRM_MS = 1_000  # between two reads of the log's identity
HISTORY_MS = 600_000  # of activity rows in one file of Feast's history, which is rewritten as it grows
USER_ACTIVITY = "user_activity"
READER = "lake"
Pair = tuple[str, int]  # (topic, partition)


@dataclass(slots=True)
class Buffer:
    """Records of one partition that are in no file yet.

    start: offset at which the next file begins. fetched_to: offset after the last record fetched.
    confirmed_to: offset below which records certainly belong to the log. since_ms: when the oldest record was
    buffered.
    """

    start: int
    fetched_to: int
    confirmed_to: int
    since_ms: int = 0
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Deps:
    """What the worker is composed of. owned: the (topic, partition) pairs that are assigned to it."""

    consumer: EventConsumer
    producer: EventProducer
    admin: LogAdmin
    files: LakeFiles
    features: FeatureStore
    owned: Callable[[], frozenset[Pair]]


class LakeWorker:
    """Writes the owned partitions. `clock`: ms since the epoch. A partition is written `flush_ms` after
    its oldest record was buffered, or when it has `max_records`."""

    def __init__(self, deps: Deps, clock: Callable[[], int], *, flush_ms: int, max_records: int):
        self._deps = deps
        self._clock = clock
        self._flush_ms = flush_ms
        self._max_records = max_records
        self._log = ""  # tag of the log that is written
        self._confirmed_ms = 0
        self._buffers: dict[Pair, Buffer] = {}
        self._assigned: frozenset[Pair] | None = None  # None: the consumer must be assigned again
        self._dead_letters = DeadLetterWriter(deps.producer, READER)
        self.written = 0  # rows
        self.bad: Counter[tuple[str, str]] = Counter()  # skipped records, by (topic, code)

    def step(self, timeout_s: float) -> int:
        """Fetch records and write the buffers that are due; return the number of records fetched.

        If another worker took over a partition, its buffer is dropped. Raises UnavailableError, or OSError if
        the disk is full; then the buffers are dropped and the records are fetched again.
        """
        try:
            self._update_assignment()
            records = self._deps.consumer.poll(timeout_s)
            self._buffer(records)
            if self._clock() - self._confirmed_ms >= min(CONFIRM_MS, self._flush_ms):
                self._confirm()
                self._write(self._due())
        except StalePositionError as error:
            logger.warning("%s; reading again from the last file", error)
            self._release()
        except DataLossError as error:
            logger.error("records were deleted before they reached the lake: %s", error)
            self.close()
            self._release()
            return 0
        except Exception:
            self._fetch_again()
            raise
        return len(records)

    def close(self) -> None:
        """Write the confirmed records of the partitions that are still owned."""
        with suppress(DataLossError):
            self._confirm()
        for pair in self._buffers:
            with suppress(StalePositionError):
                self._write([pair])

    # ---- assignment ----------------------------------------------------------------------------------------

    def _update_assignment(self) -> None:
        owned = self._deps.owned()
        if owned == self._assigned:
            return
        self._log = self._check_log() if self._buffers else self._current_log()
        for pair in self._buffers.keys() - owned:
            del self._buffers[pair]  # the new owner reads it from the last file on
        self._acquire(owned - self._buffers.keys())
        self._deps.consumer.assign({pair: buffer.fetched_to for pair, buffer in self._buffers.items()})
        self._assigned = owned

    def _acquire(self, pairs: Iterable[Pair]) -> None:
        for topic, of_topic in groupby(sorted(pairs), key=itemgetter(0)):
            partitions = [partition for _, partition in of_topic]
            covered = self._deps.files.acquire(topic, partitions, self._log)
            for partition in partitions:
                start = self._start((topic, partition), covered.get(partition))
                self._buffers[topic, partition] = Buffer(start, start, start)

    def _start(self, pair: Pair, covered: int | None) -> int:
        """Return the offset after the last file, or the first one that the log still has."""
        first, end = self._deps.consumer.bounds(*pair)
        if covered is not None and covered < first:
            message = "%s/%d: records [%d, %d) were deleted before they reached the lake"
            logger.error(message, *pair, covered, first)
        return min(max(first, covered or 0), end)

    def _fetch_again(self) -> None:
        """Drop buffered records and keep the partitions: `LakeFiles.hold` fails if another worker has one."""
        self._assigned = None
        starts = {pair: buffer.start for pair, buffer in self._buffers.items()}
        self._buffers = {pair: Buffer(start, start, start) for pair, start in starts.items()}

    def _release(self) -> None:
        self._assigned = None
        self._buffers = {}

    # ---- the identity of the log ---------------------------------------------------------------------------

    def _current_log(self) -> str:
        return self._deps.files.log_tag(self._deps.admin.log_id())

    def _check_log(self) -> str:
        """Return the tag of the current log. Raises DataLossError if it is not the one that is written."""
        log = self._current_log()
        if log != self._log:
            raise DataLossError(f"the broker holds log {log}, not {self._log} any more")
        return log

    def _confirm(self) -> None:
        """Confirm that everything fetched until now came from the log. Raises DataLossError if it is another
        one; if the broker is away, records stay unconfirmed."""
        self._confirmed_ms = self._clock()
        if all(buffer.confirmed_to == buffer.fetched_to for buffer in self._buffers.values()):
            return
        try:
            self._check_log()
        except UnavailableError as error:
            logger.warning("%s; records fetched since the last confirmation wait", error)
            return
        for buffer in self._buffers.values():
            buffer.confirmed_to = buffer.fetched_to

    # ---- buffers and files ---------------------------------------------------------------------------------

    def _buffer(self, records: Iterable[Record]) -> None:
        for record in records:
            buffer = self._buffers[record.topic, record.partition]
            if record.offset < buffer.fetched_to:
                continue  # read again after a new assignment
            buffer.since_ms = buffer.since_ms if buffer.records else self._clock()
            buffer.records.append(record)
            buffer.fetched_to = record.offset + 1

    def _due(self) -> list[Pair]:
        oldest_ms = self._clock() - self._flush_ms
        owned = self._deps.owned()  # the poll may have ended with fewer partitions than it began with
        return [
            pair
            for pair, buffer in self._buffers.items()
            if pair in owned
            and buffer.records
            and (buffer.since_ms <= oldest_ms or len(buffer.records) >= self._max_records)
        ]

    def _write(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            buffer = self._buffers[pair]
            confirmed = [record for record in buffer.records if record.offset < buffer.confirmed_to]
            for at_ms, records in _by_hour(confirmed):
                span = Span(self._log, pair[1], buffer.start, records[-1].offset + 1)
                with self._deps.files.hold(*pair):
                    self._write_file(pair[0], span, at_ms, records)
                buffer.start = span.after  # at once, so that a failure of the next file doubles no record
                buffer.records = buffer.records[len(records) :]

    def _write_file(self, topic: str, span: Span, at_ms: int, records: list[Record]) -> None:
        rows, malformed = table(topic, records)
        self._skip(topic, malformed)
        if topic == events.ACTIVITY and rows.num_rows:
            name = f"live-{span.log}-{span.partition}-{at_ms // HISTORY_MS}"
            self._deps.features.extend(USER_ACTIVITY, activity_history(rows), name)
        self._deps.files.write(topic, span, at_ms, rows)
        self.written += rows.num_rows

    def _skip(self, topic: str, malformed: Malformed) -> None:
        """Count malformed records and write their dead letters, unless another worker writes those.

        Waits for the acknowledgement, because the file that follows covers the offsets of these records.
        """
        for record, error in malformed:
            self.bad[topic, error.code] += 1
            if DEAD_LETTERED_BY.get(topic) == READER:
                self._dead_letters.dead_letter(record, error)
        self._dead_letters.flush()


def _by_hour(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """Yield (append time of the first, records) for each run of records of the same hour, in order."""
    for _, run in groupby(records, key=lambda record: record.append_ms // HOUR_MS):
        of_hour = list(run)
        yield of_hour[0].append_ms, of_hour
