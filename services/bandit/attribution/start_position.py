"""Where the counting of a partition begins: at what is stored, at the start or the end of the log, or nowhere
until a person accepts what was lost."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.lifecycle.fold import Experiment
from services.bandit.attribution.data_loss import (
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
from services.bandit.attribution.partition import Count
from services.bandit.attribution.ranges import ranges
from services.control.recount import first_append_ms
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer
from services.ports.state import Positions, Sums, SumStore

logger = logging.getLogger(__name__)

FIRST_RECORD_S = 2.0  # longest wait for the first record of a log


@dataclass(frozen=True, slots=True)
class _Log:
    """A partition of both topics as the broker holds it now."""

    index: int
    log_id: str
    bounds: Bounds


@dataclass(slots=True)
class PartitionRecovery:
    """`states`: of all experiments, as `decisions` were read last; `count`: what follows from them."""

    consumer: EventConsumer
    store: SumStore
    count: Count
    states: Mapping[str, Experiment] = field(default_factory=dict)
    _untold: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def tell(self) -> None:
        """A line for all partitions that began alike since the last call, not one for each."""
        for (level, how), indices in self._untold.items():
            logger.log(level, "partitions %s are %s", ranges(indices), how)
        self._untold.clear()

    def find(self, index: int, log_id: str) -> Positions | None:
        """Positions to count from, stored before anything is counted; None if data was lost and nobody has
        accepted it yet. Moves the consumer; `tell` says it. Raises UnavailableError, StalePositionError."""
        stored = self.store.positions([index]).get(index)
        bounds = {topic: self.consumer.bounds(topic, index) for topic in (EXPOSURES, EVENTS)}
        log = _Log(index, log_id, bounds)
        if stored is None:
            return self._anew(log)
        if self.store.loss_acknowledged(index, stored):
            again = after_loss(stored, log_id, bounds)
            logger.warning("partition %d goes on at %s instead of %s, as was accepted", index, again, stored)
            return self._begin(index, stored, again)
        # What was reported stands, whatever the log looks like by now: it may have grown past the gap.
        loss = self.store.losses().get(index) or loss_at(index, stored, log_id, bounds)
        if loss is None:
            return self._after_recounts(log, stored)
        if not self._living():
            logger.warning("partition %d: %s; nothing is counted of it", index, loss)
            return self._begin(index, stored, after_loss(stored, log_id, bounds))
        self._report(index, loss)
        return None

    def _anew(self, log: _Log) -> Positions | None:
        """Nothing is stored: a new partition, or Redis lost its data. Either is counted from the beginning of
        the log, if that holds all that counts."""
        if self.store.loss_acknowledged(log.index, None):
            how = "counted from the end of their logs on, as was accepted"
            self._untold[logging.WARNING, how].append(log.index)
            return self._begin(log.index, None, at_end(log.log_id, log.bounds))
        if gone := self._out_of_reach(log):
            self._report(log.index, f"Redis forgot the sums, and they can't be counted again: {gone}")
            return None
        self._untold[logging.INFO, "counted from the beginning of their logs"].append(log.index)
        return self._begin(log.index, None, at_start(log.log_id, log.bounds))

    def _after_recounts(self, log: _Log, stored: Positions) -> Positions | None:
        """`stored`, or where counting starts if a recount was decided that this partition has not seen."""
        behind = self.count.behind(stored)
        if not behind:
            return stored
        if all(self.count.again[name].from_ms for name in behind):
            return self._begin(log.index, stored, stored)
        if gone := self._out_of_reach(log):
            self._report(log.index, f"the log does not hold what is to be counted again: {gone}")
            return None
        self._untold[logging.WARNING, "counted again from the beginning of their logs"].append(log.index)
        return self._begin(log.index, stored, at_start(log.log_id, log.bounds))

    def _begin(self, index: int, stored: Positions | None, again: Positions) -> Positions:
        """Store where counting begins: from then on a gap is seen. Drops the sums that a recount makes
        obsolete; all of them where counting goes back. Others are written off where counting leaps."""
        self._withdraw_report(index)
        generations = {name: counting.generation for name, counting in self.count.again.items()}
        began = replace(again, counts=tuple(sorted(generations.items())))
        behind = set(self.count.behind(stored or began))
        forget = set(self.states) if goes_back(stored, began) else behind
        off = self._written_off(index, forget) if leaps(stored, began) else {}
        self.store.apply(index, stored, began, off, sorted(forget))
        return began

    def _withdraw_report(self, index: int) -> None:
        """No report outlives the moment from which counting goes on: it would hold experiments that lost
        nothing, and who accepted it then would accept a loss at positions where there was none."""
        if (told := self.store.losses().get(index)) is not None:
            self.store.withdraw_loss(index, told)

    def _written_off(self, index: int, forget: set[str]) -> dict[str, Sums]:
        """Of the sums that stay. They are not read if no living experiment has any: what is dropped may be
        what can't be read."""
        if forget and all(state.name in forget for state in self._living()):
            return {}
        sums = self.store.load(index)[1]
        return written_off({name: of for name, of in sums.items() if name not in forget})

    def _report(self, index: int, loss: str) -> None:
        """A loss, once: the decider holds every experiment until a person accepts it."""
        if index in self.store.losses():
            return
        logger.error("partition %d: %s; `ringside experiment resume` accepts the loss", index, loss)
        self.store.report_loss(index, loss)

    def _living(self) -> list[Experiment]:
        return [state for state in self.states.values() if state.status != "ended"]

    def _out_of_reach(self, log: _Log) -> str:
        """Why a recount would not give the sums that were; empty if it does."""
        living, index = self._living(), log.index
        accepted = {c for state in living for c in state.acknowledged if c.startswith(f"partition {index}:")}
        if accepted:
            return f"{len(accepted)} losses of this partition were accepted since the experiment began"
        cut = {topic: start > 0 for topic, (start, _) in log.bounds.items()}
        first_ms = {topic: self._first_ms(topic, index) if cut[topic] else 0 for topic in log.bounds}
        since_ms = min((state.started_ms for state in living), default=None)
        return forgotten(index, log.bounds, first_ms, since_ms)

    def _first_ms(self, topic: str, index: int) -> int | None:
        """Append time of the first record there is."""
        start = self.consumer.bounds(topic, index)[0]
        return first_append_ms(self.consumer, (topic, index), start, FIRST_RECORD_S)
