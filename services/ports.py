"""Small protocols at real I/O, and the values that cross them. Adapters implement them; processes use them.

In-memory doubles live in `services.adapters.memory` and pass the same conformance suite as the real ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.experiment import Decision, Experiment
from models.contract import Catalogue, Interactions, Manifest, Progress, Recommender, silent
from services.events import EVENTS, EXPOSURES, ActivityRow, ItemChanged

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# ---- the event log (Kafka) ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a topic. `append_ms`: when the broker appended it (LogAppendTime; on the embedded broker
    the producer's time), ms since the epoch. What Kafka calls null, a value or a header's, reads as empty."""

    topic: str
    partition: int
    offset: int
    append_ms: int
    key: bytes | None
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()


class EventProducer(Protocol):
    """Idempotent producer on its own thread behind a bounded queue. Never blocks the caller, starts without
    a broker."""

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """Queue a record; partition = stable hash of key (text as UTF-8). The future holds the position once
        acknowledged (`value` empty), or UnavailableError (queue full, broker gone past its deadline)."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued is acknowledged; False if that took longer."""

    def close(self, timeout_s: float = 5.0) -> None:
        """Flush and stop."""


class EventConsumer(Protocol):
    """Reads chosen partitions from chosen offsets; commits nothing (positions live with the state they
    belong to)."""

    def assign(self, positions: Mapping[tuple[str, int], int]) -> None:
        """Read these (topic, partition) pairs from these offsets on; replaces the earlier assignment."""

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """Next records, in order within a partition. Raises DataLossError if a position is outside the
        log."""

    def positions(self) -> dict[tuple[str, int], int]:
        """Next offset to be read of every assigned partition (may run past offsets that hold no record)."""

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """(first offset kept, offset after the last) of the log. Raises UnavailableError."""

    def ends(self, pairs: Iterable[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """Offset after the last of many partitions, in one round trip. Raises UnavailableError."""

    def since(self, pairs: Iterable[tuple[str, int]], at_ms: int) -> dict[tuple[str, int], int]:
        """An offset of each from which on everything is found that was appended at `at_ms` (ms) or later; the
        first one kept where the broker can't look up by time. Raises UnavailableError."""

    def lag(self) -> dict[tuple[str, int], int]:
        """Records between us and the end of each assigned partition, as the last poll saw it; partitions
        whose end isn't known yet are left out. Asks nobody."""

    def close(self) -> None:
        """Stop; idempotent."""


class GroupConsumer(EventConsumer, Protocol):
    """A consumer that shares partitions with the other members of its group (Apache Kafka only; embedded:
    all).

    The share changes only inside `poll`. A pair that is new to us yields nothing and stands in no
    `positions()` until `assign` names it.
    """

    def assignment(self) -> frozenset[tuple[str, int]]:
        """Pairs that are ours now. A change means: drop what belongs to the others, load what is new."""


class LogAdmin(Protocol):
    """Topics and identity of a log."""

    def create_topics(self, partitions: int) -> list[str]:
        """Create what is missing of Ringside's topics; returns the names created."""

    def partitions(self, topic: str) -> int:
        """How many partitions `topic` has."""

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """Identity of these topics' log. A broker that lost its data answers another one, and one that can
        tell also when a topic was deleted and made anew. Raises UnavailableError."""


# ---- state in Redis ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pin:
    """The assignment that a unit keeps."""

    weights_version: int
    arm: str
    propensity: float
    unit_at: int  # ms; received_at of the unit's first exposure


@dataclass(frozen=True, slots=True)
class UserRow:
    """Online features of one user, as one read returned them. Lists are most recent first; `*_at` in ms.
    `activity_at` / `profile_at`: event timestamps of the two views, ms, 0 when absent or older than the
    ttl."""

    recent_items: tuple[str, ...] = ()
    recent_at: tuple[int, ...] = ()
    recent_types: tuple[str, ...] = ()
    activity_at: int = 0
    profile: Mapping[str, float] = field(default_factory=dict)
    profile_at: int = 0


class OnlineReader(Protocol):
    """The one read of /recommend: features and pin in a single round trip."""

    async def read(
        self, user: str, unit_key: str | None, proposal: Pin | None, ttl_s: float
    ) -> tuple[UserRow, Pin | None, bool]:
        """Row of `user` (the routing key), the unit's pin (first writer wins: ours if there was none) and
        whether ours was written. `unit_key` None: features only. With a proposal, no pin comes back while
        pins of the experiment may be missing. Raises UnavailableError at its deadline."""

    async def replace_pin(self, unit_key: str, pin: Pin, ttl_s: float) -> None:
        """Overwrite a pin whose arm is retired, rolled back or paused (the only reasons)."""


class PinStore(Protocol):
    """Pins as whoever puts them back sees them. All methods raise UnavailableError."""

    def restored(self) -> frozenset[int]:
        """Partitions whose pins were put back since Redis was empty."""

    def begin(self, partitions: Iterable[int]) -> None:
        """From now on pins of these partitions are put back through this object."""

    def put_back(self, pins: Mapping[str, tuple[Pin, int]]) -> None:
        """Set pins by unit key, each for so many ms; what is there is overwritten."""

    def mark_restored(self, partition: int) -> bool:
        """All pins of a partition's units are there; False, and nothing is marked, if Redis lost its data
        after `begin`, and so what was put back."""

    def vouch(self, experiments: Iterable[str], partitions: int) -> bool:
        """No pin of these experiments is missing: whoever has none is new. False, and nothing is said, if
        fewer than so many partitions are restored at this very moment."""


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


# "<weights version>|<arm>|<hour>|<n, s, f or c>" and "acct|<arm>|<what>" -> count; see experiments.tally
Sums = dict[str, int]


class TallyStore(Protocol):
    """Sums of each partition and the positions they stand at; they change together or not at all. All
    methods raise UnavailableError."""

    def load(self, partition: int) -> tuple[Positions | None, dict[str, Sums]]:
        """Positions (None: never counted) and sums by experiment."""

    def standing(self, partitions: Iterable[int]) -> dict[int, Positions]:
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

    def beat(self, heartbeat: Heartbeat, ttl_s: float) -> None:
        """Report; expires."""

    def heartbeats(self) -> list[Heartbeat]:
        """Of all live replicas."""

    def vouch(self, experiment: str) -> None:
        """An experiment that begins now: nobody has a pin of it yet, so none is missing (see PinStore)."""

    def lease(self, name: str, holder: str, ttl_s: float) -> bool:
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


@dataclass(frozen=True, slots=True)
class Laid:
    """Everything of topic `items` before `offset` in the log `log` (services.ports.LogAdmin.log_id)."""

    log: str
    offset: int


class ItemOverlay(Protocol):
    """A copy of the topic `items` for those who serve: changes of the live catalogue. The log is the truth;
    what is lost here is laid anew from it."""

    def laid(self) -> Laid | None:
        """How far the log has been laid; None: nothing is here, or it was lost. Raises UnavailableError."""

    def changes(self) -> tuple[Laid | None, list[ItemChanged]]:
        """The place and, as of it, the newest change of each key, in the order of the log. Raises
        UnavailableError."""

    def lay(self, fetched_from: Laid | None, moved_to: Laid, changes: Sequence[ItemChanged]) -> None:
        """Keep the newest of each key and move, only if the place is `fetched_from`; else
        StalePositionError."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an imported catalogue knows: the fields that its file had, as of when (ms); 0: that is not
    known."""

    as_of_ms: int = 0
    fields: frozenset[str] = frozenset()


# ---- data and models ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dataset:
    """One imported data version. `shift_s` was added to every original time (0: none)."""

    version: str
    catalogue: Catalogue
    interactions: Interactions
    source: str
    shift_s: float = 0.0


class RowLocks(Protocol):
    """Who may write rows of `user_activity`: one at a time of each user's."""

    def writing(self, users: Sequence[str]) -> AbstractContextManager[frozenset[str]]:
        """Those of `users` whom nobody else is writing now; while this lasts nobody else will. Raises
        UnavailableError, also at its end if it lasted so long (seconds) that others could write: then another
        one's push may have undone ours, so load and push again."""


class ActivityStore(RowLocks, Protocol):
    """The view `user_activity` as those who write it see it, and how far they have read the log. Several may
    write, and the same user: each loads and pushes within `writing`."""

    def load(self, users: Sequence[str]) -> dict[str, ActivityRow]:
        """Rows as they are online, ttl or not; users without one are left out. Raises UnavailableError."""

    def push(self, rows: Sequence[ActivityRow]) -> None:
        """Make rows readable; returns when they are. A row that is not later than the one there is dropped.
        Raises UnavailableError: some may be readable, some not."""

    def warm_up(self) -> None:
        """Make the first push as quick as the others; writes nothing. Raises UnavailableError."""

    def positions(self, log_id: str) -> dict[tuple[str, int], int]:
        """Saved next offsets of the log `log_id`; empty if it is new to us. Raises UnavailableError."""

    def begin(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember the first next offsets of these partitions. Raises UnavailableError."""

    def save_positions(self, log_id: str, positions: Mapping[tuple[str, int], int]) -> None:
        """Remember next offsets, if those of the same partitions are still there; else StalePositionError:
        Redis forgot them, and with them the rows. Raises UnavailableError."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Offsets [first, after) of a partition; `log` is a short tag of the log's identity."""

    log: str
    partition: int
    first: int
    after: int

    @property
    def stem(self) -> str:
        """Name of the lake file that answers for it."""
        return f"{self.log}-{self.partition}-{self.first}-{self.after}"


class LakeFiles(Protocol):
    """Parquet files of the topics. A file answers for a span of offsets and appears whole; a partition has
    one writer, who took it last."""

    def tag(self, log_id: str) -> str:
        """How file names call a log."""

    def write(self, topic: str, span: Span, at_ms: int, rows: "pa.Table") -> None:
        """Write the rows of `span` as one file, in the folder of the hour of `at_ms`."""

    def take(self, topic: str, partitions: Iterable[int], log: str) -> dict[int, int]:
        """Write these partitions from now on, and nobody else; the offset after the last one that a file
        answers for, of those that have a file of this log. Raises UnavailableError while another one writes;
        call it again then."""

    def holding(self, topic: str, partition: int) -> AbstractContextManager[None]:
        """While this lasts nobody can take the partition. Raises StalePositionError if somebody has taken it
        since `take`."""


class FeatureStore(Protocol):
    """Feast as processes off the hot path use it: register, keep history, load online, look back."""

    def apply(self) -> None:
        """Register entities, views and services; idempotent."""

    def applied(self) -> bool:
        """Whether views are registered here; costs no import of Feast."""

    def open(self) -> None:
        """Import Feast (seconds) and open what is registered here, registering it first where nothing is."""

    def history(self, view: str, columns: Sequence[str] | None = None) -> "pa.Table":
        """Every row of a view's offline history."""

    def append(self, view: str, rows: "pa.Table", name: str) -> None:
        """Add a file of rows to a view's offline history; the same name replaces it."""

    def extend(self, view: str, rows: "pa.Table", name: str) -> None:
        """Add rows to a file of a view's offline history; rows that it holds already change nothing."""

    def write_online(self, view: str, rows: "pa.Table") -> None:
        """Load rows online, but for those not later than the row there. Raises UnavailableError."""

    def materialize(self, views: Sequence[str], until: datetime) -> None:
        """Load the latest rows up to `until` that earlier runs did not. Raises UnavailableError."""

    def rows_as_of(
        self, view: str, features: Sequence[str], keys: Sequence[str], at_ms: Sequence[int]
    ) -> "pd.DataFrame":
        """Row of each key as it stood at its moment, point-in-time and ttl applied; nulls where there was
        none. For a served vector the moment is the row's own timestamp (Exposure.features_at; 0: none was
        served)."""


class DataStore(Protocol):
    """Imported data versions on disk."""

    def current(self) -> str | None:
        """The version that training uses; None before the first import."""

    def versions(self) -> list[str]:
        """Versions present, oldest first."""

    def load(self, version: str | None = None) -> Dataset:
        """A version (None: the current one). Raises ConfigurationError if there is none, or it is damaged."""

    def imported(self, version: str) -> Imported:
        """What the catalogue of this version knows; moves when the same data are imported again."""

    def table(self, name: str, version: str | None = None) -> "pa.Table":
        """One table as imported: items, users, interactions, perhaps holdout."""


class ModelStore(Protocol):
    """Model artifacts on disk: `<home>/models/<model_version>/`."""

    def save(
        self,
        model: Recommender,
        *,
        data_version: str,
        window: tuple[float, float],
        metrics: Mapping[str, float],
        now_ms: int,
    ) -> Manifest:
        """Write an artifact atomically; its version is `<algorithm>-<UTC time>-<hash>`."""

    def load(self, model_version: str) -> tuple[Recommender, Manifest]:
        """A verified artifact. Raises ArtifactError naming what is wrong (hash, missing file, foreign
        format)."""

    def versions(self) -> list[str]:
        """Versions present, oldest first."""


class ModelRegistry(Protocol):
    """The registry people look at (MLflow): versions, aliases champion / challenger / holdback, evidence as
    tags."""

    def register(self, manifest: Manifest) -> None:
        """Record a model version with its metrics and parameters."""

    def alias(self, name: str, model_version: str | None) -> None:
        """Point an alias at a version, or remove it."""

    def tag(self, model_version: str, tags: Mapping[str, str]) -> None:
        """Attach evidence."""


@dataclass(frozen=True, slots=True)
class PastEvents:
    """Interactions as the lake has them, oldest first. user (routing key), item: unicode [n]; at: float64
    [n], s; kind: uint8 [n], index into KINDS."""

    user: NDArray[np.str_]
    item: NDArray[np.str_]
    at: NDArray[np.float64]
    kind: NDArray[np.uint8]

    @classmethod
    def none(cls) -> "PastEvents":
        """No events."""
        return cls(np.empty(0, "<U1"), np.empty(0, "<U1"), np.empty(0), np.empty(0, np.uint8))


class EventHistory(Protocol):
    """What shoppers did, for training."""

    def since(self, after_ms: int) -> PastEvents:
        """Events received after `after_ms`, oldest first, each once."""


class TextEncoder(Protocol):
    """Texts to vectors."""

    def encode(self, texts: Sequence[str], progress: Progress = silent) -> NDArray[np.float32]:
        """One row a text, float32 [n, d], in order."""
