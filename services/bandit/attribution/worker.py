"""The bandit worker: reads exposures and events of its partitions and moves their sums on, exactly once in
effect.

Positions and sums live together in the store; nothing here must survive. A crash, a rebalance or a second
worker of the same partition ends in the same step: forget the partition, load what is stored, read again from
there.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.partition import Count, Fed, Partition
from services.bandit.attribution.ranges import ranges
from services.bandit.attribution.start_position import PartitionRecovery
from services.errors import DataLossError, StalePositionError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES, Exposure
from services.ports.event_log import EventConsumer, LogAdmin, Record
from services.ports.state import DecisionLog, SumStore

logger = logging.getLogger(__name__)

# Greatest age of the known decisions when records are counted: well below transitions.NOTICE_MS, so that a
# recount is known before anything that it affects is counted.
KNOWN_FOR_MS = 2_000

Batches = dict[tuple[str, int], list[Record]]


@dataclass(frozen=True, slots=True)
class Deps:
    """What the worker talks to."""

    consumer: EventConsumer
    admin: LogAdmin
    store: SumStore
    decisions: DecisionLog
    decoder: Decoder


@dataclass(frozen=True, slots=True)
class Pace:
    """`safety_ms`: margin of the watermark; `settle_ms`: between two batches; `max_records`: of one poll."""

    safety_ms: int = 2_000
    settle_ms: int = 1_000
    max_records: int = 5_000


class Worker:
    """One step at a time. `owned`: partitions that are ours now; `clock`: ms since the epoch.

    A step that raises UnavailableError, or StalePositionError (another worker began a partition just now),
    lost nothing: call it again, later.
    """

    def __init__(
        self, deps: Deps, owned: Callable[[], frozenset[int]], clock: Callable[[], int], pace: Pace = Pace()
    ):
        self._deps, self._owned, self._clock, self._pace = deps, owned, clock, pace
        self.partitions: dict[int, Partition] = {}
        self.lost: frozenset[int] = frozenset()  # ours, but not counted until their loss is accepted
        self.records_read = 0
        self._count = Count()
        self._beginning = PartitionRecovery(deps.consumer, deps.store, self._count)
        self._known_ms = 0  # when `decisions` was read last
        self._held: list[Record] = []  # read, but not fed yet
        self._log_id = ""
        self._settled_ms = 0
        self._forgotten: frozenset[int] = frozenset()  # by Redis, not yet counted again
        self._look_again = False  # at partitions with data loss: a person may have accepted it

    @property
    def left_out(self) -> Counter[str]:
        """Records that count nowhere, by why; see experiments.counting.audit."""
        return self._count.left_out

    def step(self, timeout_s: float) -> int:
        """Read what is new, and settle when it is time; the number of records read."""
        self._own()
        try:
            self._held = self._held or self._deps.consumer.poll(timeout_s, self._pace.max_records)
        except DataLossError as error:
            logger.error("%s", error)
            self._drop(self.partitions)
        read = len(self._held)
        self._feed()
        if self._clock() - self._settled_ms >= self._pace.settle_ms:
            self.settle()
        return read

    def settle(self) -> None:
        """Store what is final, in every partition, and ask where the logs end now.

        The identity of the log is checked first: what was read before the check came from the log it names.
        """
        self._settled_ms = self._clock()
        log_id = self._deps.admin.log_id()
        self._drop([index for index, partition in self.partitions.items() if partition.log_id != log_id])
        self._deps.decoder.flush_dead_letters()
        self._notice_an_emptied_store()
        failed: UnavailableError | None = None
        for partition in list(self.partitions.values()):
            try:
                self._settle(partition)
            except UnavailableError as error:  # perhaps its sums alone: it keeps no other one waiting
                failed = error
        self._mark()
        self._say_restored()
        self._look_again = True
        if failed is not None:
            raise failed

    def _notice_an_emptied_store(self) -> None:
        """A partition whose positions are gone is begun anew, also while nothing comes that would tell."""
        gone = self.partitions.keys() - self._deps.store.positions(sorted(self.partitions)).keys()
        if gone:
            logger.error("Redis forgot the sums of partitions %s", ranges(gone))
            self._forgotten |= gone
            self._drop(gone)

    def _say_restored(self) -> None:
        """Once, when what Redis forgot is counted again as far as it can be."""
        again = self._forgotten - self.lost
        if all(index in self.partitions and not self.partitions[index].lag for index in again):
            self._forgotten = frozenset()
            if again:
                logger.info("partitions %s are counted to the ends of their logs again", ranges(again))

    # ---- partitions that are ours --------------------------------------------------------------------------

    def _own(self) -> None:
        owned = self._owned()
        self._drop([index for index in self.partitions if index not in owned])
        self.lost &= owned
        self._forgotten &= owned
        missing = owned - self.partitions.keys()
        if missing - self.lost or (missing and self._look_again):
            self._load(sorted(missing))
        self._look_again = False

    def _load(self, indices: list[int]) -> None:
        self._log_id = self._deps.admin.log_id()
        self._catch_up()
        wanted = {
            pair: at for pair, at in self._deps.consumer.positions().items() if pair[1] in self.partitions
        }
        loaded = {}
        try:
            for index in indices:
                stored = self._beginning.find(index, self._log_id)
                if stored is None:
                    self.lost |= {index}
                    continue
                self.lost -= {index}
                loaded[index] = Partition(index, stored, self._count, self._pace.safety_ms)
                wanted |= loaded[index].wanted
        finally:
            self._beginning.tell()
            self._deps.consumer.assign(wanted)  # also what is loaded already, if another one failed
        self.partitions |= loaded

    def _drop(self, indices: Iterable[int]) -> None:
        for index in list(indices):
            del self.partitions[index]
        self._held = [record for record in self._held if record.partition in self.partitions]

    # ---- reading -------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """All of what was read; or nothing of it, if `decisions` must be looked up first and can't be."""
        if self._clock() - self._known_ms > KNOWN_FOR_MS:
            self._catch_up()
        read: Batches = defaultdict(list)
        for record in self._held:
            if record.partition in self.partitions:
                read[record.topic, record.partition].append(record)
        fed = {pair: self._decode(pair[1], records) for pair, records in read.items()}
        if _experiments(fed) - self._count.rules.keys():
            self._catch_up()
        for (topic, index), position in self._deps.consumer.positions().items():
            if index in self.partitions:
                self.partitions[index].feed(topic, fed.get((topic, index), []), position)
        self.records_read += len(self._held)
        self._held = []

    def _decode(self, index: int, records: list[Record]) -> list[Fed]:
        return self._deps.decoder.decode(records, self.partitions[index].is_counted)

    def _catch_up(self) -> None:
        began_ms = self._clock()
        states = self._beginning.states = self._deps.decisions.catch_up()
        self._known_ms = began_ms
        for name, state in states.items():
            self._count.rules[name] = state.rules  # the joins read this very mapping
            if state.counting.generation:
                self._count.again[name] = state.counting
        self._drop([i for i, partition in self.partitions.items() if self._count.behind(partition.stored)])

    # ---- storing -------------------------------------------------------------------------------------------

    def _settle(self, partition: Partition) -> None:
        now_ms = self._clock()
        try:
            partition.settle(self._deps.store, now_ms)
        except StalePositionError as error:
            logger.warning("%s; reading again from what is stored", error)
            self._drop([partition.index])
            return
        self._deps.store.set_watermark(partition.index, partition.watermark(now_ms), partition.lag)

    def _mark(self) -> None:
        """Ask, for all partitions at once, where the logs end now."""
        wanted = {
            (topic, index): reach
            for index, partition in self.partitions.items()
            for topic, reach in partition.reach.items()
            if reach.wants_mark
        }
        asked_ms = self._clock()
        for pair, end in self._deps.consumer.end_offsets(wanted).items():
            wanted[pair].mark(asked_ms, end)


def _experiments(fed: Mapping[tuple[str, int], list[Fed]]) -> set[str]:
    """Experiments of which units or outcomes were read."""
    units = {
        m.experiment for pair, read in fed.items() if pair[0] == EXPOSURES for _, _, m in read if _is_unit(m)
    }
    outcomes = {
        m.attribution.experiment
        for pair, read in fed.items()
        if pair[0] == EVENTS
        for _, _, m in read
        if m.attribution
    }
    return units | outcomes


def _is_unit(exposure: Exposure) -> bool:
    return exposure.first and exposure.excluded is None
