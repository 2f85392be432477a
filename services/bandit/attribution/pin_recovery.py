"""Pins that Redis forgot, put back from the exposures that made them.

The exposure that creates a pin says `first` and is a unit. Were a forgotten unit assigned anew, it would be
counted twice, in sums whose bets take units for independent, and perhaps under two arms. So `/recommend`
counts nobody while an experiment's pins are not vouched for (the champion answers, alike for all arms), and
this worker reads the last day's exposures of its partitions again, puts every pin back that still lives, and
vouches once all partitions are done. What it can't know: an exposure that reached the log only after it was
read to its end, `safety_ms` after the loss was seen.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from experiments.allocation.assignment import DAY_MS, unit_life_ms
from experiments.lifecycle.fold import Experiment
from services.bandit.attribution.ranges import ranges
from services.errors import BadMessageError, DataLossError, UnavailableError
from services.messages import events
from services.messages.events import EXPOSURES, Exposure
from services.ports.event_log import EventConsumer, Record
from services.ports.pins import Pin, PinStore
from services.ports.state import DecisionLog

logger = logging.getLogger(__name__)

MOST_RECORDS = 5_000  # of a step: counting goes on in between
SKEW_MS = 3_600_000  # more than the broker's clock is ever beside ours


@dataclass(slots=True)
class PinKeeper:
    """One step at a time, beside the counting. `owned`: partitions that are ours now; `everything`: how many
    there are; `clock`: ms since the epoch. A step that raises UnavailableError is called again later."""

    store: PinStore
    consumer: EventConsumer
    decisions: DecisionLog
    owned: Callable[[], frozenset[int]]
    everything: int
    clock: Callable[[], int]
    safety_ms: int = 2_000
    reading: dict[int, int] = field(default_factory=dict)  # partition -> when its loss was seen, ms
    put_back: int = 0  # since pins were missing
    whole: set[int] = field(default_factory=set)  # since then
    complete: bool = True  # as far as was told

    def step(self) -> bool:
        """Look, and read on where pins are missing; whether nothing is missing any more."""
        restored = self.store.restored_partitions()
        missing = self.owned() - restored
        if missing - self.reading.keys():
            self._begin(missing)
        self.reading = {index: seen for index, seen in self.reading.items() if index in missing}
        if self.reading:
            self._read()
            return False
        if len(restored) < self.everything:
            return False
        complete = self.store.mark_complete(self._living(), self.everything)
        if complete and not self.complete:
            logger.info("all pins are vouched for: units are counted again")
        self.complete = complete
        return complete

    def _begin(self, missing: frozenset[int]) -> None:
        now_ms = self.clock()
        self.complete = False
        self.store.begin_restore(missing)
        oldest_ms = now_ms - DAY_MS - SKEW_MS  # no pin lives longer than a day
        self.consumer.assign(self.consumer.offsets_since([(EXPOSURES, i) for i in missing], oldest_ms))
        self.reading = {index: self.reading.get(index, now_ms) for index in missing}

    def _read(self) -> None:
        asked_ms = self.clock()
        try:
            ends = self.consumer.end_offsets([(EXPOSURES, index) for index in self.reading])
        except UnavailableError:  # what waits for the broker gets the margin when it is back
            self.reading = dict.fromkeys(self.reading, asked_ms)
            raise
        before = self.consumer.positions()
        try:
            self._put_back(self.consumer.poll(0.0, MOST_RECORDS))
        except DataLossError as error:
            logger.warning("exposures went while pins were put back: %s", error)
            self.reading = {}
            return
        except UnavailableError:
            self.consumer.assign(before)  # what was read is read again
            raise
        positions = self.consumer.positions()
        for index, seen_ms in list(self.reading.items()):
            pair = (EXPOSURES, index)
            if asked_ms >= seen_ms + self.safety_ms and positions.get(pair, -1) >= ends[pair]:
                self._finish(index)

    def _put_back(self, records: Iterable[Record]) -> None:
        found = pins_of(records, self._living(), self.clock())
        self.store.restore(found)
        self.put_back += len(found)

    def _finish(self, index: int) -> None:
        """It is read on till the others are done, which does no harm."""
        if self.store.mark_restored(index):
            self.whole.add(index)
        else:
            logger.warning("pins of partition %d went again while they were put back", index)
        del self.reading[index]
        if not self.reading and self.whole:
            told = ranges(self.whole), self.put_back
            logger.info("pins of partitions %s are whole; %d were put back", *told)
            self.whole, self.put_back = set(), 0

    def _living(self) -> Mapping[str, Experiment]:
        return {name: state for name, state in self.decisions.catch_up().items() if state.status != "ended"}


def pins_of(
    records: Iterable[Record], states: Mapping[str, Experiment], now_ms: int
) -> dict[str, tuple[Pin, int]]:
    """Pins that these exposures created and that still live, with the rest of their lives (ms), by unit key.
    The last exposure that says `first` wins."""
    found = {}
    for record in records:
        try:
            shown = events.decode(Exposure, record.value)
        except BadMessageError:  # the counting worker passes it over, and the lake keeps it
            continue
        state = states.get(shown.experiment)
        if state is None or not shown.first or shown.excluded is not None or state.rules.unit == "request":
            continue
        left_ms = shown.received_at + unit_life_ms(state.rules.unit, shown.received_at) - now_ms
        if left_ms > 0:
            pin = Pin(shown.weights_version, shown.arm, shown.propensity, shown.unit_at)
            found[f"{shown.experiment}|{shown.unit}"] = pin, left_ms
    return found
