"""Exposures + events + watermark -> matured units and accounted events, per partition: a pure, restartable
join.

With A = attribution window and L = allowed lateness of the experiment (ms), W = watermark:

- A *unit* is an exposure that is first, not excluded, and appended within L of its `received_at`. It is known
  by (experiment, unit, unit_at). It matures when W > received_at + A + L.
- An event is *live* if it is an outcome with attribution, 0 <= received_at - unit_at <= A and it was appended
  within A + L of unit_at. The unit succeeds if it has a live event.
- W promises that every record of both topics appended before W has been fed. So when a unit matures, all
  copies of its exposure and all its live events are in memory, and whatever is decided then is final: a
  function of the log.

Of several copies (a retried produce, a retried POST) the *last* one in the log counts. That is decided by
looking ahead at what has been fed, never by remembering what was counted, so it survives any restart without
being stored.

Exposures are popped and events are passed in log order. Neither position moves beyond a record whose category
is not final, and `events` never passes a live event of a unit that is not popped. After a crash: feed
exposures from `rebuild` and events from `events`, and the join goes on as if nothing had happened. Memory:
about A + 2L of traffic.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from experiments.counting.sums import HOUR_MS, account_key, cell_key, count_key
from experiments.lifecycle.state import Rules

Key = tuple[str, str, int]  # experiment, unit, unit_at
FedRecord = tuple[int, int, Any]  # offset, append time in ms, decoded message


class ExposureLike(Protocol):
    """What the join reads of an exposure (services.messages.events.Exposure is one)."""

    experiment: str
    unit: str
    received_at: int
    first: bool
    arm: str
    answered_by: str
    weights_version: int
    excluded: str | None


class EventLike(Protocol):
    """What the join reads of an event (services.messages.events.Event is one). `attribution` has experiment,
    unit, unit_at, arm and weights_version."""

    event_id: str
    type: str
    received_at: int
    attribution: Any


@dataclass(frozen=True, slots=True)
class Offsets:
    """Positions of a partition's sums: next exposure to pop, next event to account for, and the exposure from
    which the join must be read again after a restart (those below `exposures` are known to be popped)."""

    exposures: int = 0
    events: int = 0
    rebuild: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """A step that must be stored as a whole or not at all: `deltas` are flat sums by experiment."""

    fetched_from: Offsets
    moved_to: Offsets
    deltas: Mapping[str, Mapping[str, int]]

    @property
    def empty(self) -> bool:
        """Nothing moved."""
        return self.fetched_from == self.moved_to


@dataclass(slots=True)
class _Unit:
    offset: int
    key: Key
    arm: str
    cell: str  # "<version>|<arm>|<hour>"
    fell_back: bool
    mature_ms: int  # received_at + A + L


@dataclass(slots=True)
class _Late:
    """An exposure that is no unit because its append time is too far from `received_at`."""

    offset: int
    experiment: str
    arm: str


@dataclass(slots=True)
class _Outcome:
    offset: int
    key: Key
    cell: str  # as the event itself says
    arm: str
    event_id: str
    fate: str | None  # "late" or "unmatched" if the event alone says so, None while it depends on its unit
    final_ms: int  # unit_at + A + L


@dataclass
class _Sums:
    by_experiment: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def unit(self, unit: _Unit, succeeded: bool) -> None:
        sums = self.by_experiment[unit.key[0]]
        sums[count_key(unit.cell, "n")] += 1
        if succeeded:
            sums[count_key(unit.cell, "s")] += 1
        if unit.fell_back:
            sums[count_key(unit.cell, "f")] += 1

    def credit(self, event: _Outcome) -> None:
        """The last counted event of its unit."""
        self.by_experiment[event.key[0]][count_key(event.cell, "c")] += 1

    def account(self, experiment: str, arm: str, what: str) -> None:
        self.by_experiment[experiment][account_key(arm, what)] += 1


class Join:
    """The join of one partition. `rules` by experiment id is read when a record is fed: read an
    experiment's decisions before feeding its records, because records of unknown experiments are skipped."""

    def __init__(self, rules: Mapping[str, Rules], offsets: Offsets = Offsets()) -> None:
        self.rules = rules
        self.offsets = offsets
        self.watermark_ms = -1
        self.overtaken = 0  # records fed after a watermark that covered them; must stay 0
        # next offset expected of each topic
        self._read = {"exposures": offsets.rebuild, "events": offsets.events}
        self._exposures: deque[_Unit | _Late] = deque()  # not popped
        self._popped: deque[_Unit] = deque()  # units that events not yet passed may still belong to
        self._last_copy: dict[Key, int] = {}  # offset of a unit's last copy
        self._events: deque[_Outcome] = deque()  # not passed
        self._live: dict[Key, Counter[str]] = {}  # not passed live events: event id -> copies

    # ---- reading -------------------------------------------------------------------------------------------

    def feed_exposures(self, records: Iterable[FedRecord], next_offset: int | None = None) -> None:
        """Take (offset, append_ms, exposure) in log order, from `offsets.rebuild` on. `next_offset`: the
        reader's position, if that is past the last record (logs have gaps)."""
        self._feed("exposures", records, self._take_exposure, next_offset)

    def feed_events(self, records: Iterable[FedRecord], next_offset: int | None = None) -> None:
        """Take (offset, append_ms, event) in log order, from `offsets.events` on."""
        self._feed("events", records, self._take_event, next_offset)

    def _feed(
        self, topic: str, records: Iterable[FedRecord], take: Callable[..., None], next_offset: int | None
    ) -> None:
        for offset, append_ms, message in records:
            if offset < self._read[topic]:
                raise ValueError(f"{topic}: offset {offset} fed after {self._read[topic] - 1}")
            self._read[topic] = offset + 1
            self.overtaken += append_ms < self.watermark_ms
            take(offset, append_ms, message)
        self._read[topic] = max(self._read[topic], next_offset or 0)

    def _take_exposure(self, offset: int, append_ms: int, exposure: ExposureLike) -> None:
        rules = self.rules.get(exposure.experiment)
        if rules is None or not exposure.first or exposure.excluded is not None:
            return
        window_ms, lateness_ms = _windows_ms(rules)
        if abs(append_ms - exposure.received_at) > lateness_ms:
            if offset >= self.offsets.exposures:
                self._exposures.append(_Late(offset, exposure.experiment, exposure.arm))
            return
        unit = _Unit(
            offset=offset,
            key=(exposure.experiment, exposure.unit, exposure.received_at),
            arm=exposure.arm,
            cell=cell_of(exposure, exposure.received_at),
            fell_back=exposure.answered_by != exposure.arm,
            mature_ms=exposure.received_at + window_ms + lateness_ms,
        )
        self._last_copy[unit.key] = offset
        (self._popped if offset < self.offsets.exposures else self._exposures).append(unit)

    def _take_event(self, offset: int, append_ms: int, event: EventLike) -> None:
        to = event.attribution
        rules = self.rules.get(to.experiment) if to is not None else None
        if rules is None or event.type != rules.outcome:
            return
        window_ms, lateness_ms = _windows_ms(rules)
        key = (to.experiment, to.unit, to.unit_at)
        fate = event_fate(event.received_at - to.unit_at, append_ms - to.unit_at, window_ms, lateness_ms)
        final_ms = to.unit_at + window_ms + lateness_ms
        cell = cell_of(to, to.unit_at)
        self._events.append(_Outcome(offset, key, cell, to.arm, event.event_id, fate, final_ms))
        if fate is None:
            self._live.setdefault(key, Counter())[event.event_id] += 1

    # ---- moving on -----------------------------------------------------------------------------------------

    def advance(self, watermark_ms: int) -> Batch:
        """Pop and account for all that is final at `watermark_ms`: every record of both topics appended
        before it has been fed. Store the batch, then go on; if it can't be stored, drop this join and
        rebuild."""
        self.watermark_ms = max(self.watermark_ms, watermark_ms)
        sums = _Sums()
        before = self.offsets
        exposures = self._pop_exposures(sums)
        self.offsets = Offsets(exposures, before.events, before.rebuild)
        events = self._pass_events(sums)
        self.offsets = Offsets(exposures, events, self._release(exposures))
        return Batch(
            before, self.offsets, {name: dict(counts) for name, counts in sums.by_experiment.items()}
        )

    def _pop_exposures(self, sums: _Sums) -> int:
        while self._exposures:
            front = self._exposures[0]
            if isinstance(front, _Late):
                sums.account(front.experiment, front.arm, "late_exposures")
            elif self.watermark_ms <= front.mature_ms:
                return front.offset
            elif self._last_copy[front.key] == front.offset:
                sums.unit(front, succeeded=front.key in self._live)
                self._popped.append(front)
            else:
                sums.account(front.key[0], front.arm, "duplicate_exposures")
            self._exposures.popleft()
        return max(self.offsets.exposures, self._read["exposures"])

    def _pass_events(self, sums: _Sums) -> int:
        while self._events:
            front = self._events[0]
            if front.fate is None and not self._is_final(front):
                return front.offset
            sums.account(front.key[0], front.arm, front.fate or self._settle(front, sums))
            self._events.popleft()
        return self._read["events"]

    def _is_final(self, event: _Outcome) -> bool:
        popped = self._last_copy.get(event.key, -1) < self.offsets.exposures
        return self.watermark_ms > event.final_ms and popped

    def _settle(self, event: _Outcome, sums: _Sums) -> str:
        """Category of a live event that is final; copies that are still ahead make this one the duplicate."""
        copies = self._live[event.key]
        copies[event.event_id] -= 1
        ahead = copies[event.event_id] > 0
        if not ahead:
            del copies[event.event_id]
        if not copies:
            del self._live[event.key]
        if event.key not in self._last_copy:
            return "unmatched"
        if not copies:
            sums.credit(event)
        return "duplicate" if ahead else "counted"

    def _release(self, exposures: int) -> int:
        """Forget popped units that no event can need any more; returns the new `rebuild`."""
        while self._popped:
            front = self._popped[0]
            if self.watermark_ms <= front.mature_ms or front.key in self._live:
                return front.offset
            if self._last_copy.get(front.key) == front.offset:
                del self._last_copy[front.key]
            self._popped.popleft()
        return min(exposures, self._read["exposures"])  # not past what a rebuild has yet to read


def cell_of(message: Any, at_ms: int) -> str:
    """Key of the sums to which a unit of `at_ms` belongs, by its exposure or by an event's attribution."""
    return cell_key(message.weights_version, message.arm, at_ms // HOUR_MS)


def settling_time_ms(rules: Rules) -> int:
    """How far past a unit's time the watermark must be for all its events to have been passed.

    Its last live event is appended by A + L; before that event may lie one whose unit began up to L later
    than it was appended, so waits until 2A + 3L; and that unit's exposure may lie behind one that began
    another L later.
    """
    window_ms, lateness_ms = _windows_ms(rules)
    return 2 * window_ms + 5 * lateness_ms


def event_fate(age_ms: int, append_age_ms: int, window_ms: int, lateness_ms: int) -> str | None:
    """Category of an event as far as its own times decide it: "unmatched" (before its unit, or appended
    impossibly early), "late" (after the window, or appended too late), or None if it is live and its unit
    decides. Ages count from unit_at."""
    if age_ms < 0 or append_age_ms < -lateness_ms:
        return "unmatched"
    if age_ms > window_ms or append_age_ms > window_ms + lateness_ms:
        return "late"
    return None


def _windows_ms(rules: Rules) -> tuple[int, int]:
    return round(rules.window_s * 1000), round(rules.lateness_s * 1000)
