"""Recent items from before Ringside: one row a user of the data set, stamped with the user's last
interaction.

A seed is older than any row that the activity worker pushes, so it can never hide a click; Feast drops it
where a live row is already there. Seeds older than the view's ttl are not loaded, they would not be served.
"""

from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from services import bootstrap, ports
from services.settings import Settings
from services.turns import in_turns

CHUNK = 1_000  # rows written at once, which takes tenths of a second: locks live for seconds
VIEW = "user_activity"
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
    """Rows of `user_activity` from interactions up to `now`: the last `most` of each user, latest first."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("interactions", interactions)
        return connection.sql(_RECENT, params={"now": now, "most": most, "version": version}).to_arrow_table()


def seed_activity(settings: Settings, store: ports.FeatureStore, now: datetime) -> int:
    """Write the seeds of the current data version to the offline history and online; returns how many."""
    data = bootstrap.data_store(settings)
    version = data.current() or ""
    rows = recent_activity(data.table("interactions"), version, now, settings.recent_items)
    store.append(VIEW, rows, f"seed-{version}")
    oldest = now - timedelta(seconds=settings.activity_ttl_s)
    fresh = rows.filter(pc.greater_equal(rows["event_timestamp"], pa.scalar(oldest)))
    load_seeds(fresh, store, bootstrap.row_locks(settings))
    return fresh.num_rows


def load_seeds(seeds: pa.Table, store: ports.FeatureStore, locks: ports.RowLocks) -> None:
    """Write them online, each while nobody else writes that user's row: Feast compares the timestamps, and
    then writes, and a first click in between would be lost."""

    def write(users: list[str]) -> list[str]:
        store.write_online(VIEW, seeds.filter(pc.is_in(seeds["user_id"], pa.array(users))))
        return users

    for chunk in seeds.to_batches(max_chunksize=CHUNK):
        in_turns(locks, chunk["user_id"].to_pylist(), write)
