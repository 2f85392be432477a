"""Experiment state and sums, and the log of decisions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from experiments.lifecycle.state import Decision, Experiment


@dataclass(frozen=True, slots=True)
class Positions:
    """Where a partition's sums stand: next offset of `exposures` to mature, next offset of `events` not yet
    accounted for, offset of `exposures` from which the join is rebuilt, and the log they belong to. `counts`:
    which recount (Experiment.counting.generation) the sums of an experiment are of, where there was one."""

    log_id: str
    exposures: int
    events: int
    rebuild: int
    counts: tuple[tuple[str, int], ...] = ()

    def generation(self, experiment: str) -> int:
        """Recount that the sums of `experiment` are of; 0: there was none."""
        return dict(self.counts).get(experiment, 0)


# "<weights version>|<arm>|<hour>|<n, s, f or c>" and "acct|<arm>|<what>" -> count; see
# experiments.counting.sums
Sums = dict[str, int]


class SumStore(Protocol):
    """Sums of each partition and the positions they stand at; they change together or not at all. All
    methods raise UnavailableError."""

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """Positions (None: never counted) and sums by experiment."""

    def positions(self, partitions: Iterable[int]) -> dict[int, Positions]:
        """Stored positions of those partitions that have any: one round trip, to see that Redis forgot."""

    def apply(
        self,
        partition: int,
        fetched_from: Positions | None,
        moved_to: Positions,
        deltas: Mapping[str, Sums],
        forget: Iterable[str] = (),
    ) -> None:
        """Drop the sums of the experiments to `forget`, add `deltas` and move, only if the stored positions
        equal `fetched_from`; else StalePositionError. Nothing is written where something stored is no sum."""

    def set_watermark(self, partition: int, watermark_ms: int, lag: int) -> None:
        """How far the worker has read (information for the decider's stall rule)."""

    def load_all(
        self, experiment: str, partitions: int, generation: int = 0
    ) -> tuple[Sums, dict[str, int], int | None]:
        """Sums over partitions; positions as "topic/partition" -> offset; lowest watermark, ms (None: some
        partition has none). A partition whose sums are of another recount than `generation` is as one that
        was never counted. Raises ValueError if what is stored is no sums: somebody else wrote there."""

    def report_loss(self, partition: int, message: str) -> None:
        """Record data loss with its range; the decider holds every experiment until it is acknowledged."""

    def losses(self) -> dict[int, str]:
        """Recorded data losses by partition."""

    def acknowledge_loss(self, partition: int, message: str) -> bool:
        """A person accepts the loss that `message` reports, at the positions stored now; the report is
        dropped. False, and nothing changes, if it is not (or no longer) what is reported: counting may have
        begun anew by then. After an UnavailableError either may have happened: call it again."""

    def withdraw_loss(self, partition: int, message: str) -> None:
        """The loss that `message` reports, if it is still what is reported, concerns nobody any more: the
        report is dropped, and nothing is accepted."""

    def loss_acknowledged(self, partition: int, positions: Positions | None) -> bool:
        """Whether the loss at exactly these positions (None: there were none) was accepted: counting may
        begin anew after it."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What one replica of the recommend service has loaded and serves."""

    replica: str
    revision: int
    champion: str  # arm name
    loaded: tuple[str, ...]  # model versions
    at_ms: int


class StateCache(Protocol):
    """A copy of experiment state for those who serve, and their heartbeats. Losing it loses nothing. All
    methods raise UnavailableError."""

    def put(self, state: Experiment) -> bool:
        """Store if newer than what is there."""

    def get(self, experiment: str) -> Experiment | None:
        """The cached state; None: there is none."""

    def put_heartbeat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """Report; expires."""

    def heartbeats(self) -> list[Heartbeat]:
        """Of all live replicas."""

    def mark_complete(self, experiment: str) -> None:
        """An experiment that begins now: nobody has a pin of it yet, so none is missing (see PinStore)."""

    def acquire_lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease; it saves work, correctness never depends on it."""


class DecisionLog(Protocol):
    """The topic `decisions` as a state machine. All methods raise UnavailableError."""

    def catch_up(self) -> Mapping[str, Experiment]:
        """Read to the end; the state of every experiment. What could be read before an UnavailableError is
        not read again."""

    def history(self, experiment: str, after_revision: int = 0) -> list[Decision]:
        """Records that count (void ones left out), oldest first, of what has been read."""

    def append(self, decision: Decision) -> Experiment:
        """Append, read back, and return the new state if ours was the first with its revision; else
        StalePositionError. Also refreshes the StateCache.

        Raises IllegalTransition if the decision makes no sense in the newest state: nothing was appended.
        After an UnavailableError it may be in the log or not: catch up before deciding again.
        """
