"""State in memory: doubles of the ports that Redis serves, with the same refusals and expiries.

Every double has `down`: while True it raises UnavailableError, as a dead Redis does. `clock` gives ms.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from experiments.experiment import Decision, Experiment, apply
from services.adapters.memory_broker import Clock, wall_ms
from services.errors import StalePositionError, UnavailableError
from services.events import EVENTS, EXPOSURES, ItemChanged
from services.ports import Heartbeat, Laid, Pin, Positions, StateCache, Sums, UserRow

Fold = Callable[[Experiment | None, Decision], Experiment]


class _Failing:
    """Something that can be down."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("redis", "it is down")


class MemoryTallyStore(_Failing):
    """TallyStore: positions and sums of a partition change together or not at all."""

    def __init__(self) -> None:
        self._positions: dict[int, Positions] = {}
        self._sums: dict[int, dict[str, Sums]] = {}
        self._watermarks: dict[int, tuple[int, int]] = {}
        self._losses: dict[int, str] = {}
        self._accepted: dict[int, Positions | None] = {}
        self._lock = threading.Lock()

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """Positions (None: never counted) and sums by experiment."""
        self._check()
        with self._lock:
            sums = {experiment: dict(of) for experiment, of in self._sums.get(partition, {}).items()}
            return self._positions.get(partition), sums

    def standing(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """Stored positions of those partitions that have any."""
        self._check()
        return {
            partition: self._positions[partition] for partition in partitions if partition in self._positions
        }

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        for part in (self._positions, self._sums, self._watermarks, self._losses, self._accepted):
            part.clear()

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        forget: Iterable[str] = (),
    ) -> None:
        """Forget, add and move if `fetched_from` is what is stored; else StalePositionError."""
        self._check()
        if fetched_from == moved_to and deltas:
            raise ValueError(
                f"partition {partition}: a batch that moves no position would count twice on a retry"
            )
        with self._lock:
            stored = self._positions.get(partition)
            if stored != fetched_from:
                raise StalePositionError(
                    f"partition {partition}: stored {stored}, batch fetched from {fetched_from}"
                )
            self._positions[partition] = moved_to
            for experiment in forget:
                self._sums.get(partition, {}).pop(experiment, None)
            for experiment, delta in deltas.items():
                sums = self._sums.setdefault(partition, {}).setdefault(experiment, {})
                for key, count in delta.items():
                    sums[key] = sums.get(key, 0) + count

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """How far the worker of this partition has read."""
        self._check()
        self._watermarks[partition] = (watermark_ms, lag)

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """Sums over partitions, positions by "topic/partition", lowest watermark (None: one is missing)."""
        self._check()
        with self._lock:
            standing = {partition: self._positions.get(partition) for partition in range(partitions)}
            standing = {
                partition: at
                for partition, at in standing.items()
                if (at.generation(experiment) if at else 0) == generation
            }
            total: Counter[str] = Counter()
            for partition in standing:
                total.update(self._sums.get(partition, {}).get(experiment, {}))
            marks = [
                self._watermarks[partition][0] for partition in standing if partition in self._watermarks
            ]
        positions = {
            f"{topic}/{partition}": offset
            for partition, at in standing.items()
            if at is not None
            for topic, offset in ((EXPOSURES, at.exposures), (EVENTS, at.events))
        }
        return dict(total), positions, min(marks) if marks and len(marks) == partitions else None

    def report_loss(self, partition: int, message: str) -> None:
        """Record data loss."""
        self._check()
        self._losses[partition] = message

    def losses(self) -> dict[int, str]:
        """Recorded data losses by partition."""
        self._check()
        return dict(self._losses)

    def acknowledge_loss(self, partition: int) -> None:
        """Accept the loss at the positions stored now."""
        self._check()
        self._losses.pop(partition, None)
        self._accepted[partition] = self._positions.get(partition)

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """Whether the loss at exactly these positions was accepted."""
        self._check()
        return partition in self._accepted and self._accepted[partition] == positions


class MemoryStateCache(_Failing):
    """StateCache: experiments by name, heartbeats and leases that expire by `clock`."""

    def __init__(self, clock: Clock = wall_ms):
        self._clock = clock
        self._states: dict[str, Experiment] = {}
        self._beats: dict[str, tuple[Heartbeat, float]] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    def put(self, state: Experiment) -> bool:
        """Store if newer than what is there."""
        self._check()
        stored = self._states.get(state.name)
        if stored is not None and stored.revision >= state.revision:
            return False
        self._states[state.name] = state
        return True

    def get(self, experiment: str) -> Experiment | None:
        """The cached state."""
        self._check()
        return self._states.get(experiment)

    def forget(self) -> None:
        """Lose everything, as a restarted Redis does."""
        self._states.clear()
        self._beats.clear()
        self._leases.clear()

    def beat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """Report; expires after `ttl_s`."""
        self._check()
        self._beats[heartbeat.replica] = (heartbeat, self._clock() + ttl_s * 1_000)

    def heartbeats(self) -> list[Heartbeat]:
        """Of all live replicas, by name."""
        self._check()
        now = self._clock()
        return [beat for _, (beat, until) in sorted(self._beats.items()) if until > now]

    def vouch(self, experiment: str) -> None:
        """Nothing: pins of the double are elsewhere."""
        self._check()

    def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease."""
        self._check()
        now = self._clock()
        owner, until = self._leases.get(name, (holder, 0.0))
        if owner != holder and until > now:
            return False
        self._leases[name] = (holder, now + ttl_s * 1_000)
        return True


class MemoryDecisionLog(_Failing):
    """DecisionLog over a list. `fold(state, decision)` is the pure function that makes the next state."""

    def __init__(self, fold: Fold = apply, cache: StateCache | None = None):
        self._fold = fold
        self._cache = cache
        self._states: dict[str, Experiment] = {}
        self._history: dict[str, list[Decision]] = {}
        self._lock = threading.Lock()

    def catch_up(self) -> Mapping[str, Experiment]:
        """The state of every experiment."""
        self._check()
        return dict(self._states)

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """Records that count, oldest first."""
        self._check()
        return [record for record in self._history.get(experiment, []) if record.revision > after_revision]

    def append(self, decision: Decision) -> Experiment:
        """Append and return the new state; StalePositionError if the revision is not the next one."""
        self._check()
        with self._lock:
            state = self._states.get(decision.experiment)
            following = 1 if state is None else state.revision + 1
            if decision.revision != following:
                raise StalePositionError(
                    f"{decision.experiment}: revision {decision.revision} is void, {following} is next"
                )
            new = self._states[decision.experiment] = self._fold(state, decision)
            self._history.setdefault(decision.experiment, []).append(decision)
        if self._cache is not None:
            self._cache.put(new)
            if state is None:
                self._cache.vouch(decision.experiment)
        return new


class MemoryOnlineReader(_Failing):
    """OnlineReader: `rows` by user, pins that expire by `clock`. `delay_s` makes it slow."""

    def __init__(self, clock: Clock = wall_ms):
        self.rows: dict[str, UserRow] = {}
        self.pins: dict[str, tuple[Pin, float]] = {}
        self.delay_s = 0.0
        self.vouched = True
        self.clock = clock

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row, pin (first writer wins) and whether ours was written."""
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        self._check()
        row = self.rows.get(user, UserRow())
        if unit_key is None:
            return row, None, False
        if proposal is not None and not self.vouched:
            return row, None, False
        pin, until = self.pins.get(unit_key, (None, 0.0))
        if pin is not None and until > self.clock():
            return row, pin, False
        if proposal is None:
            return row, None, False
        self.pins[unit_key] = (proposal, self.clock() + ttl_s * 1_000)
        return row, proposal, True

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin."""
        self._check()
        self.pins[unit_key] = (pin, self.clock() + ttl_s * 1_000)


class MemoryPinStore(_Failing):
    """PinStore over a MemoryOnlineReader, whose pins it puts back and for whom it vouches."""

    def __init__(self, reader: MemoryOnlineReader):
        self._reader = reader
        self.done: set[int] = set()
        self._begun: set[int] = set()

    def restored(self) -> frozenset[int]:
        """Partitions that are done."""
        self._check()
        return frozenset(self.done)

    def begin(self, partitions: Iterable[int]) -> None:
        """Remembered until everything is lost."""
        self._check()
        self._begun.update(partitions)

    def put_back(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """Overwrite."""
        self._check()
        now_ms = self._reader.clock()
        self._reader.pins.update({key: (pin, now_ms + ttl_ms) for key, (pin, ttl_ms) in pins.items()})

    def mark_restored(self, partition: int) -> bool:
        """One more is done, if it was begun."""
        self._check()
        if partition in self._begun:
            self.done.add(partition)
        return partition in self._begun

    def vouch(self, experiments: Iterable[str], partitions: int) -> bool:
        """The reader trusts its pins again."""
        self._check()
        self._reader.vouched = self._reader.vouched or len(self.done) >= partitions
        return len(self.done) >= partitions

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        self.done.clear()
        self._begun.clear()
        self._reader.pins.clear()
        self._reader.vouched = False


class MemoryItemOverlay(_Failing):
    """ItemOverlay: the newest change of each key, in the order of the log."""

    def __init__(self) -> None:
        self._said: dict[str, ItemChanged] = {}
        self._place: Laid | None = None
        self._lock = threading.Lock()

    def laid(self) -> Laid | None:
        """How far the log has been laid."""
        self._check()
        return self._place

    def changes(self) -> tuple[Laid | None, list[ItemChanged]]:
        """The place and the newest change of each key."""
        self._check()
        with self._lock:
            return self._place, list(self._said.values())

    def lay(self, fetched_from: Laid | None, moved_to: Laid, changes: Sequence[ItemChanged]) -> None:
        """Keep the newest of each key and move, if the place is `fetched_from`."""
        self._check()
        with self._lock:
            if self._place != fetched_from:
                raise StalePositionError(f"the live catalogue no longer stands at {fetched_from}")
            for change in changes:
                self._said.pop(change.key, None)
                self._said[change.key] = change
            self._place = moved_to

    def forget(self) -> None:
        """Lose everything, as an emptied Redis does."""
        with self._lock:
            self._said, self._place = {}, None
