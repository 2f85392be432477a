"""The bandit worker: reads exposures and events of its partitions and moves their sums on, exactly once in
effect.

Positions and sums live together in the store; nothing here must survive. A crash, a rebalance or a second
worker of the same partition ends in the same step: forget the partition, load what is stored, read again from
there.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from experiments.experiment import Experiment
from services.bandit.counting import Count, Fed, Partition
from services.bandit.decoding import Decoder
from services.bandit.losses import (
    Bounds,
    after_loss,
    at_end,
    at_start,
    forgotten,
    goes_back,
    leaps,
    loss_at,
    written_off,
)
from services.errors import DataLossError, StalePositionError
from services.events import EVENTS, EXPOSURES, Exposure
from services.ports import DecisionLog, EventConsumer, LogAdmin, Positions, Record, TallyStore

logger = logging.getLogger(__name__)

FIRST_RECORD_S = 2.0  # longest wait for the first record of a log
# Age of what is known of `decisions` when records are fed: well below experiments.transitions.NOTICE_MS, so
# that a recount is known before anything is counted that it is about.
KNOWN_FOR_MS = 2_000

Batches = dict[tuple[str, int], list[Record]]


@dataclass(frozen=True, slots=True)
class Ports:
    """What the worker talks to."""

    consumer: EventConsumer
    admin: LogAdmin
    store: TallyStore
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
        self, ports: Ports, owned: Callable[[], frozenset[int]], clock: Callable[[], int], pace: Pace = Pace()
    ):
        self._ports, self._owned, self._clock, self._pace = ports, owned, clock, pace
        self.partitions: dict[int, Partition] = {}
        self.lost: frozenset[int] = frozenset()  # ours, but not counted until their loss is accepted
        self.records_read = 0
        self._count = Count()
        self._known_ms = 0  # when `decisions` was read last
        self._states: Mapping[str, Experiment] = {}
        self._held: list[Record] = []  # read, but not fed yet
        self._log_id = ""
        self._settled_ms = 0
        self._look_again = False  # at partitions with data loss: a person may have accepted it

    @property
    def left_out(self) -> Counter[str]:
        """Records that count nowhere, by why; see experiments.account."""
        return self._count.left_out

    def step(self, timeout_s: float) -> int:
        """Read what is new, and settle when it is time; the number of records read."""
        self._own()
        try:
            self._held = self._held or self._ports.consumer.poll(timeout_s, self._pace.max_records)
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
        log_id = self._ports.admin.log_id()
        self._drop([index for index, partition in self.partitions.items() if partition.log_id != log_id])
        self._ports.decoder.acknowledged()
        self._notice_an_emptied_store()
        for partition in list(self.partitions.values()):
            self._settle(partition)
        self._mark()
        self._look_again = True

    def _notice_an_emptied_store(self) -> None:
        """A partition whose positions are gone is begun anew, also while nothing comes that would tell."""
        gone = self.partitions.keys() - self._ports.store.standing(sorted(self.partitions)).keys()
        if gone:
            logger.error("Redis forgot the sums of partitions %s", sorted(gone))
            self._drop(gone)

    # ---- partitions that are ours --------------------------------------------------------------------------

    def _own(self) -> None:
        owned = self._owned()
        self._drop([index for index in self.partitions if index not in owned])
        self.lost &= owned
        missing = owned - self.partitions.keys()
        if missing - self.lost or (missing and self._look_again):
            self._load(sorted(missing))
        self._look_again = False

    def _load(self, indices: list[int]) -> None:
        self._log_id = self._ports.admin.log_id()
        self._catch_up()
        wanted = {
            pair: at for pair, at in self._ports.consumer.positions().items() if pair[1] in self.partitions
        }
        loaded = {}
        try:
            for index in indices:
                stored = self._stored(index)
                if stored is None:
                    self.lost |= {index}
                    continue
                self.lost -= {index}
                loaded[index] = Partition(index, stored, self._count, self._pace.safety_ms)
                wanted |= loaded[index].wanted
        finally:
            self._ports.consumer.assign(wanted)  # also what is loaded already, if another one failed
        self.partitions |= loaded

    def _stored(self, index: int) -> Positions | None:
        """Where to count from; None if data was lost and nobody has accepted it yet."""
        store = self._ports.store
        stored = store.standing([index]).get(index)
        bounds = {topic: self._ports.consumer.bounds(topic, index) for topic in (EXPOSURES, EVENTS)}
        if stored is None:
            return self._anew(index, bounds)
        if store.loss_acknowledged(index, stored):
            anew = after_loss(stored, self._log_id, bounds)
            logger.warning("partition %d goes on at %s instead of %s, as was accepted", index, anew, stored)
            return self._begin(index, stored, anew)
        # What was reported stands, whatever the log looks like by now: it may have grown past the gap.
        loss = store.losses().get(index) or loss_at(index, stored, self._log_id, bounds)
        if loss is None:
            return self._counted_anew(index, stored, bounds)
        if not self._living():
            logger.warning("partition %d: %s; nothing is counted of it", index, loss)
            return self._begin(index, stored, after_loss(stored, self._log_id, bounds))
        self._report(index, loss)
        return None

    def _counted_anew(self, index: int, stored: Positions, bounds: Bounds) -> Positions | None:
        """`stored`, or where counting starts if a recount was decided that this partition has not seen."""
        behind = self._recounts(stored)
        if not behind:
            return stored
        if all(self._count.anew[name].from_ms for name in behind):
            return self._begin(index, stored, stored)
        if gone := self._out_of_reach(index, bounds):
            self._report(index, f"the log does not hold what is to be counted again: {gone}")
            return None
        logger.warning("partition %d is counted again from the beginning of its log", index)
        return self._begin(index, stored, at_start(self._log_id, bounds))

    def _recounts(self, stored: Positions) -> list[str]:
        """Experiments whose sums are of an older count than the one in force."""
        return [name for name, anew in self._count.anew.items() if stored.generation(name) < anew.generation]

    def _living(self) -> list[Experiment]:
        return [state for state in self._states.values() if state.status != "ended"]

    def _report(self, index: int, loss: str) -> None:
        """A loss, once: the decider holds every experiment until a person accepts it."""
        if index in self._ports.store.losses():
            return
        logger.error("partition %d: %s; `ringside experiment resume` accepts the loss", index, loss)
        self._ports.store.report_loss(index, loss)

    def _anew(self, index: int, bounds: Bounds) -> Positions | None:
        """Nothing is stored: a new partition, or Redis lost its data. Either is counted from the beginning of
        the log, if that holds all that counts."""
        store = self._ports.store
        if store.loss_acknowledged(index, None):
            logger.warning("partition %d: counted from the end of the log on, as was accepted", index)
            return self._begin(index, None, at_end(self._log_id, bounds))
        gone = self._out_of_reach(index, bounds)
        if not gone:
            logger.info("partition %d is counted from the beginning of its log", index)
            return self._begin(index, None, at_start(self._log_id, bounds))
        self._report(index, f"Redis forgot the sums, and they can't be counted again: {gone}")
        return None

    def _out_of_reach(self, index: int, bounds: Bounds) -> str:
        """Why a recount would not give the sums that were; empty if it does."""
        living = self._living()
        accepted = {c for state in living for c in state.acknowledged if c.startswith(f"partition {index}:")}
        if accepted:
            return f"{len(accepted)} losses of this partition were accepted since the experiment began"
        first_ms = {topic: self._first_ms(topic, index) if bounds[topic][0] else 0 for topic in bounds}
        since_ms = min((state.started_ms for state in living), default=None)
        return forgotten(index, bounds, first_ms, since_ms)

    def _first_ms(self, topic: str, index: int) -> int | None:
        """Append time of the first record there is. Moves the consumer: `_load` puts it back."""
        consumer = self._ports.consumer
        consumer.assign({(topic, index): consumer.bounds(topic, index)[0]})
        records = consumer.poll(FIRST_RECORD_S, 1)
        return records[0].append_ms if records else None

    def _begin(self, index: int, stored: Positions | None, anew: Positions) -> Positions:
        """Store where counting begins, before anything is counted: from then on a gap is seen. Drops the sums
        that a recount makes obsolete; all of them where counting goes back."""
        began = replace(anew, counts=tuple(sorted(self._generations().items())))
        sums = {} if stored is None else self._ports.store.load(index)[1]
        forget = sums.keys() if goes_back(stored, began) else set(self._recounts(stored or began))
        if forget:
            self._ports.store.apply(index, stored, began, {}, sorted(forget))
        else:
            self._ports.store.apply(index, stored, began, written_off(sums) if leaps(stored, began) else {})
        return began

    def _generations(self) -> dict[str, int]:
        return {name: anew.generation for name, anew in self._count.anew.items()}

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
        for (topic, index), position in self._ports.consumer.positions().items():
            if index in self.partitions:
                self.partitions[index].feed(topic, fed.get((topic, index), []), position)
        self.records_read += len(self._held)
        self._held = []

    def _decode(self, index: int, records: list[Record]) -> list[Fed]:
        return self._ports.decoder.decode(records, self.partitions[index].is_counted)

    def _catch_up(self) -> None:
        began_ms = self._clock()
        self._states = self._ports.decisions.catch_up()
        self._known_ms = began_ms
        for name, state in self._states.items():
            self._count.rules[name] = state.rules  # the joins read this very mapping
            if state.counting.generation:
                self._count.anew[name] = state.counting
        self._drop([i for i, partition in self.partitions.items() if self._recounts(partition.stored)])

    # ---- storing -------------------------------------------------------------------------------------------

    def _settle(self, partition: Partition) -> None:
        now_ms = self._clock()
        try:
            partition.settle(self._ports.store, now_ms)
        except StalePositionError as error:
            logger.warning("%s; reading again from what is stored", error)
            self._drop([partition.index])
            return
        self._ports.store.set_watermark(partition.index, partition.watermark(now_ms), partition.lag)

    def _mark(self) -> None:
        """Ask, for all partitions at once, where the logs end now."""
        wanted = {
            (topic, index): reach
            for index, partition in self.partitions.items()
            for topic, reach in partition.reach.items()
            if reach.wants_mark
        }
        asked_ms = self._clock()
        for pair, end in self._ports.consumer.ends(wanted).items():
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
