"""Sums and cached experiment state in memory, with the errors and expiries of the stores on Redis."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from experiments.lifecycle.state import Experiment
from services.adapters.memory.broker import Clock
from services.errors import StalePositionError
from services.messages.events import EVENTS, EXPOSURES
from services.ports.state import Heartbeat, Positions, Sums
from services.runtime.clock import wall_ms


class MemorySumStore:
    """See `services.ports.SumStore`."""

    def __init__(self) -> None:
        self._positions: dict[int, Positions] = {}
        self._sums: dict[int, dict[str, Sums]] = {}
        self._watermarks: dict[int, tuple[int, int]] = {}
        self._losses: dict[int, str] = {}
        self._accepted: dict[int, Positions | None] = {}
        self._lock = threading.Lock()

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """See SumStore."""
        with self._lock:
            sums = {experiment: dict(of) for experiment, of in self._sums.get(partition, {}).items()}
            return self._positions.get(partition), sums

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """See SumStore."""
        return {
            partition: self._positions[partition] for partition in partitions if partition in self._positions
        }

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        drop: Iterable[str] = (),
    ) -> None:
        """See SumStore."""
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
            for experiment in drop:
                self._sums.get(partition, {}).pop(experiment, None)
            for experiment, delta in deltas.items():
                sums = self._sums.setdefault(partition, {}).setdefault(experiment, {})
                for key, count in delta.items():
                    sums[key] = sums.get(key, 0) + count

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """See SumStore."""
        self._watermarks[partition] = (watermark_ms, lag)

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """See SumStore."""
        with self._lock:
            counted = {
                partition: at
                for partition in range(partitions)
                for at in [self._positions.get(partition)]
                if (at.generation(experiment) if at else 0) == generation
            }
            total: Counter[str] = Counter()
            for partition in counted:
                total.update(self._sums.get(partition, {}).get(experiment, {}))
            marks = [self._watermarks[partition][0] for partition in counted if partition in self._watermarks]
        positions = {
            f"{topic}/{partition}": offset
            for partition, at in counted.items()
            if at is not None
            for topic, offset in ((EXPOSURES, at.exposures), (EVENTS, at.events))
        }
        return dict(total), positions, min(marks) if marks and len(marks) == partitions else None

    def report_loss(self, partition: int, message: str) -> None:
        """See SumStore."""
        self._losses[partition] = message

    def losses(self) -> dict[int, str]:
        """See SumStore."""
        return dict(self._losses)

    def acknowledge_loss(self, partition: int, message: str) -> bool:
        """See SumStore."""
        with self._lock:
            if self._losses.get(partition) != message:
                return False
            del self._losses[partition]
            self._accepted[partition] = self._positions.get(partition)
            return True

    def withdraw_loss(self, partition: int, message: str) -> None:
        """See SumStore."""
        with self._lock:
            if self._losses.get(partition) == message:
                del self._losses[partition]

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """See SumStore."""
        return partition in self._accepted and self._accepted[partition] == positions


class MemoryStateCache:
    """See `services.ports.StateCache`. Heartbeats and leases expire by `clock` (ms)."""

    def __init__(self, clock: Clock = wall_ms):
        self._clock = clock
        self._states: dict[str, Experiment] = {}
        self._beats: dict[str, tuple[Heartbeat, float]] = {}
        self._leases: dict[str, tuple[str, float]] = {}

    def put(self, state: Experiment) -> bool:
        """See StateCache."""
        stored = self._states.get(state.name)
        if stored is not None and stored.revision >= state.revision:
            return False
        self._states[state.name] = state
        return True

    def get(self, experiment: str) -> Experiment | None:
        """See StateCache."""
        return self._states.get(experiment)

    def put_heartbeat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """See StateCache."""
        self._beats[heartbeat.replica] = (heartbeat, self._clock() + ttl_s * 1_000)

    def heartbeats(self) -> list[Heartbeat]:
        """See StateCache."""
        now = self._clock()
        return [beat for _, (beat, until) in sorted(self._beats.items()) if until > now]

    def mark_complete(self, experiment: str) -> None:
        """See StateCache. Pins are in another double, so this changes nothing."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """See StateCache."""
        now = self._clock()
        owner, until = self._leases.get(name, (holder, 0.0))
        if owner != holder and until > now:
            return False
        self._leases[name] = (holder, now + ttl_s * 1_000)
        return True
