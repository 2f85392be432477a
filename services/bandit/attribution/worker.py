"""The attribution worker: a partitioned, restartable stream join of `exposures` and `events` into sums.

Partitions: both topics are keyed by the routing key, so partition p of one only joins with partition p of the
other. Each partition is counted on its own (`Partition`).

Positions: the store keeps, for each partition, the sums and the log offsets up to which they are counted.
Both change in one atomic write, which succeeds only if the stored positions are those that the worker read
(compare and set). The consumer group commits nothing, and nothing in this process needs to survive. So after
a crash, a rebalance, or a second worker on the same partition, the recovery is always the same: drop the
partition, load its stored positions, and read again from there. This gives the effect of exactly once.

Watermark: the time up to which both topics have been read completely (`ReadProgress`). A unit matures when
the watermark has passed its attribution window and the allowed lateness; from then on its outcome is a
function of the log and can be committed (`experiments.counting.attribution_join`).

One step:
1. Update the assignment: drop partitions that are owned no longer, load new ones. A partition of which
   uncounted records are gone is not counted until an operator accepts the loss (`PartitionRecovery`).
2. Poll records, decode them, and feed them to their partitions. The log of decisions is read before, so that
   an experiment's rules are known before its first record.
3. Every `Pace.commit_ms`, commit: check that the log is still the same one, wait for the dead letters, write
   the final sums of each partition, and ask for the end offsets, which move the next watermark.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from experiments.counting.attribution_join import FedRecord
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.partition import CountedExperiments, Partition
from services.bandit.attribution.ranges import ranges
from services.bandit.attribution.start_position import PartitionRecovery
from services.errors import DataLossError, StalePositionError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer, LogAdmin, Record
from services.ports.state import DecisionLog, SumStore

logger = logging.getLogger(__name__)

# Maximum age of the decisions when records are fed. It is well below transitions.NOTICE_MS, so that a recount
# is known before anything that it affects is counted.
DECISIONS_MAX_AGE_MS = 2_000

FedByPair = Mapping[tuple[str, int], list[FedRecord]]  # by (topic, partition)


@dataclass(frozen=True, slots=True)
class Deps:
    """What the worker is composed of."""

    consumer: EventConsumer
    admin: LogAdmin
    store: SumStore
    decisions: DecisionLog
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class Pace:
    """`safety_ms`: margin of the watermark; `commit_ms`: between two commits; `max_records`: of one poll."""

    safety_ms: int = 2_000
    commit_ms: int = 1_000
    max_records: int = 5_000


class Worker:
    """Counts the partitions that `owned` returns, one step at a time. `clock`: ms since the epoch.

    A step that raises UnavailableError, or StalePositionError (another worker has just begun a partition),
    has lost nothing: call it again later.
    """

    def __init__(
        self, deps: Deps, owned: Callable[[], frozenset[int]], clock: Callable[[], int], pace: Pace = Pace()
    ):
        self._deps, self._owned, self._clock, self._pace = deps, owned, clock, pace
        self.partitions: dict[int, Partition] = {}
        self.lost: frozenset[int] = frozenset()  # owned, not counted until their data loss is accepted
        self.records_read = 0
        self._experiments = CountedExperiments()
        self._recovery = PartitionRecovery(deps.consumer, deps.store, self._experiments)
        self._decisions_read_ms = 0
        self._unfed: list[Record] = []
        self._log_id = ""
        self._committed_ms = 0
        self._recounting: frozenset[int] = frozenset()  # lost by Redis, and not yet counted again
        self._recheck_lost = False  # an operator may have accepted a loss since the last check

    @property
    def left_out(self) -> Counter[str]:
        """Readable records that count nowhere, by reason; see experiments.counting.audit."""
        return self._experiments.left_out

    def step(self, timeout_s: float) -> int:
        """Read for up to `timeout_s`, and commit if it is time; return the number of records read."""
        self._update_assignment()
        try:
            self._unfed = self._unfed or self._deps.consumer.poll(timeout_s, self._pace.max_records)
        except DataLossError as error:
            logger.error("%s", error)
            self._drop(self.partitions)
        read = len(self._unfed)
        self._feed()
        if self._clock() - self._committed_ms >= self._pace.commit_ms:
            self.commit()
        return read

    def commit(self) -> None:
        """Store the final sums of every partition, then ask for the end offsets of their logs.

        The identity of the log is checked first, so that everything read before belongs to that log.
        """
        self._committed_ms = self._clock()
        log_id = self._deps.admin.log_id()
        self._drop([index for index, partition in self.partitions.items() if partition.log_id != log_id])
        self._deps.decoder.flush_dead_letters()
        self._drop_lost_sums()
        failed: UnavailableError | None = None
        for partition in list(self.partitions.values()):
            try:
                self._commit(partition)
            except UnavailableError as error:  # perhaps only these sums are unreadable: commit the others
                failed = error
        self._note_log_ends()
        self._log_recounted()
        self._recheck_lost = True
        if failed is not None:
            raise failed

    def _commit(self, partition: Partition) -> None:
        now_ms = self._clock()
        try:
            partition.commit(self._deps.store, now_ms)
        except StalePositionError as error:
            logger.warning("%s; reading again from the stored positions", error)
            self._drop([partition.index])
            return
        self._deps.store.set_watermark(partition.index, partition.watermark(now_ms), partition.lag)

    def _note_log_ends(self) -> None:
        """Ask for the end offsets of all partitions that need them, in one round trip."""
        waiting = {
            (topic, index): progress
            for index, partition in self.partitions.items()
            for topic, progress in partition.progress.items()
            if progress.needs_end
        }
        queried_ms = self._clock()
        for pair, end in self._deps.consumer.end_offsets(waiting).items():
            waiting[pair].note_end(queried_ms, end)

    def _drop_lost_sums(self) -> None:
        """Drop partitions whose positions are gone from Redis; without traffic, no commit would notice."""
        gone = self.partitions.keys() - self._deps.store.positions(sorted(self.partitions)).keys()
        if gone:
            logger.error("Redis lost the sums of partitions %s", ranges(gone))
            self._recounting |= gone
            self._drop(gone)

    def _log_recounted(self) -> None:
        """Log once when the sums that Redis lost are counted again as far as possible."""
        recounted = self._recounting - self.lost
        if all(index in self.partitions and not self.partitions[index].lag for index in recounted):
            self._recounting = frozenset()
            if recounted:
                logger.info("partitions %s are counted to the ends of their logs again", ranges(recounted))

    # ---- assignment ----------------------------------------------------------------------------------------

    def _update_assignment(self) -> None:
        owned = self._owned()
        self._drop([index for index in self.partitions if index not in owned])
        self.lost &= owned
        self._recounting &= owned
        missing = owned - self.partitions.keys()
        if missing - self.lost or (missing and self._recheck_lost):
            self._load(sorted(missing))
        self._recheck_lost = False

    def _load(self, indices: list[int]) -> None:
        """Load partitions from their stored positions; remember in `lost` those that can't be counted."""
        self._log_id = self._deps.admin.log_id()
        self._catch_up_with_decisions()
        assigned = {
            pair: at for pair, at in self._deps.consumer.positions().items() if pair[1] in self.partitions
        }
        loaded = {}
        try:
            for index in indices:
                stored = self._recovery.recover(index, self._log_id)
                if stored is None:
                    self.lost |= {index}
                    continue
                self.lost -= {index}
                loaded[index] = Partition(index, stored, self._experiments, self._pace.safety_ms)
                assigned |= loaded[index].start
        finally:
            self._recovery.log_recovered()
            self._deps.consumer.assign(assigned)  # also after a failure: recovery has moved the consumer
        self.partitions |= loaded

    def _drop(self, indices: Iterable[int]) -> None:
        for index in list(indices):
            del self.partitions[index]
        self._unfed = [record for record in self._unfed if record.partition in self.partitions]

    # ---- feeding -------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Feed all records that were polled, or none if the decisions must be read first and can't be."""
        if self._clock() - self._decisions_read_ms > DECISIONS_MAX_AGE_MS:
            self._catch_up_with_decisions()
        fed = self._decode()
        if set(_experiments(fed)) - self._experiments.rules.keys():
            self._catch_up_with_decisions()
        for (topic, index), position in self._deps.consumer.positions().items():
            if index in self.partitions:
                self.partitions[index].feed(topic, fed.get((topic, index), []), position)
        self.records_read += len(self._unfed)
        self._unfed = []

    def _decode(self) -> FedByPair:
        records: dict[tuple[str, int], list[Record]] = defaultdict(list)
        for record in self._unfed:
            if record.partition in self.partitions:
                records[record.topic, record.partition].append(record)
        decode = self._deps.decoder.decode
        return {pair: decode(of, self.partitions[pair[1]].is_counted) for pair, of in records.items()}

    def _catch_up_with_decisions(self) -> None:
        """Read the log of decisions; drop partitions whose sums a recount has made obsolete."""
        queried_ms = self._clock()
        states = self._recovery.states = self._deps.decisions.catch_up()
        self._decisions_read_ms = queried_ms
        self._experiments.update(states)
        outdated = self._experiments.outdated
        self._drop([index for index, partition in self.partitions.items() if outdated(partition.stored)])


def _experiments(fed: FedByPair) -> Iterator[str]:
    """Yield the experiments of all units and attributed events."""
    for (topic, _), records in fed.items():
        for _, _, message in records:
            if topic == EXPOSURES and message.first and message.excluded is None:
                yield message.experiment
            elif topic == EVENTS and message.attribution:
                yield message.attribution.experiment
