"""Records in, files out. A file is the commit: what it answers for is in its name, so nothing is lost or
doubled.

Records wait in memory until their partition is due, by age or by number; a crash drops them and the next
worker reads them again from the highest offset that a file answers for. A file holds records of one hour
(of the broker's clock), so it may end before what was fetched does.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

from services.errors import BadMessageError, DataLossError, StalePositionError, UnavailableError
from services.lake import tables
from services.messages import events
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin, Record
from services.ports.features import FeatureStore
from services.ports.lake import LakeFiles, Span
from services.runtime.dead_letters import DEAD_LETTERED_BY, DeadLetterWriter

logger = logging.getLogger(__name__)

HOUR_MS = 3_600_000
ASK_MS = 1_000  # between two questions which log this is
HISTORY_MS = 600_000  # of activity rows in one file of Feast's history; it is rewritten as it grows
USER_ACTIVITY = "user_activity"
READER = "lake"
Pair = tuple[str, int]


@dataclass(slots=True)
class Waiting:
    """Records of one partition that no file holds yet. first: where the next file begins; after: end of
    what was fetched; sure: end of what was fetched before the log last said that it is ours; since_ms: when
    the oldest of them came."""

    first: int
    after: int
    sure: int
    since_ms: int = 0
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Deps:
    """What a worker works with. owned: the (topic, partition) pairs that are this worker's now."""

    consumer: EventConsumer
    producer: EventProducer
    admin: LogAdmin
    files: LakeFiles
    features: FeatureStore
    owned: Callable[[], frozenset[Pair]]


class LakeWorker:
    """One worker. `clock` answers ms since the epoch; a partition is written after `flush_ms` or `most`
    records."""

    def __init__(self, deps: Deps, clock: Callable[[], int], *, flush_ms: int, most: int):
        self._deps = deps
        self._clock = clock
        self._flush_ms = flush_ms
        self._most = most
        self._log = ""
        self._asked_ms = 0
        self._waiting: dict[Pair, Waiting] = {}
        self._placed: frozenset[Pair] | None = None  # what is read, each from the end of what waits
        self._dead_letters = DeadLetterWriter(deps.producer, READER)
        self.written = 0  # rows
        self.bad: Counter[tuple[str, str]] = Counter()  # records passed over, by (topic, code)

    def step(self, timeout_s: float) -> int:
        """Fetch what has arrived and write what is due; returns the number of records fetched.

        What another worker took meanwhile is dropped. Raises UnavailableError, or OSError when the disk is
        full; then what waits is dropped and read again.
        """
        try:
            self._take_place()
            records = self._deps.consumer.poll(timeout_s)
            self._keep(records)
            if self._clock() - self._asked_ms >= min(ASK_MS, self._flush_ms):
                self._confirm()
                self._write(self._due())
        except StalePositionError as error:
            logger.warning("%s; reading again from its last file", error)
            self._lose_place()
        except DataLossError as error:
            logger.error("records are gone before they reached the lake: %s", error)
            self.close()
            self._lose_place()
            return 0
        except Exception:
            self._read_again()
            raise
        return len(records)

    def close(self) -> None:
        """Write what waits and is still ours, as far as it is known to be of this log."""
        with suppress(DataLossError):
            self._confirm()
        for pair in self._waiting:
            with suppress(StalePositionError):
                self._write([pair])

    def _take_place(self) -> None:
        ours = self._deps.owned()
        if ours == self._placed:
            return
        self._log = self._same_log() if self._waiting else self._log_now()
        for pair in set(self._waiting) - ours:
            del self._waiting[pair]  # its new owner reads it from the last file on
        self._take(ours - set(self._waiting))
        self._deps.consumer.assign({pair: waiting.after for pair, waiting in self._waiting.items()})
        self._placed = ours

    def _take(self, pairs: Iterable[Pair]) -> None:
        for topic, together in groupby(sorted(pairs), key=itemgetter(0)):
            partitions = [partition for _, partition in together]
            held = self._deps.files.acquire(topic, partitions, self._log)
            for partition in partitions:
                start = self._start((topic, partition), held.get(partition))
                self._waiting[topic, partition] = Waiting(start, start, start)

    def _start(self, pair: Pair, held: int | None) -> int:
        first, end = self._deps.consumer.bounds(*pair)
        if held is not None and held < first:
            logger.error("%s/%d: records [%d, %d) are gone before they reached the lake", *pair, held, first)
        return min(max(first, held or 0), end)

    def _read_again(self) -> None:
        """What waits is forgotten, not whose the partitions are: `holding` tells if another one took them."""
        self._placed = None
        for pair, waiting in self._waiting.items():
            self._waiting[pair] = Waiting(waiting.first, waiting.first, waiting.first)

    def _lose_place(self) -> None:
        self._placed = None
        self._waiting = {}

    def _log_now(self) -> str:
        return self._deps.files.log_tag(self._deps.admin.log_id())

    def _same_log(self) -> str:
        """Raises DataLossError if it is another one than we write."""
        log = self._log_now()
        if log != self._log:
            raise DataLossError(f"the broker holds log {log}, not {self._log} any more")
        return log

    def _confirm(self) -> None:
        """What was fetched before the log says who it is came from it. A log that was made anew may have
        grown past our place: no read tells, and its records must not lie in files of the old one. Raises
        DataLossError."""
        self._asked_ms = self._clock()
        if all(waiting.sure == waiting.after for waiting in self._waiting.values()):
            return
        try:
            self._same_log()
        except UnavailableError as error:
            logger.warning("%s; what was fetched since it answered last waits", error)
            return
        for waiting in self._waiting.values():
            waiting.sure = waiting.after

    def _keep(self, records: Iterable[Record]) -> None:
        for record in records:
            waiting = self._waiting[record.topic, record.partition]
            if record.offset < waiting.after:
                continue  # read again after a reassignment
            waiting.since_ms = waiting.since_ms if waiting.records else self._clock()
            waiting.records.append(record)
            waiting.after = record.offset + 1

    def _due(self) -> list[Pair]:
        oldest_ms = self._clock() - self._flush_ms
        ours = self._deps.owned()  # a poll may end with less than it began with
        return [
            pair
            for pair, waiting in self._waiting.items()
            if pair in ours
            and waiting.records
            and (waiting.since_ms <= oldest_ms or len(waiting.records) >= self._most)
        ]

    def _write(self, pairs: Iterable[Pair]) -> None:
        for pair in pairs:
            waiting = self._waiting[pair]
            for at_ms, records in _by_hour(
                record for record in waiting.records if record.offset < waiting.sure
            ):
                span = Span(self._log, pair[1], waiting.first, records[-1].offset + 1)
                with self._deps.files.hold(*pair):
                    self._write_file(pair[0], span, at_ms, records)
                waiting.first = span.after
                waiting.records = waiting.records[len(records) :]  # a failure at the next file doubles none

    def _write_file(self, topic: str, span: Span, at_ms: int, records: list[Record]) -> None:
        rows, bad = tables.table(topic, records)
        self._pass_over(topic, bad)
        if topic == events.ACTIVITY and rows.num_rows:
            name = f"live-{span.log}-{span.partition}-{at_ms // HISTORY_MS}"
            self._deps.features.extend(USER_ACTIVITY, tables.history(rows), name)
        self._deps.files.write(topic, span, at_ms, rows)
        self.written += rows.num_rows

    def _pass_over(self, topic: str, bad: Iterable[tuple[Record, BadMessageError]]) -> None:
        """Count what can't be read; it is buried here, and safe before a file answers for it, unless
        another worker does that."""
        for record, error in bad:
            self.bad[topic, error.code] += 1
            if DEAD_LETTERED_BY.get(topic) == READER:
                self._dead_letters.dead_letter(record, error)
        self._dead_letters.flush()


def _by_hour(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    """(time of the first, ms; records) of each run of records of one hour, in order."""
    for _, run in groupby(records, key=lambda record: record.append_ms // HOUR_MS):
        together = list(run)
        yield together[0].append_ms, together
