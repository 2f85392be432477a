"""Recent items from before Ringside: one row a user of the data set, stamped with the user's last
interaction.

A seed fills in where nothing would be served (no row is online, or only one past the view's ttl), or an
earlier seed. It could be later than a row that the activity worker pushed (a file says what was bought
elsewhere since), and Feast would take it for that row's successor, clicks and all. What is not loaded is not
put into history either.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from services.messages.events import ActivityRow
from services.ports.features import ActivityStore, FeatureStore
from services.ports.training import DataStore
from services.runtime.row_turns import write_in_turns

CHUNK = 1_000  # rows written at once, which takes tenths of a second: locks live for seconds
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
_LATEST = """
SELECT * FROM rows QUALIFY row_number() OVER (PARTITION BY user_id ORDER BY event_timestamp DESC) = 1
ORDER BY user_id
"""


def recent_activity(interactions: pa.Table, version: str, now: datetime, most: int) -> pa.Table:
    """Rows of `user_activity` from interactions up to `now`: the last `most` of each user, latest first."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("interactions", interactions)
        return connection.sql(_RECENT, params={"now": now, "most": most, "version": version}).to_arrow_table()


def seed_activity(
    data: DataStore, activity: ActivityStore, store: FeatureStore, now: datetime, *, most: int, ttl_s: int
) -> int:
    """Load recent items of the current data version for users without any; returns the number of rows.

    most: items of a user. ttl_s: age after which recent activity is not served.
    """
    version = data.current() or ""
    seeds = recent_activity(data.table("interactions"), version, now, most)
    oldest = now - timedelta(seconds=ttl_s)
    name = f"seed-{version}-{int(now.timestamp() * 1_000)}"
    return load_seeds(seeds, name, store, _Online(activity, oldest, frozenset(data.versions())))


@dataclass(frozen=True, slots=True)
class _Online:
    """What would be served: rows since `oldest`. Seeds among them hold nothing but interactions of `imports`
    (data versions)."""

    store: ActivityStore
    oldest: datetime
    imports: frozenset[str]

    def lacks(self, seeds: pa.Table) -> list[str]:
        """Users of whom nothing would be served, or a seed that is earlier than theirs of `seeds`."""
        users = seeds["user_id"].to_pylist()
        stamps = pc.cast(pc.cast(seeds["event_timestamp"], pa.timestamp("ms", "UTC")), pa.int64()).to_pylist()
        lacking: list[str] = []
        for at in range(0, len(users), CHUNK):
            found = self.store.load(users[at : at + CHUNK])
            lacking += [
                user
                for user, stamp_ms in zip(users[at : at + CHUNK], stamps[at : at + CHUNK], strict=True)
                if self._yields(found.get(user), stamp_ms)
            ]
        return lacking

    def _yields(self, row: ActivityRow | None, stamp_ms: int) -> bool:
        if row is None or row.received_at < self.oldest.timestamp() * 1_000:
            return True
        return row.received_at < stamp_ms and self.is_seed(row.event_ids)

    def is_seed(self, event_ids: Sequence[str]) -> bool:
        """Whether nobody ever did anything that these rows tell of before our eyes."""
        return all(event_id.partition(":")[0] in self.imports for event_id in event_ids)


def load_seeds(seeds: pa.Table, name: str, store: FeatureStore, online: _Online) -> int:
    """Load the seeds of users whom `online` lacks, and keep those in history as files `name`-…; returns how
    many rows were loaded.

    A user whose row is in history only (Redis was emptied, or a run was killed) gets that one as it stands:
    beside it a later seed would be what the activity worker restores, without the clicks.
    """
    seeds = _since(online.oldest, seeds)
    seeds = _of(seeds, online.lacks(seeds))
    told = _told(store, seeds, online)
    new = seeds.filter(pc.invert(_among(seeds, told["user_id"].to_pylist())))
    files = count()

    def load(rows: pa.Table) -> None:
        store.write_online(VIEW, rows)

    def keep_and_load(rows: pa.Table) -> None:
        # History first: who is killed in between leaves a seed that the next run finds there and loads. The
        # other way round a row would be served that history never gets.
        store.append(VIEW, rows, f"{name}-{next(files)}")
        load(rows)

    return _fill_in(told, online, load) + _fill_in(new, online, keep_and_load)


def _fill_in(rows: pa.Table, online: _Online, load: Callable[[pa.Table], None]) -> int:
    """`load` each row while nobody else writes that user's, unless one has come meanwhile: Feast compares the
    timestamps, and then writes, and a first click in between would be lost."""

    def write(users: list[str]) -> list[str]:
        lacking = online.lacks(_of(rows, users))
        if lacking:
            load(_of(rows, lacking))
        return lacking

    users = rows["user_id"].to_pylist()
    return sum(
        len(write_in_turns(online.store, users[at : at + CHUNK], write)) for at in range(0, len(users), CHUNK)
    )


def _told(store: FeatureStore, seeds: pa.Table, online: _Online) -> pa.Table:
    """The latest row that would be served and history has of each user of `seeds`, unless a seed of theirs is
    later. Most have none, so rows are read whole only if some have."""
    users = seeds["user_id"].to_pylist()
    if not users or not _since(online.oldest, _of(store.history(VIEW, _STAMPS), users)).num_rows:
        return seeds.slice(0, 0)
    rows = _since(online.oldest, _of(store.history(VIEW), users))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows)
        latest = connection.sql(_LATEST).to_arrow_table()
    later = dict(zip(users, seeds["event_timestamp"].to_pylist(), strict=True))
    stand = [
        not online.is_seed(ids) or at >= later[user]
        for user, at, ids in zip(
            *(latest[name].to_pylist() for name in ("user_id", "event_timestamp", "event_ids")), strict=True
        )
    ]
    return latest.filter(pa.array(stand, pa.bool_()))


def _since(oldest: datetime, rows: pa.Table) -> pa.Table:
    return rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(oldest)))


def _of(rows: pa.Table, users: list[str]) -> pa.Table:
    return rows.filter(_among(rows, users))


def _among(rows: pa.Table, users: list[str]) -> pa.ChunkedArray:
    return pc.is_in(rows["user_id"], pa.array(users, pa.string()))
