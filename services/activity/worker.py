"""Events in, rows out: load, merge, stamp, push, publish, then remember the position.

Every step may be repeated: positions are saved last, and a row that holds an event already is not changed by
it. A crash after a push leaves a row that history has not seen; the replay finds nothing to push and
publishes that row as it stands.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from models.recommender import ProgressCallback, no_progress
from services.activity import rows
from services.activity.restore import Restored, Shape, restore
from services.errors import BadMessageError, DataLossError, StalePositionError
from services.messages import events
from services.messages.events import ActivityRow, Event
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin, Record
from services.ports.features import ActivityStore, FeatureStore
from services.runtime.row_turns import write_in_turns

logger = logging.getLogger(__name__)

ACK_S = 5.0
LOOK_EVERY_MS = 1_000


@dataclass(slots=True)
class Counts:
    """What a worker did since it started. bad: events passed over, by code (the bandit worker buries them);
    late: pushes that were readable only after their rows' timestamp; untold: rows that no record holds, so
    that they are online and in no history."""

    events: int = 0
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    late: int = 0
    untold: int = 0
    push_ms: list[float] = field(default_factory=list)  # of the last pushes, most recent last


class ActivityWorker:
    """One worker. `clock` answers ms since the epoch; `most`: entries a row keeps; `horizon_ms`: see
    rows.stamp; `progress` hears of a restoration."""

    def __init__(
        self,
        deps: "Deps",
        clock: Callable[[], int],
        *,
        most: int,
        horizon_ms: int,
        progress: ProgressCallback = no_progress,
    ):
        self._deps = deps
        self._clock = clock
        self._most = most
        self._horizon_ms = horizon_ms
        self._shape = Shape(most, horizon_ms, deps.ttl_ms)
        self._progress = progress
        self._looked_ms = 0
        self._read_anew: Mapping[tuple[str, int], int] = {}  # ends of the log when features were restored
        self.restored = Restored()
        self._log_id: str | None = None
        self._placed: frozenset[tuple[str, int]] | None = None
        self.counts = Counts()

    def step(self, timeout_s: float) -> int:
        """Handle what has arrived, waiting `timeout_s` for something; returns the number of records.

        Raises UnavailableError; then nothing is lost: the next step starts again from the saved positions.
        """
        try:
            self._take_place()
            records = self._deps.consumer.poll(timeout_s)
            if records:
                self._handle(records)
            self._look_around()
        except StalePositionError as error:
            logger.error("%s: the features are loaded again from their histories, then from the log", error)
            self._placed = None
            return 0
        except DataLossError as error:
            logger.warning("events are gone from the log (%s); going on with what is there", error)
            self._restart_from_the_start()
            return 0
        except Exception:
            self._placed = None
            raise
        return len(records)

    def _take_place(self) -> None:
        """Seek to the saved positions when we start, after trouble, and when partitions come or go."""
        ours = self._deps.owned()
        if ours == self._placed:
            return
        self._log_id = self._deps.admin.log_id()
        saved = self._deps.store.positions(self._log_id)
        places = {pair: self._place(pair, saved) for pair in ours}
        if not ours <= saved.keys():
            self.restored = restore(
                self._deps.store, self._deps.features, self._shape, self._clock, self._progress
            )
            self._read_anew = self._deps.consumer.end_offsets(ours)
            self._deps.store.initialize_positions(self._log_id, places)
        self._deps.consumer.assign(places)
        self._placed = ours

    def _look_around(self) -> None:
        """Raises StalePositionError if Redis forgot us while nothing came. Another log is read from its
        start: it may have grown past our place, and then no read tells."""
        if self._clock() - self._looked_ms < LOOK_EVERY_MS:
            return
        self._looked_ms = self._clock()
        self._require_positions()
        if self._deps.admin.log_id() != self._log_id:
            logger.warning("the broker holds another log than the one read so far: it is read as well")
            self._placed = None

    def _require_positions(self) -> None:
        if not (self._placed or frozenset()) <= self._deps.store.positions(self._log_id or "").keys():
            raise StalePositionError("Redis forgot the activity of users")

    def _place(self, pair: tuple[str, int], saved: Mapping[tuple[str, int], int]) -> int:
        first, end = self._deps.consumer.bounds(*pair)
        return min(max(saved.get(pair, first), first), end)

    def _restart_from_the_start(self) -> None:
        ours = self._placed or self._deps.owned()
        self._deps.consumer.assign({pair: self._deps.consumer.bounds(*pair)[0] for pair in ours})

    def _handle(self, records: list[Record]) -> None:
        by_user: dict[str, list[Event]] = defaultdict(list)
        for record in records:
            try:
                event = events.decode(Event, record.value)
            except BadMessageError as error:
                self.counts.bad[error.code] += 1
                logger.info("%s/%d/%d: %s", record.topic, record.partition, record.offset, error)
                continue
            user = rows.owner(event)
            if user is not None:
                by_user[user].append(event)
        self._publish(self._push(by_user))
        positions = self._deps.consumer.positions()
        self._deps.store.save_positions(self._log_id or "", positions)
        if self.restored.known and all(
            positions.get(pair, 0) >= end for pair, end in self._read_anew.items()
        ):
            self.restored.known = {}
        self.counts.events += len(records)

    def _push(self, by_user: Mapping[str, list[Event]]) -> list[ActivityRow]:
        """Rows of these users as they are online now: pushed if an event was new, else as they stood."""
        return write_in_turns(
            self._deps.store,
            list(by_user),
            lambda users: self._renew({user: by_user[user] for user in users}),
        )

    def _renew(self, by_user: Mapping[str, list[Event]]) -> list[ActivityRow]:
        """As `_push`, for users whom nobody else writes now."""
        before = self._deps.store.load(list(by_user))
        self._require_positions()  # after the load: rows that were forgotten are never taken for new ones
        merged = [rows.merge(before.get(user), user, acts, self._most) for user, acts in by_user.items()]
        started_ms = self._clock()
        current = {row.user_id: row for row in merged if row == before.get(row.user_id)}
        new = [rows.stamp(row, started_ms, self._horizon_ms) for row in merged if row.user_id not in current]
        if new:
            self._deps.store.push(new)
            self._note_push(self._clock() - started_ms, len(new))
        return [*filter(self._unpublished, current.values()), *new]

    def _unpublished(self, row: ActivityRow) -> bool:
        """A row as history has it need not be told again: now and then a whole log is read anew."""
        return self.restored.known.get(row.user_id) != row.received_at

    def _note_push(self, took_ms: float, pushed: int) -> None:
        self.counts.rows += pushed
        self.counts.push_ms = [*self.counts.push_ms[-9_999:], took_ms]
        if took_ms > self._horizon_ms:
            self.counts.late += 1
            logger.warning(
                "a push of %d rows took %.0f ms, longer than RINGSIDE_ACTIVITY_HORIZON_MS (%d): "
                "that long these rows counted as readable and were not yet",
                pushed,
                took_ms,
                self._horizon_ms,
            )

    def _publish(self, current: Iterable[ActivityRow]) -> None:
        """Tell the lake, and wait until the broker has all of it. A row that is larger than a record may be
        is passed over: it would be no smaller at the next try."""
        send = self._deps.producer.send
        sent = [(row, send(events.ACTIVITY, row.user_id, events.encode(row))) for row in current]
        for row, future in sent:
            try:
                future.result(ACK_S)
            except BadMessageError as error:
                self.counts.untold += 1
                logger.error("the history will lack a row of %d items: %s", len(row.item_ids), error)


@dataclass(frozen=True, slots=True)
class Deps:
    """What a worker works with. owned: the (topic, partition) pairs that are this worker's now."""

    consumer: EventConsumer
    producer: EventProducer
    admin: LogAdmin
    store: ActivityStore
    owned: Callable[[], frozenset[tuple[str, int]]]
    features: FeatureStore | None = None  # histories to restore from; None: the log is all there is
    ttl_ms: int = 30 * 86_400_000  # of a row
