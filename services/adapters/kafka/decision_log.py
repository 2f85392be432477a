"""The topic `decisions` as a state machine: the first record with revision n + 1 counts, later ones are void.

An appending process reads its record back, so no process acts on a void decision. The cached state serves as
a snapshot only if the log no longer has the first revisions (the embedded broker deletes old records, and is
a new log after a restart).
"""

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment
from services.errors import BadMessageError, DataLossError, StalePositionError, UnavailableError
from services.messages import events
from services.ports.event_log import EventConsumer, EventProducer, Record
from services.ports.state import StateCache
from services.settings import Settings

logger = logging.getLogger(__name__)

PAIR = (events.DECISIONS, 0)
Snapshot = Callable[[str], Experiment | None]
_POLL_S = 0.2
STALLED_S = 10.0  # a log without a record for this long is unavailable; reading a long one may take longer


class DecisionProjection:
    """The states that the records read so far fold to.

    void: number of records whose revision another record got; illegal: records that no legal history
    contains; unreadable: records that are no decision (the lake worker dead-letters them). Every reader
    ignores all of these. history: the records that count, by experiment; empty without `keep`, because it
    grows without limit (11 kB a look).
    """

    def __init__(self, snapshot: Snapshot, keep: bool = True):
        self.states: dict[str, Experiment] = {}
        self._exclusive: set[str] = set()  # experiments whose state no caller holds
        self.history: dict[str, list[Decision]] = {}
        self.void = 0
        self.illegal = 0
        self.unreadable = 0
        self._snapshot, self._keep = snapshot, keep
        self._newest: dict[str, int] = {}  # experiment -> revision of its newest record that counts
        self._awaited: tuple[str, int] | None = None  # (experiment, revision) that this process appends
        self._awaited_offset: int | None = None  # of the record that got this revision

    def revision(self, experiment: str) -> int:
        """Revision of the newest record that counts; 0 before the first."""
        state = self.states.get(experiment)
        return 0 if state is None else state.revision

    def await_revision(self, decision: Decision) -> None:
        """Note from now on which record gets the revision of `decision`, whatever follows it."""
        self._awaited, self._awaited_offset = (decision.experiment, decision.revision), None

    def accepted(self, offset: int) -> bool:
        """Whether the record at `offset` got the awaited revision."""
        return self._awaited_offset == offset

    def load_snapshot(self, experiment: str, at_least: int = 1) -> bool:
        """Continue from the cached state if it has revision `at_least` or a later one. Raises
        UnavailableError."""
        cached = self._snapshot(experiment)
        if cached is None or cached.revision < max(at_least, self.revision(experiment) + 1):
            return False
        logger.warning(
            "%s: the log lacks older records; continuing from cached revision %d", experiment, cached.revision
        )
        self.states[experiment] = cached
        self._exclusive.discard(experiment)
        return True

    def apply(self, offset: int, decision: Decision) -> bool:
        """Fold one record. Returns whether the state changed."""
        name, previous = decision.experiment, decision.revision - 1
        if previous > self.revision(name) and not self.load_snapshot(name, previous):
            self.void += 1
            logger.error("decisions/%d skips a revision after %d of %s", offset, self.revision(name), name)
            return False
        if decision.revision <= self.revision(name):
            self._ignore(offset, decision)
            return False
        return self._fold(offset, decision)

    def _fold(self, offset: int, decision: Decision) -> bool:
        name = decision.experiment
        try:
            self.states[name] = apply(self.states.get(name), decision, mutate=name in self._exclusive)
        except MemoryError:  # not caused by the record
            raise
        except Exception as error:  # noqa: BLE001 (`apply` is pure, so the record caused the error)
            self.illegal += 1
            logger.error("decisions/%d is not legal and does not count: %s", offset, error)
            return False
        self._exclusive.add(name)
        self._count(offset, decision)
        return True

    def snapshot(self) -> dict[str, Experiment]:
        """The states, which are not mutated any more."""
        self._exclusive.clear()
        return dict(self.states)

    def _ignore(self, offset: int, decision: Decision) -> None:
        """Count a record whose revision is taken as void, unless the snapshot was made from it."""
        if decision.revision > self._newest.get(decision.experiment, 0):
            self._count(offset, decision)
        else:
            self.void += 1

    def _count(self, offset: int, decision: Decision) -> None:
        if self._awaited == (decision.experiment, decision.revision):
            self._awaited_offset = offset
        self._newest[decision.experiment] = decision.revision
        if self._keep:
            self.history.setdefault(decision.experiment, []).append(decision)


class KafkaDecisionLog:
    """ports.DecisionLog on a topic. It is thread-safe, because one call at a time reads and writes.

    history: keep the records in memory, for processes that call `history`.
    """

    def __init__(
        self,
        settings: Settings,
        producer: EventProducer,
        consumer: EventConsumer,
        cache: StateCache,
        history: bool = True,
    ) -> None:
        self._settings, self._producer, self._consumer, self._cache = settings, producer, consumer, cache
        self.projection = DecisionProjection(cache.get, history)
        self._keeps_history = history
        self._changed: set[str] = set()  # experiments whose newest state is not in the cache yet
        self._cache_problem = ""  # why a state that the log lacks could not be read from the cache
        self._lock = threading.RLock()

    def catch_up(self) -> Mapping[str, Experiment]:
        """See DecisionLog. Changed states go to the cache if Redis is available.

        Raises UnavailableError if the log yields no record for STALLED_S; the next call continues from there.
        """
        with self._lock:
            self._read_to_end()
            self._load_missing_states()
            states = self.projection.snapshot()
            for experiment in sorted(self._changed):
                self._refresh(states[experiment])
            self._changed.clear()
            return states

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """See DecisionLog. The first call reads the log. Raises RuntimeError if this log keeps no history."""
        if not self._keeps_history:
            raise RuntimeError("this decision log keeps no history; make it with history=True")
        with self._lock:
            if PAIR not in self._consumer.positions():
                self.catch_up()
            kept = self.projection.history.get(experiment, [])
            return kept[bisect_right(kept, after_revision, key=lambda decision: decision.revision) :]

    def append(self, decision: Decision) -> Experiment:
        """See DecisionLog. It checks against the newest state, appends, and reads back."""
        with self._lock:
            state = self.catch_up().get(decision.experiment)
            following = 1 if state is None else state.revision + 1
            if decision.revision != following:
                raise _stale(decision, following)
            apply(state, decision)
            if state is None and self._cache_problem:
                why = f"it can't say whether {decision.experiment} runs already ({self._cache_problem})"
                raise UnavailableError("the cache of the decision log", f"{why}; nothing was changed")
            try:
                self.projection.await_revision(decision)
                offset = self._send(decision).offset
                states = self.catch_up()
            except UnavailableError as error:
                raise UnavailableError("the decision log", _maybe_appended(decision, error)) from error
            if not self.projection.accepted(offset):
                raise _stale(decision, states[decision.experiment].revision + 1)
            if state is None:
                self._mark_complete(decision.experiment)
            return states[decision.experiment]

    def _send(self, decision: Decision) -> Record:
        future = self._producer.send(events.DECISIONS, decision.experiment, events.encode(decision))
        deadline_ms = self._settings.broker_ack_deadline_ms
        try:
            return future.result(deadline_ms / 1_000)
        except (FutureTimeoutError, CancelledError) as error:
            raise UnavailableError("the broker", f"no acknowledgement in {deadline_ms} ms") from error

    def _load_missing_states(self) -> None:
        """Load the snapshots of configured experiments that have no record in the log."""
        missing = [name for name in self._settings.experiments.names() if name not in self.projection.states]
        if not missing:
            return
        try:
            for name in missing:
                self.projection.load_snapshot(name)
        except UnavailableError as error:
            if not self._cache_problem:
                logger.warning("the state before the first record of the log is unknown: %s", error)
            self._cache_problem = str(error)
        else:
            self._cache_problem = ""

    def _read_to_end(self) -> None:
        start, end = self._consumer.bounds(*PAIR)
        self._seek_within(start, end)
        moved_s, before = time.monotonic(), self._consumer.positions()[PAIR]
        while (position := self._consumer.positions()[PAIR]) < end:
            if position != before:
                moved_s, before = time.monotonic(), position
            elif time.monotonic() - moved_s > STALLED_S:
                stalled = f"no record for {STALLED_S:g} s at offset {position}; its end is {end}"
                raise UnavailableError("the decision log", stalled)
            self._apply_all(self._poll())

    def _apply_all(self, records: list[Record]) -> None:
        for record in records:
            try:
                name = self._apply(record)
            except Exception:
                self._consumer.assign({PAIR: record.offset})  # read again from this record
                raise
            if name is not None:
                self._changed.add(name)

    def _poll(self) -> list[Record]:
        try:
            return self._consumer.poll(_POLL_S)
        except DataLossError as error:  # truncated since `bounds`, which the next call reads again
            raise UnavailableError("the decision log", str(error)) from error

    def _seek_within(self, start: int, end: int) -> None:
        """Read from the start a log that is new, or whose next record was deleted."""
        position = self._consumer.positions().get(PAIR)
        if position is None or not start <= position <= end:
            self._consumer.assign({PAIR: start})

    def _apply(self, record: Record) -> str | None:
        try:
            decision = events.decode(Decision, record.value)
        except BadMessageError as error:
            self.projection.unreadable += 1
            logger.error("decisions/%d cannot be decoded and does not count: %s", record.offset, error)
            return None
        return decision.experiment if self.projection.apply(record.offset, decision) else None

    def _mark_complete(self, experiment: str) -> None:
        try:
            self._cache.mark_complete(experiment)
        except UnavailableError as error:  # the attribution workers do it later
            logger.warning("%s is counted once its pins are marked as complete: %s", experiment, error)

    def _refresh(self, state: Experiment) -> None:
        try:
            self._cache.put(state)
        except UnavailableError as error:
            logger.warning("%s: revision %d is decided but not cached: %s", state.name, state.revision, error)


def _maybe_appended(decision: Decision, error: UnavailableError) -> str:
    name, kind = decision.experiment, decision.kind
    return f"{error}. The {kind} of {name} may be in the log or not; check before you repeat the command"


def _stale(decision: Decision, following: int) -> StalePositionError:
    return StalePositionError(
        f"{decision.experiment}: revision {decision.revision} is taken, {following} is next; decide again"
    )
