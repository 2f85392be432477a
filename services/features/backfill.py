"""Backfill of recent activity from the imported data: the recent items of users who have no row online.

A backfill row holds the last interactions of one user in the data set, and is stamped with the time of the
last one. It is loaded only where nothing would be served (no row is online, or only one older than the view's
ttl), or where the row online is an earlier backfill row. A row that the activity worker pushed is never
replaced: the data set may have later purchases (made elsewhere), and Feast would take the backfill row for
the newer version of that row and drop its clicks. Rows that are not loaded do not enter the history either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count

import pyarrow as pa
import pyarrow.compute as pc

from services.messages.events import ActivityRow
from services.ports.features import ActivityStore, FeatureStore
from services.ports.training import DataStore
from services.runtime.arrow_sql import latest_rows, query
from services.runtime.row_writes import write_with_row_locks

CHUNK = 1_000  # rows of a write, which takes tenths of a second; row locks last seconds
VIEW = "user_activity"
_STAMPS = ("user_id", "event_timestamp")
_RECENT = """
WITH numbered AS (
    SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY "at" DESC, row DESC) AS age FROM (
        SELECT user_id, item_id, "at", kind, row_number() OVER () AS row FROM interactions WHERE "at" <= $now
    )
)
SELECT user_id, list(item_id ORDER BY age) AS item_ids, list(epoch_ms("at") ORDER BY age) AS item_at,
       list(kind ORDER BY age) AS item_types, list($version || ':' || row ORDER BY age) AS event_ids,
       date_trunc('milliseconds', max("at")) AS event_timestamp
FROM numbered WHERE age <= $most GROUP BY user_id ORDER BY user_id
"""


def recent_activity(interactions: pa.Table, version: str, now: datetime, most: int) -> pa.Table:
    """Return rows of `user_activity`: the last `most` interactions of each user up to `now`, latest first."""
    return query(_RECENT, {"interactions": interactions}, now=now, most=most, version=version)


def backfill_activity(
    data: DataStore, activity: ActivityStore, store: FeatureStore, now: datetime, *, most: int, ttl_s: int
) -> int:
    """Load recent items of the current data version for users without any; return the number of rows.

    most: items of a user. ttl_s: age after which recent activity is not served.
    """
    version = data.current() or ""
    rows = recent_activity(data.table("interactions"), version, now, most)
    name = f"seed-{version}-{int(now.timestamp() * 1_000)}"
    oldest = now - timedelta(seconds=ttl_s)
    return load_backfill(rows, name, store, OnlineRows(activity, oldest, frozenset(data.versions())))


@dataclass(frozen=True, slots=True)
class OnlineRows:
    """The rows online that are served: those since `oldest`. `imports`: data versions, which name the events
    of backfill rows."""

    store: ActivityStore
    oldest: datetime
    imports: frozenset[str]

    def users_to_fill(self, rows: pa.Table) -> list[str]:
        """Return the users of `rows` who have no row online, or an earlier backfill row."""
        users = rows["user_id"].to_pylist()
        stamps = pc.cast(pc.cast(rows["event_timestamp"], pa.timestamp("ms", "UTC")), pa.int64()).to_pylist()
        to_fill: list[str] = []
        for at in range(0, len(users), CHUNK):
            online = self.store.load(users[at : at + CHUNK])
            to_fill += [
                user
                for user, stamp_ms in zip(users[at : at + CHUNK], stamps[at : at + CHUNK], strict=True)
                if self._needs_fill(online.get(user), stamp_ms)
            ]
        return to_fill

    def _needs_fill(self, row: ActivityRow | None, stamp_ms: int) -> bool:
        if row is None or row.received_at < self.oldest.timestamp() * 1_000:
            return True
        return row.received_at < stamp_ms and self.is_backfill(row.event_ids)

    def is_backfill(self, event_ids: Sequence[str]) -> bool:
        """Return whether a row with these events holds interactions of data versions only."""
        return all(event_id.partition(":")[0] in self.imports for event_id in event_ids)


def load_backfill(rows: pa.Table, name: str, store: FeatureStore, online: OnlineRows) -> int:
    """Load the rows of users without one online, and add them to the history as files `name`-…

    A user who has a row in the history only (Redis was emptied, or a run was killed) gets that row instead. A
    later backfill row in the history would be what the activity worker restores, without the user's clicks.
    Returns the number of rows that were loaded.
    """
    rows = _not_older_than(online.oldest, rows)
    rows = _rows_of(rows, online.users_to_fill(rows))
    from_history = _from_history(store, rows, online)
    new = rows.filter(pc.invert(_belongs_to(rows, from_history["user_id"].to_pylist())))
    files = count()

    def load(chunk: pa.Table) -> None:
        store.write_online(VIEW, chunk)

    def append_and_load(chunk: pa.Table) -> None:
        # History first: after a kill in between, the next run finds the row in the history and loads it. In
        # the other order, a row would be served that never enters the history.
        store.append(VIEW, chunk, f"{name}-{next(files)}")
        load(chunk)

    return _load_missing(from_history, online, load) + _load_missing(new, online, append_and_load)


def _load_missing(rows: pa.Table, online: OnlineRows, load: Callable[[pa.Table], None]) -> int:
    """Call `load` with rows that are locked, unless one has come online meanwhile; return how many.

    Without the lock, a first click pushed between Feast's comparison of timestamps and its write would be
    lost.
    """

    def write(users: list[str]) -> list[str]:
        to_fill = online.users_to_fill(_rows_of(rows, users))
        if to_fill:
            load(_rows_of(rows, to_fill))
        return to_fill

    users = rows["user_id"].to_pylist()
    return sum(
        len(write_with_row_locks(online.store, users[at : at + CHUNK], write))
        for at in range(0, len(users), CHUNK)
    )


def _from_history(store: FeatureStore, rows: pa.Table, online: OnlineRows) -> pa.Table:
    """Return the latest row in the history of each user of `rows`, if it is recent enough to be served and is
    not an earlier backfill row. Most users have none, so whole rows are read only if there are some."""
    users = rows["user_id"].to_pylist()
    if (
        not users
        or not _not_older_than(online.oldest, _rows_of(store.history(VIEW, _STAMPS), users)).num_rows
    ):
        return rows.slice(0, 0)
    latest = latest_rows(_not_older_than(online.oldest, _rows_of(store.history(VIEW), users)), "user_id")
    stamps = dict(zip(users, rows["event_timestamp"].to_pylist(), strict=True))
    columns = (latest[name].to_pylist() for name in ("user_id", "event_timestamp", "event_ids"))
    kept = [
        not online.is_backfill(event_ids) or at >= stamps[user]
        for user, at, event_ids in zip(*columns, strict=True)
    ]
    return latest.filter(pa.array(kept, pa.bool_()))


def _not_older_than(oldest: datetime, rows: pa.Table) -> pa.Table:
    return rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(oldest)))


def _rows_of(rows: pa.Table, users: list[str]) -> pa.Table:
    return rows.filter(_belongs_to(rows, users))


def _belongs_to(rows: pa.Table, users: list[str]) -> pa.ChunkedArray:
    return pc.is_in(rows["user_id"], pa.array(users, pa.string()))
