"""Sums, cached experiment state, and the log of decisions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.state import Experiment


@dataclass(frozen=True, slots=True)
class Positions:
    """Positions in the log at which the sums of a partition are exact.

    exposures: next offset of `exposures` whose outcome is not final; events: next offset of `events` that is
    not accounted for; rebuild: offset of `exposures` from which the attribution join is rebuilt; log_id: the
    log that these offsets belong to; counts: recount generation of each experiment's sums, absent if never
    recounted.
    """

    log_id: str
    exposures: int
    events: int
    rebuild: int
    counts: tuple[tuple[str, int], ...] = ()

    def generation(self, experiment: str) -> int:
        """Recount generation of the sums of `experiment`; 0 if never recounted."""
        return dict(self.counts).get(experiment, 0)


Sums = dict[str, int]  # key (see experiments.counting.sums) -> count


class SumStore(Protocol):
    """Sums of each partition with the positions at which they are exact. Both change together or not at all.

    All methods raise UnavailableError.
    """

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """Positions (None: never counted) and sums by experiment."""

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """Stored positions of those partitions that have any, in one round trip."""

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        drop: Iterable[str] = (),
    ) -> None:
        """Delete the sums of the experiments to `drop`, add `deltas`, and move the positions to `moved_to`.

        Raises StalePositionError, and changes nothing, unless the stored positions are `fetched_from`.
        Changes nothing either if a stored value is not a count.
        """

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """Store how far the worker has read, for the decider's stall rule: event time in ms, records
        behind."""

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """Sums over all partitions, positions as "topic/partition" -> offset, and the lowest watermark in ms.

        The watermark is None if a partition has none. A partition whose sums have another recount generation
        is treated as never counted. Raises ValueError if a stored value is not a count, because another
        program wrote it.
        """

    def report_loss(self, partition: int, message: str) -> None:
        """Record a data loss with its range. The decider holds every experiment until it is acknowledged."""

    def losses(self) -> dict[int, str]:
        """Recorded data losses by partition."""

    def acknowledge_loss(self, partition: int, message: str) -> bool:
        """Accept, for an operator, the loss that `message` reports at the stored positions, and delete the
        report.

        Returns False and changes nothing if the report is another one by now, because counting may have
        restarted. After an UnavailableError either may have happened; call again.
        """

    def withdraw_loss(self, partition: int, message: str) -> None:
        """Delete the report `message`, if it is still stored, without accepting the loss: no active
        experiment is affected."""

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """Whether the loss at exactly these positions (None: there were none) was accepted, so that counting
        may restart after it."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The state that one replica of the recommend service has loaded. `champion`: arm; `loaded`: model
    versions."""

    replica: str
    revision: int
    champion: str
    loaded: tuple[str, ...]
    at_ms: int


class StateCache(Protocol):
    """A copy of experiment state for replicas, and their heartbeats. It can be rebuilt from the log of
    decisions.

    All methods raise UnavailableError.
    """

    def put(self, state: Experiment) -> bool:
        """Store a state unless the stored one is as new."""

    def get(self, experiment: str) -> Experiment | None:
        """The cached state; None if there is none."""

    def put_heartbeat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """Store a replica's heartbeat, which expires after `ttl_s`."""

    def heartbeats(self) -> list[Heartbeat]:
        """Heartbeats of all live replicas."""

    def mark_complete(self, experiment: str) -> None:
        """Mark the pins of a new experiment as complete: no unit has one yet (see PinStore.mark_complete)."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Acquire or renew a lease. It saves work; correctness never depends on it."""


class DecisionLog(Protocol):
    """The topic `decisions` as a state machine. All methods raise UnavailableError."""

    def catch_up(self) -> Mapping[str, Experiment]:
        """Read to the end, and return the state of every experiment. A call after an UnavailableError
        continues after the records that were read before it."""

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """Records that count, oldest first, among those read so far; void ones are left out."""

    def append(self, decision: Decision) -> Experiment:
        """Append a decision, read it back, and return the new state. Also refreshes the StateCache.

        Raises StalePositionError if another record got the revision first, and IllegalTransition if the
        newest state does not allow the decision (nothing is appended). After an UnavailableError the decision
        may be in the log or not; catch up before deciding again.
        """
