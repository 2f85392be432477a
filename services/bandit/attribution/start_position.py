"""The start position of a partition: where counting continues after a restart, a rebalance or a loss.

It is the stored position; or the start of the log, if nothing is stored or a recount was decided; or the end
of the log, after a loss that an operator accepted. Until a loss is accepted, the partition is not counted.
"""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from experiments.lifecycle.state import Experiment
from services.bandit.attribution.data_loss import (
    Bounds,
    after_loss,
    changes_position,
    describe_missing_start,
    end_of_log,
    find_loss,
    missing_credits,
    rewinds,
    start_of_log,
)
from services.bandit.attribution.partition import CountedExperiments
from services.bandit.attribution.ranges import ranges
from services.control.recount import first_append_ms
from services.messages.events import EVENTS, EXPOSURES
from services.ports.event_log import EventConsumer
from services.ports.state import Positions, Sums, SumStore

logger = logging.getLogger(__name__)

FIRST_RECORD_S = 2.0  # longest wait for the first record of a log


@dataclass(frozen=True, slots=True)
class _Log:
    """A partition of both topics in its present extent."""

    index: int
    log_id: str
    bounds: Bounds


@dataclass(slots=True)
class PartitionRecovery:
    """Finds start positions. `states`: of all experiments, as of the last read of the log of decisions."""

    consumer: EventConsumer
    store: SumStore
    experiments: CountedExperiments
    states: Mapping[str, Experiment] = field(default_factory=dict)
    _to_log: dict[tuple[int, str], list[int]] = field(default_factory=lambda: defaultdict(list))

    def log_recovered(self) -> None:
        """Log one line for all partitions that were recovered in the same way since the last call."""
        for (level, outcome), indices in self._to_log.items():
            logger.log(level, "partitions %s are %s", ranges(indices), outcome)
        self._to_log.clear()

    def recover(self, index: int, log_id: str) -> Positions | None:
        """Find the start position of a partition and store it before anything is counted.

        Returns None if data was lost and the loss is not accepted; it is then reported. Moves the consumer.
        Raises UnavailableError, and StalePositionError if another worker stored a position meanwhile.
        """
        stored = self.store.positions([index]).get(index)
        bounds = {topic: self.consumer.bounds(topic, index) for topic in (EXPOSURES, EVENTS)}
        log = _Log(index, log_id, bounds)
        if stored is None:
            return self._without_sums(log)
        if self.store.loss_acknowledged(index, stored):
            to = after_loss(stored, log_id, bounds)
            logger.warning("partition %d continues at %s, not %s: the loss was accepted", index, to, stored)
            return self._begin(index, stored, to)
        # A reported loss remains one, even if the log has meanwhile grown past the gap.
        loss = self.store.losses().get(index) or find_loss(index, stored, log_id, bounds)
        if loss is None:
            return self._after_recounts(log, stored)
        if not self._running():
            logger.warning("partition %d: %s; no experiment is affected", index, loss)
            return self._begin(index, stored, after_loss(stored, log_id, bounds))
        self._report(index, loss)
        return None

    def _without_sums(self, log: _Log) -> Positions | None:
        """Start a partition without stored positions: it is new, or Redis lost its data.

        In both cases it is counted from the start of the log, if the log still holds everything that counts.
        """
        if self.store.loss_acknowledged(log.index, None):
            outcome = "counted from the end of their logs on, because the loss was accepted"
            self._to_log[logging.WARNING, outcome].append(log.index)
            return self._begin(log.index, None, end_of_log(log.log_id, log.bounds))
        if reason := self._unrecoverable(log):
            self._report(log.index, f"Redis lost the sums, and they can't be counted again: {reason}")
            return None
        self._to_log[logging.INFO, "counted from the beginning of their logs"].append(log.index)
        return self._begin(log.index, None, start_of_log(log.log_id, log.bounds))

    def _after_recounts(self, log: _Log, stored: Positions) -> Positions | None:
        """Return `stored`, or the start of a recount that this partition has not taken part in yet."""
        outdated = self.experiments.outdated(stored)
        if not outdated:
            return stored
        if all(self.experiments.recounts[name].from_ms for name in outdated):  # these count new units only
            return self._begin(log.index, stored, stored)
        if reason := self._unrecoverable(log):
            self._report(log.index, f"the log does not hold what is to be counted again: {reason}")
            return None
        self._to_log[logging.WARNING, "counted again from the beginning of their logs"].append(log.index)
        return self._begin(log.index, stored, start_of_log(log.log_id, log.bounds))

    def _begin(self, index: int, stored: Positions | None, to: Positions) -> Positions:
        """Store the start position; from then on a gap in the log is detected.

        Drops the sums that a recount makes obsolete, and all sums if counting rewinds. If it moves forward,
        the other sums are adjusted for the events that are skipped.
        """
        self._withdraw_report(index)
        generations = {name: recount.generation for name, recount in self.experiments.recounts.items()}
        begun = replace(to, counts=tuple(sorted(generations.items())))
        outdated = set(self.experiments.outdated(stored or begun))
        dropped = set(self.states) if rewinds(stored, begun) else outdated
        deltas = self._write_off(index, dropped) if changes_position(stored, begun) else {}
        self.store.apply(index, stored, begun, deltas, sorted(dropped))
        return begun

    def _withdraw_report(self, index: int) -> None:
        """Delete the report of a loss from which counting now continues.

        A report that stayed would hold experiments that lost nothing, and accepting it later would accept a
        loss at positions where there is none.
        """
        if (reported := self.store.losses().get(index)) is not None:
            self.store.withdraw_loss(index, reported)

    def _write_off(self, index: int, dropped: set[str]) -> dict[str, Sums]:
        """Return the write-off of the sums that stay. They are not read if all running experiments are
        dropped: a recount may be the remedy for sums that can't be read."""
        if dropped and all(state.name in dropped for state in self._running()):
            return {}
        sums = self.store.load(index)[1]
        return missing_credits({name: of for name, of in sums.items() if name not in dropped})

    def _report(self, index: int, loss: str) -> None:
        """Report a loss once; the decider holds every experiment until an operator accepts it."""
        if index in self.store.losses():
            return
        logger.error("partition %d: %s; accept the loss by `ringside experiment resume`", index, loss)
        self.store.report_loss(index, loss)

    def _running(self) -> list[Experiment]:
        return [state for state in self.states.values() if state.status != "ended"]

    def _unrecoverable(self, log: _Log) -> str:
        """Return why counting from the start of the log would not give the former sums; empty if it does."""
        running, index = self._running(), log.index
        prefix = f"partition {index}:"
        accepted = {loss for state in running for loss in state.acknowledged if loss.startswith(prefix)}
        if accepted:
            return f"{len(accepted)} losses of this partition were accepted since the experiment began"
        first_ms = {
            topic: self._first_append_ms(topic, index) if start else 0
            for topic, (start, _) in log.bounds.items()
        }
        since_ms = min((state.started_ms for state in running), default=None)
        return describe_missing_start(index, log.bounds, first_ms, since_ms)

    def _first_append_ms(self, topic: str, index: int) -> int | None:
        start = self.consumer.bounds(topic, index)[0]
        return first_append_ms(self.consumer, (topic, index), start, FIRST_RECORD_S)
