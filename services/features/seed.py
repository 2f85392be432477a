"""Recent items from before Ringside: one row a user of the data set, stamped with the user's last
interaction.

A seed fills in where nothing would be served: no row is online, or only one past the view's ttl. It could be
later than a row that the activity worker pushed (a file says what was bought elsewhere since), and Feast
would take it for that row's successor, clicks and all. What is not loaded is not put into history either.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import count

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from services import bootstrap, ports
from services.settings import Settings
from services.turns import in_turns

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


def seed_activity(settings: Settings, store: ports.FeatureStore, now: datetime) -> int:
    """Fill in from the current data version; returns how many rows were loaded."""
    data = bootstrap.data_store(settings)
    version = data.current() or ""
    seeds = recent_activity(data.table("interactions"), version, now, settings.recent_items)
    oldest = now - timedelta(seconds=settings.activity_ttl_s)
    name = f"seed-{version}-{int(now.timestamp() * 1_000)}"
    return load_seeds(seeds, name, oldest, store, bootstrap.activity_store(settings))


def load_seeds(
    seeds: pa.Table, name: str, oldest: datetime, store: ports.FeatureStore, online: ports.ActivityStore
) -> int:
    """Load the seeds of users of whom no row since `oldest` is online, and keep those in history as files
    `name`-…; returns how many rows were loaded.

    A user whose row is in history only (Redis was emptied, or a run was killed) gets that one as it stands:
    beside it a later seed would be what the activity worker restores, without the clicks.
    """
    seeds = _since(oldest, seeds)
    seeds = _of(seeds, _lacking(online, seeds["user_id"].to_pylist(), oldest))
    told = _told(store, seeds, oldest)
    new = seeds.filter(pc.invert(_among(seeds, told["user_id"].to_pylist())))
    files = count()

    def load(rows: pa.Table) -> None:
        store.write_online(VIEW, rows)

    def keep_and_load(rows: pa.Table) -> None:
        # History first: who is killed in between leaves a seed that the next run finds there and loads. The
        # other way round a row would be served that history never gets.
        store.append(VIEW, rows, f"{name}-{next(files)}")
        load(rows)

    return _fill_in(told, online, oldest, load) + _fill_in(new, online, oldest, keep_and_load)


def _fill_in(
    rows: pa.Table, online: ports.ActivityStore, oldest: datetime, load: Callable[[pa.Table], None]
) -> int:
    """`load` each row while nobody else writes that user's, unless one has come meanwhile: Feast compares the
    timestamps, and then writes, and a first click in between would be lost."""

    def write(users: list[str]) -> list[str]:
        lacking = _lacking(online, users, oldest)
        if lacking:
            load(_of(rows, lacking))
        return lacking

    users = rows["user_id"].to_pylist()
    return sum(len(in_turns(online, users[at : at + CHUNK], write)) for at in range(0, len(users), CHUNK))


def _lacking(online: ports.ActivityStore, users: list[str], oldest: datetime) -> list[str]:
    """Those of whom nothing online would be served."""
    oldest_ms, lacking = oldest.timestamp() * 1_000, []
    for at in range(0, len(users), CHUNK):
        asked = users[at : at + CHUNK]
        found = online.load(asked)
        lacking += [u for u in asked if u not in found or found[u].received_at < oldest_ms]
    return lacking


def _told(store: ports.FeatureStore, seeds: pa.Table, oldest: datetime) -> pa.Table:
    """The latest row since `oldest` that history has of each user of `seeds`. Most have none, so rows are
    read whole only if some have."""
    users = seeds["user_id"].to_pylist()
    if not users or not _since(oldest, _of(store.history(VIEW, _STAMPS), users)).num_rows:
        return seeds.slice(0, 0)
    rows = _since(oldest, _of(store.history(VIEW), users))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("rows", rows)
        return connection.sql(_LATEST).to_arrow_table()


def _since(oldest: datetime, rows: pa.Table) -> pa.Table:
    return rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(oldest)))


def _of(rows: pa.Table, users: list[str]) -> pa.Table:
    return rows.filter(_among(rows, users))


def _among(rows: pa.Table, users: list[str]) -> pa.ChunkedArray:
    return pc.is_in(rows["user_id"], pa.array(users, pa.string()))
