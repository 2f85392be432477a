"""Recovery of pins that Redis lost, from the exposures that created them.

The exposure that creates a pin has `first` set and is a unit. A unit whose pin is lost would be assigned
again and counted twice, in sums whose tests take units as independent, and perhaps under two arms. So
`/recommend` excludes all units while the pins of an experiment are not marked as complete (the champion
answers, which affects all arms alike). Meanwhile this recovery reads the last day of exposures of its
partitions again, restores every pin that has not expired, and marks pins as complete once all partitions are
done. It misses only an exposure that reached the log more than `safety_ms` after the loss was noticed and
after the log had been read to its end.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from experiments.allocation.assignment import DAY_MS, unit_lifetime_ms
from experiments.lifecycle.state import Experiment
from services.bandit.attribution.ranges import ranges
from services.errors import BadMessageError, DataLossError, UnavailableError
from services.messages import events
from services.messages.events import EXPOSURES, Exposure
from services.ports.event_log import EventConsumer, Record
from services.ports.pins import Pin, PinStore
from services.ports.state import DecisionLog

logger = logging.getLogger(__name__)

MAX_RECORDS = 5_000  # of a step, because counting waits for it
SKEW_MS = 3_600_000  # more than the clocks of broker and worker ever differ


@dataclass(slots=True)
class PinRecovery:
    """Restores pins, one step at a time, between the steps of counting.

    owned: partitions of this worker. partitions: number of all. clock: ms since the epoch. After a step that
    raises UnavailableError, call it again later.
    """

    store: PinStore
    consumer: EventConsumer
    decisions: DecisionLog
    owned: Callable[[], frozenset[int]]
    partitions: int
    clock: Callable[[], int]
    safety_ms: int = 2_000
    restoring: dict[int, int] = field(default_factory=dict)  # partition -> when its loss was noticed, ms
    restored_pins: int = 0  # of the last loss
    _restored: set[int] = field(default_factory=set)  # partitions, since then
    _complete: bool = True  # as of the last step

    def step(self) -> bool:
        """Check for lost pins, and read on if there are any; return whether all pins are complete."""
        restored = self.store.restored_partitions()
        missing = self.owned() - restored
        if missing - self.restoring.keys():
            self._begin(missing)
        self.restoring = {index: at_ms for index, at_ms in self.restoring.items() if index in missing}
        if self.restoring:
            self._read()
            return False
        if len(restored) < self.partitions:
            return False
        complete = self.store.mark_complete(self._running(), self.partitions)
        if complete and not self._complete:
            logger.info("all pins are complete: units are counted again")
        self._complete = complete
        return complete

    def _begin(self, missing: frozenset[int]) -> None:
        now_ms = self.clock()
        if self._complete:
            self._complete, self.restored_pins = False, 0
        self.store.begin_restore(missing)
        oldest_ms = now_ms - DAY_MS - SKEW_MS  # no pin lives longer than a day
        pairs = [(EXPOSURES, index) for index in missing]
        self.consumer.assign(self.consumer.offsets_since(pairs, oldest_ms))
        self.restoring = {index: self.restoring.get(index, now_ms) for index in missing}

    def _read(self) -> None:
        queried_ms = self.clock()
        try:
            ends = self.consumer.end_offsets([(EXPOSURES, index) for index in self.restoring])
        except UnavailableError:  # records queued during the outage get the margin once the broker is back
            self.restoring = dict.fromkeys(self.restoring, queried_ms)
            raise
        before = self.consumer.positions()
        try:
            self._restore(self.consumer.poll(0.0, MAX_RECORDS))
        except DataLossError as error:
            logger.warning("exposures were deleted while pins were restored: %s", error)
            self.restoring = {}
            return
        except UnavailableError:
            self.consumer.assign(before)  # so that the same records are read again
            raise
        positions = self.consumer.positions()
        for index, noticed_ms in list(self.restoring.items()):
            pair = (EXPOSURES, index)
            if queried_ms >= noticed_ms + self.safety_ms and positions.get(pair, -1) >= ends[pair]:
                self._finish(index)

    def _restore(self, records: Iterable[Record]) -> None:
        pins = pins_of(records, self._running(), self.clock())
        self.store.restore(pins)
        self.restored_pins += len(pins)

    def _finish(self, index: int) -> None:
        """Mark a partition as restored. It is read until the others are done too, which does no harm."""
        if self.store.mark_restored(index):
            self._restored.add(index)
        else:
            logger.warning("Redis lost the pins of partition %d again while they were restored", index)
        del self.restoring[index]
        if not self.restoring and self._restored:
            restored, count = ranges(self._restored), self.restored_pins
            logger.info("pins of partitions %s are complete; %d were restored", restored, count)
            self._restored = set()

    def _running(self) -> Mapping[str, Experiment]:
        return {name: state for name, state in self.decisions.catch_up().items() if state.status != "ended"}


def pins_of(
    records: Iterable[Record], states: Mapping[str, Experiment], now_ms: int
) -> dict[str, tuple[Pin, int]]:
    """Return the pins that exposures created and that have not expired, with their remaining lives (ms).

    Keys are `experiment|unit`. Of several exposures of a unit that have `first` set, the last one wins.
    """
    pins = {}
    for record in records:
        try:
            shown = events.decode(Exposure, record.value)
        except BadMessageError:  # the attribution worker writes its dead letter
            continue
        state = states.get(shown.experiment)
        if state is None or not shown.first or shown.excluded is not None or state.rules.unit == "request":
            continue
        left_ms = shown.received_at + unit_lifetime_ms(state.rules.unit, shown.received_at) - now_ms
        if left_ms > 0:
            pin = Pin(shown.weights_version, shown.arm, shown.propensity, shown.unit_at)
            pins[f"{shown.experiment}|{shown.unit}"] = pin, left_ms
    return pins
