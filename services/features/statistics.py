"""The batch views as SQL over all interactions: pure functions of tables and times.

interactions: columns user_id, item_id, at (timestamp, UTC), kind, quantity, price. items: the table of a data
version. now: interactions after it are ignored. stamp: event timestamp of the resulting rows.
"""

from datetime import datetime

import pyarrow as pa

from services.runtime.arrow_sql import query as run

DAYS = (1, 7, 30)

_VIEWED = "kind IN ('view', 'click')"
_BOUGHT = "kind = 'purchase'"
_CONTENT_CHANGED = """
SELECT rows.* FROM rows LEFT JOIN (
    SELECT item_id, arg_max(category || text_hash, event_timestamp) AS known FROM before GROUP BY item_id
) USING (item_id) WHERE known IS DISTINCT FROM category || text_hash ORDER BY item_id
"""


def user_profile(interactions: pa.Table, now: datetime, stamp: datetime) -> pa.Table:
    """Return one row for each user: counts and spend over 1, 7 and 30 days, seconds since the last view and
    purchase."""
    spend = [
        f"coalesce(sum(price * quantity) FILTER ({_within(days)} AND {_BOUGHT}), 0)::DOUBLE AS spend_{days}d"
        for days in DAYS
    ]
    columns = ", ".join([*_counts(), *spend, _age("view", _VIEWED), _age("purchase", _BOUGHT)])
    query = f"""SELECT user_id, {columns}, $stamp AS event_timestamp FROM interactions
                WHERE "at" <= $now GROUP BY user_id ORDER BY user_id"""
    return run(query, {"interactions": interactions}, now=now, stamp=stamp)


def item_statistics(interactions: pa.Table, items: pa.Table, now: datetime, stamp: datetime) -> pa.Table:
    """Return one row for each item of the catalogue: counts over 1, 7 and 30 days, trend, price, age."""
    recent, usual = (f"count(*) FILTER ({_within(days)})" for days in (7, 30))
    trend = f"ln(({recent} + 1) / ({usual} * 7 / 30.0 + 1)) AS trend"
    columns = ", ".join([*_counts(), trend])
    query = f"""
        WITH known AS (SELECT item_id, kind, "at" FROM interactions WHERE "at" <= $now)
        SELECT item_id, {columns}, any_value(price)::DOUBLE AS price,
               date_diff('second', any_value(first_seen), $now) / 86400.0 AS age_days, $stamp AS
               event_timestamp
        FROM items LEFT JOIN known USING (item_id) GROUP BY item_id ORDER BY item_id"""
    return run(query, {"interactions": interactions, "items": items}, now=now, stamp=stamp)


def item_content(items: pa.Table, before: pa.Table, stamp: datetime) -> pa.Table:
    """Return category and text hash of each item that is new or differs from its latest row in `before`."""
    query = """SELECT item_id, category, sha256(title || chr(10) || description) AS text_hash,
               $stamp AS event_timestamp FROM items"""
    rows = run(query, {"items": items}, stamp=stamp)
    return run(_CONTENT_CHANGED, {"rows": rows, "before": before})


def _counts() -> list[str]:
    return [
        f"count(*) FILTER ({_within(days)} AND {condition})::DOUBLE AS {what}_{days}d"
        for what, condition in (("views", _VIEWED), ("purchases", _BOUGHT))
        for days in DAYS
    ]


def _within(days: int) -> str:
    return f'"at" > $now - INTERVAL {days} DAY'


def _age(what: str, condition: str) -> str:
    return f"""epoch($now - max("at") FILTER ({condition}))::DOUBLE AS {what}_age_s"""
