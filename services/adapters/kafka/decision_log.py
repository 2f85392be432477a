"""The topic `decisions` as a state machine: the first record with revision n + 1 wins, later ones are void.

Whoever appends reads back what the log says, so nobody acts on a decision that lost. The cached state is used
as a snapshot only where the log no longer reaches back (the embedded broker forgets, and is a new log after a
restart).
"""

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError

from experiments.lifecycle.fold import Decision, Experiment, apply
from services.errors import BadMessageError, DataLossError, StalePositionError, UnavailableError
from services.messages import events
from services.ports.event_log import EventConsumer, EventProducer, Record
from services.ports.state import StateCache
from services.settings import Settings

logger = logging.getLogger(__name__)

PAIR = (events.DECISIONS, 0)
Snapshot = Callable[[str], Experiment | None]
_POLL_S = 0.2
STILL_S = 10.0  # a log that yields nothing for so long is not there; a long one may take longer


class Ledger:
    """What the records read so far add up to. `void`: records that did not get their revision; `illegal`:
    records that no legal history contains; `unreadable`: those that are no decision (the lake worker buries
    them). All are passed over, by every reader alike. `history`: the records that count, by experiment;
    without `keep` it stays empty, because they grow for ever (11 kB a look in memory)."""

    def __init__(self, snapshot: Snapshot, keep: bool = True):
        self.states: dict[str, Experiment] = {}
        self._ours: set[str] = set()  # experiments whose state nobody else holds
        self.history: dict[str, list[Decision]] = {}
        self.void = 0
        self.illegal = 0
        self.unreadable = 0
        self._snapshot, self._keep = snapshot, keep
        self._newest: dict[str, int] = {}  # experiment -> revision of the newest record that was counted
        self._asked: tuple[str, int] | None = None  # the one revision of which is noted which record won it
        self._winner: int | None = None  # its offset

    def revision(self, experiment: str) -> int:
        """Of the newest record that counts, 0 before the first."""
        state = self.states.get(experiment)
        return 0 if state is None else state.revision

    def ask(self, decision: Decision) -> None:
        """Note from now on which record gets the revision of `decision`, whatever comes after it."""
        self._asked, self._winner = (decision.experiment, decision.revision), None

    def won(self, offset: int) -> bool:
        """Whether the record at `offset` is the one that counts for the revision asked about."""
        return self._winner == offset

    def adopt(self, experiment: str, at_least: int = 1) -> bool:
        """Take the cached state as the base if it reached revision `at_least`. Raises UnavailableError."""
        cached = self._snapshot(experiment)
        if cached is None or cached.revision < max(at_least, self.revision(experiment) + 1):
            return False
        logger.warning("%s: the log does not reach back; revision %d was cached", experiment, cached.revision)
        self.states[experiment] = cached
        self._ours.discard(experiment)
        return True

    def take(self, offset: int, decision: Decision) -> bool:
        """Fold one record; whether the state changed."""
        name = decision.experiment
        if decision.revision > self.revision(name) + 1 and not self.adopt(name, decision.revision - 1):
            self.void += 1
            logger.error("decisions/%d jumps from revision %d of %s", offset, self.revision(name), name)
            return False
        if decision.revision <= self.revision(name):
            self._pass(offset, decision)
            return False
        return self._fold(offset, decision)

    def _fold(self, offset: int, decision: Decision) -> bool:
        name = decision.experiment
        try:
            self.states[name] = apply(self.states.get(name), decision, mutate=name in self._ours)
        except MemoryError:  # says nothing about the record
            raise
        except Exception as error:  # noqa: BLE001 (`apply` is pure: whatever it raises, the record broke it)
            self.illegal += 1
            logger.error("decisions/%d is not legal and does not count: %s", offset, error)
            return False
        self._ours.add(name)
        self._count(offset, decision)
        return True

    def hand_out(self) -> dict[str, Experiment]:
        """The states, for whoever keeps them: they are not changed any more."""
        self._ours.clear()
        return dict(self.states)

    def _pass(self, offset: int, decision: Decision) -> None:
        """A record whose revision is taken is void, unless it is what the snapshot was made from."""
        if decision.revision > self._newest.get(decision.experiment, 0):
            self._count(offset, decision)
        else:
            self.void += 1

    def _count(self, offset: int, decision: Decision) -> None:
        if self._asked == (decision.experiment, decision.revision):
            self._winner = offset
        self._newest[decision.experiment] = decision.revision
        if self._keep:
            self.history.setdefault(decision.experiment, []).append(decision)


class KafkaDecisionLog:
    """ports.DecisionLog on a topic. Thread-safe: one call at a time reads and writes. `history`: keep the
    records; processes that never ask for them do without."""

    def __init__(
        self,
        settings: Settings,
        producer: EventProducer,
        consumer: EventConsumer,
        cache: StateCache,
        history: bool = True,
    ) -> None:
        self._settings, self._producer, self._consumer, self._cache = settings, producer, consumer, cache
        self._ledger = Ledger(cache.get, history)
        self._keeps_history = history
        self._changed: set[str] = set()  # experiments whose newest state is not handed to the cache yet
        self._blind = ""  # why the cache could not be asked for a state that the log lacks
        self._lock = threading.RLock()

    @property
    def void(self) -> int:
        """Records read so far that did not get their revision."""
        return self._ledger.void

    @property
    def illegal(self) -> int:
        """Records read so far that no legal history contains."""
        return self._ledger.illegal

    @property
    def unreadable(self) -> int:
        """Records read so far that are no decision."""
        return self._ledger.unreadable

    def catch_up(self) -> Mapping[str, Experiment]:
        """Read to the end of the log, as it is now, however far that is; refreshes the cache with what
        changed if Redis can be reached. Raises UnavailableError when the log stands still for STILL_S; the
        next call goes on from there."""
        with self._lock:
            self._read_to_end()
            self._look_for_what_is_missing()
            states = self._ledger.hand_out()
            for experiment in sorted(self._changed):
                self._refresh(states[experiment])
            self._changed.clear()
            return states

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """Of what has been read; the log is caught up with first if that never happened. Raises
        UnavailableError, and RuntimeError if this log was made without its history."""
        if not self._keeps_history:
            raise RuntimeError("this log of decisions keeps no history")
        with self._lock:
            if PAIR not in self._consumer.positions():
                self.catch_up()
            kept = self._ledger.history.get(experiment, [])
            return kept[bisect_right(kept, after_revision, key=lambda decision: decision.revision) :]

    def append(self, decision: Decision) -> Experiment:
        """Check against the newest state, append, wait for the acknowledgement, read back.

        Raises experiments.lifecycle.fold.IllegalTransition (nothing was appended), StalePositionError
        (somebody
        else was first), or UnavailableError (it says whether the record may be in the log: catch up before
        deciding again).
        """
        with self._lock:
            state = self.catch_up().get(decision.experiment)
            following = 1 if state is None else state.revision + 1
            if decision.revision != following:
                raise _stale(decision, following)
            apply(state, decision)
            if state is None and self._blind:
                why = f"it can't say whether {decision.experiment} runs already ({self._blind})"
                raise UnavailableError("the cache of the decision log", f"{why}; nothing was changed")
            try:
                self._ledger.ask(decision)
                offset = self._send(decision).offset
                states = self.catch_up()
            except UnavailableError as error:
                raise UnavailableError("the decision log", _perhaps(decision, error)) from error
            if not self._ledger.won(offset):
                raise _stale(decision, states[decision.experiment].revision + 1)
            if state is None:
                self._vouch(decision.experiment)
            return states[decision.experiment]

    def _send(self, decision: Decision) -> Record:
        future = self._producer.send(events.DECISIONS, decision.experiment, events.encode(decision))
        deadline_ms = self._settings.broker_ack_deadline_ms
        try:
            return future.result(deadline_ms / 1_000)
        except (FutureTimeoutError, CancelledError) as error:
            raise UnavailableError("the broker", f"no acknowledgement in {deadline_ms} ms") from error

    def _look_for_what_is_missing(self) -> None:
        """The log may have forgotten our experiment; without the cache we go on with what the log says."""
        missing = [name for name in self._settings.experiments.names() if name not in self._ledger.states]
        if not missing:
            return
        try:
            for name in missing:
                self._ledger.adopt(name)
        except UnavailableError as error:
            if not self._blind:
                logger.warning("what the log does not reach back to is not known: %s", error)
            self._blind = str(error)
        else:
            self._blind = ""

    def _read_to_end(self) -> None:
        start, end = self._consumer.bounds(*PAIR)
        self._stand_within(start, end)
        moved_s, before = time.monotonic(), self._consumer.positions()[PAIR]
        while (position := self._consumer.positions()[PAIR]) < end:
            if position != before:
                moved_s, before = time.monotonic(), position
            elif time.monotonic() - moved_s > STILL_S:
                still = f"it stood still for {STILL_S:g} s at offset {position}; its end is {end}"
                raise UnavailableError("the decision log", still)
            self._take_all(self._poll())

    def _take_all(self, records: list[Record]) -> None:
        for record in records:
            try:
                name = self._take(record)
            except Exception:
                self._consumer.assign({PAIR: record.offset})  # what was fetched with it is read again
                raise
            if name is not None:
                self._changed.add(name)

    def _poll(self) -> list[Record]:
        try:
            return self._consumer.poll(_POLL_S)
        except DataLossError as error:  # it was cut since we asked for its bounds: they are asked for again
            raise UnavailableError("the decision log", str(error)) from error

    def _stand_within(self, start: int, end: int) -> None:
        """Read a log that is new to us, or whose records vanished before we read them, from its start."""
        position = self._consumer.positions().get(PAIR)
        if position is None or not start <= position <= end:
            self._consumer.assign({PAIR: start})

    def _take(self, record: Record) -> str | None:
        try:
            decision = events.decode(Decision, record.value)
        except BadMessageError as error:
            self._ledger.unreadable += 1
            logger.error("decisions/%d can't be read and does not count: %s", record.offset, error)
            return None
        return decision.experiment if self._ledger.take(record.offset, decision) else None

    def _vouch(self, experiment: str) -> None:
        try:
            self._cache.mark_complete(experiment)
        except UnavailableError as error:  # the bandit workers do it once they have looked
            logger.warning("%s counts from when its pins are vouched for: %s", experiment, error)

    def _refresh(self, state: Experiment) -> None:
        try:
            self._cache.put(state)
        except UnavailableError as error:
            logger.warning("%s: revision %d is decided, not cached: %s", state.name, state.revision, error)


def _perhaps(decision: Decision, error: UnavailableError) -> str:
    name, kind = decision.experiment, decision.kind
    return f"{error}. The {kind} of {name} may be in the log or not: look before you command again"


def _stale(decision: Decision, following: int) -> StalePositionError:
    return StalePositionError(
        f"{decision.experiment}: revision {decision.revision} is taken, {following} is next; decide again"
    )
