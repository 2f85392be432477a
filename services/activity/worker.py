"""The activity worker: events in, rows of the view `user_activity` out.

For each batch of events, in this order: load the rows of their users, merge the events, stamp the changed
rows with the time by which they can be read, push them to Feast's online store, publish them on
`activity-rows` (the lake makes the offline history of it), and save the positions.

Every step may be repeated, because positions are saved last and merging an event twice changes nothing. After
a crash between push and publication the replay finds nothing to push, and publishes the row as it is online.

Positions are stored in Redis with the rows. If they are missing, Redis has lost the rows as well: these are
restored from their offline histories (services.activity.restore), and later events are read from the log.
"""

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from models.recommender import ProgressCallback, no_progress
from services.activity import rows
from services.activity.restore import Restored, RowSettings, restore
from services.errors import BadMessageError, DataLossError, StalePositionError
from services.messages import events
from services.messages.events import ActivityRow, Event
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin, Record
from services.ports.features import ActivityStore, FeatureStore
from services.runtime.row_writes import write_with_row_locks

logger = logging.getLogger(__name__)

ACKNOWLEDGE_S = 5.0
CHECK_MS = 1_000  # between two checks that Redis and the log are still the same
Pair = tuple[str, int]  # (topic, partition)


@dataclass(slots=True)
class ActivityCounts:
    """What a worker did since it started. bad: skipped events by code (the attribution worker writes their
    dead letters); late: pushes that ended after their rows' timestamp; unpublished: rows that are online and
    in no history, because they are too large for a record."""

    events: int = 0
    rows: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    late: int = 0
    unpublished: int = 0


@dataclass(frozen=True, slots=True)
class Deps:
    """What the worker is composed of. owned: the (topic, partition) pairs that are assigned to it. features:
    histories to restore from; None if the log is the only source. ttl_ms: of a row."""

    consumer: EventConsumer
    producer: EventProducer
    admin: LogAdmin
    store: ActivityStore
    owned: Callable[[], frozenset[Pair]]
    features: FeatureStore | None = None
    ttl_ms: int = 30 * 86_400_000


class ActivityWorker:
    """Handles the partitions that it owns. `clock`: ms since the epoch; `most`: entries of a row;
    `horizon_ms`: see rows.stamp; `progress`: of restoring."""

    def __init__(
        self,
        deps: Deps,
        clock: Callable[[], int],
        *,
        most: int,
        horizon_ms: int,
        progress: ProgressCallback = no_progress,
    ):
        self._deps = deps
        self._clock = clock
        self._settings = RowSettings(most, horizon_ms, deps.ttl_ms)
        self._progress = progress
        self._checked_ms = 0
        self._log_id: str | None = None
        self._assigned: frozenset[Pair] | None = None  # None: the consumer must be assigned again
        self.restored = Restored()
        self._restored_to: Mapping[Pair, int] = {}  # ends of the log when the features were restored
        self.counts = ActivityCounts()

    def step(self, timeout_s: float) -> int:
        """Handle the events that arrive within `timeout_s`; return the number of records.

        Raises UnavailableError; nothing is lost, and the next step starts again from the saved positions.
        """
        try:
            self._update_assignment()
            records = self._deps.consumer.poll(timeout_s)
            if records:
                self._handle(records)
            self._check_stores()
        except StalePositionError as error:
            logger.error("%s: restoring the features from their histories, then from the log", error)
            self._assigned = None
            return 0
        except DataLossError as error:
            logger.warning("events are gone from the log (%s); continuing with the first one there is", error)
            self._seek_to_start()
            return 0
        except Exception:
            self._assigned = None
            raise
        return len(records)

    # ---- assignment and positions --------------------------------------------------------------------------

    def _update_assignment(self) -> None:
        """Seek to the saved positions: at the start, after an error, and when the owned partitions change."""
        owned = self._deps.owned()
        if owned == self._assigned:
            return
        self._log_id = self._deps.admin.log_id()
        saved = self._deps.store.positions(self._log_id)
        positions = {pair: self._position(pair, saved) for pair in owned}
        if not owned <= saved.keys():
            self.restored = restore(
                self._deps.store, self._deps.features, self._settings, self._clock, self._progress
            )
            self._restored_to = self._deps.consumer.end_offsets(owned)
            self._deps.store.initialize_positions(self._log_id, positions)
        self._deps.consumer.assign(positions)
        self._assigned = owned

    def _position(self, pair: Pair, saved: Mapping[Pair, int]) -> int:
        first, end = self._deps.consumer.bounds(*pair)
        return min(max(saved.get(pair, first), first), end)

    def _seek_to_start(self) -> None:
        owned = self._assigned or self._deps.owned()
        self._deps.consumer.assign({pair: self._deps.consumer.bounds(*pair)[0] for pair in owned})

    def _check_stores(self) -> None:
        """Check now and then that Redis still has the positions and the broker the same log.

        Without traffic no other call would notice that Redis lost its data. A log that was deleted and
        created again may have grown past the position of the old one, and then no read fails. Raises
        StalePositionError.
        """
        if self._clock() - self._checked_ms < CHECK_MS:
            return
        self._checked_ms = self._clock()
        self._require_positions()
        if self._deps.admin.log_id() != self._log_id:
            logger.warning("the broker holds another log than the one read so far; reading it from its start")
            self._assigned = None

    def _require_positions(self) -> None:
        if not (self._assigned or frozenset()) <= self._deps.store.positions(self._log_id or "").keys():
            raise StalePositionError("Redis lost the recent activity of users")

    # ---- handling ------------------------------------------------------------------------------------------

    def _handle(self, records: list[Record]) -> None:
        self._publish(self._update_rows(self._by_user(records)))
        positions = self._deps.consumer.positions()
        self._deps.store.save_positions(self._log_id or "", positions)
        if self.restored.published and all(
            positions.get(of, 0) >= end for of, end in self._restored_to.items()
        ):
            self.restored.published = {}  # the log is read to where it ended at the restoration
        self.counts.events += len(records)

    def _by_user(self, records: Iterable[Record]) -> dict[str, list[Event]]:
        by_user: dict[str, list[Event]] = defaultdict(list)
        for record in records:
            try:
                event = events.decode(Event, record.value)
            except BadMessageError as error:
                self.counts.bad[error.code] += 1
                logger.info("%s/%d/%d: %s", record.topic, record.partition, record.offset, error)
                continue
            user = rows.row_key(event)
            if user is not None:
                by_user[user].append(event)
        return by_user

    def _update_rows(self, by_user: Mapping[str, list[Event]]) -> list[ActivityRow]:
        """Push the rows that change; return the rows of all these users that are not published yet."""
        return write_with_row_locks(
            self._deps.store,
            list(by_user),
            lambda users: self._update_locked({user: by_user[user] for user in users}),
        )

    def _update_locked(self, by_user: Mapping[str, list[Event]]) -> list[ActivityRow]:
        """As `_update_rows`, for users whose rows are locked."""
        before = self._deps.store.load(list(by_user))
        self._require_positions()  # after the load, so that lost rows are never taken for those of new users
        merged = [
            rows.merge(before.get(user), user, of_user, self._settings.most)
            for user, of_user in by_user.items()
        ]
        started_ms = self._clock()
        unchanged = {row.user_id: row for row in merged if row == before.get(row.user_id)}
        changed = [
            rows.stamp(row, started_ms, self._settings.horizon_ms)
            for row in merged
            if row.user_id not in unchanged
        ]
        if changed:
            self._deps.store.push(changed)
            self._note_push(self._clock() - started_ms, len(changed))
        return [*filter(self._is_unpublished, unchanged.values()), *changed]

    def _is_unpublished(self, row: ActivityRow) -> bool:
        """Return False for a row that was restored from the history and has not changed since. Without this,
        reading a whole log again would publish every row again."""
        return self.restored.published.get(row.user_id) != row.received_at

    def _note_push(self, took_ms: int, pushed: int) -> None:
        self.counts.rows += pushed
        if took_ms > self._settings.horizon_ms:
            self.counts.late += 1
            logger.warning(
                "a push of %d rows took %.0f ms, more than RINGSIDE_ACTIVITY_HORIZON_MS (%d): for the "
                "difference, training sees rows that could not be read yet",
                pushed,
                took_ms,
                self._settings.horizon_ms,
            )

    def _publish(self, current: Iterable[ActivityRow]) -> None:
        """Publish rows for the lake and wait for the acknowledgements.

        A row that is too large for a record is skipped, because it would be no smaller at the next try.
        """
        send = self._deps.producer.send
        sent = [(row, send(events.ACTIVITY, row.user_id, events.encode(row))) for row in current]
        for row, future in sent:
            try:
                future.result(ACKNOWLEDGE_S)
            except BadMessageError as error:
                self.counts.unpublished += 1
                logger.error("the history will lack a row of %d items: %s", len(row.item_ids), error)
