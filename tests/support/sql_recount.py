"""An independent count of the logs: SQL over raw records, which shares no code with the product."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import duckdb
import pyarrow as pa

from services.ports.event_log import Record

VIEWS = """
create view raw as select topic, "partition" p, "offset" o, append_ms, try_cast(value as json) j from records;
create view exposure as select o, append_ms,
    j->>'experiment' e, j->>'unit' unit, (j->>'received_at')::bigint t, j->>'arm' arm,
    j->>'answered_by' by_arm, (j->>'weights_version')::int v
  from raw where topic = 'exposures' and j is not null and (j->>'first') = 'true' and (j->>'excluded') is null
    and (j->>'experiment') = $experiment and (j->>'received_at')::bigint >= $from
    and append_ms >= $from - $lateness;
create view unit as select e, unit, t, any_value(arm) arm, any_value(by_arm) by_arm, any_value(v) v
  from exposure where abs(append_ms - t) <= $lateness group by all;
create view event as select o, j->>'event_id' id, j->'attribution'->>'unit' unit,
    (j->'attribution'->>'unit_at')::bigint unit_at, j->'attribution'->>'arm' arm,
    (j->'attribution'->>'weights_version')::int v,
    (j->>'received_at')::bigint - (j->'attribution'->>'unit_at')::bigint age,
    append_ms - (j->'attribution'->>'unit_at')::bigint append_age
  from raw where topic = 'events' and j is not null and (j->>'type') = 'click'
    and (j->'attribution'->>'experiment') = $experiment
    and (j->'attribution'->>'unit_at')::bigint >= $from and append_ms >= $from - $lateness;
create view judged as select event.*, case
    when age < 0 or append_age < -$lateness then 'unmatched'
    when age > $window or append_age > $window + $lateness then 'late'
    when unit.unit is null then 'unmatched' else 'live' end fate
  from event left join unit on unit.unit = event.unit and unit.t = event.unit_at;
create view settled as select *, case when fate <> 'live' then fate
    when row_number() over (partition by unit, unit_at, id, fate order by o desc) = 1 then 'counted'
    else 'duplicate' end category from judged;
create view outcome as select unit.*, exists (select 1 from settled where category = 'counted'
    and settled.unit = unit.unit and settled.unit_at = unit.t) success from unit;
"""
SUMS = """
select v || '|' || arm || '|' || (t // 3600000) || '|n', count(*) from outcome group by 1
union all select v || '|' || arm || '|' || (t // 3600000) || '|s', count(*) from outcome
  where success group by 1
union all select v || '|' || arm || '|' || (t // 3600000) || '|f', count(*) from outcome
  where by_arm <> arm group by 1
union all select v || '|' || arm || '|' || (unit_at // 3600000) || '|c', count(distinct (unit, unit_at))
  from settled where category = 'counted' group by 1
union all select 'acct|' || arm || '|acknowledged', count(*) from settled group by 1
union all select 'acct|' || arm || '|' || category, count(*) from settled group by 1
union all select 'acct|' || arm || '|exposed', count(*) from exposure group by 1
union all select 'acct|' || arm || '|duplicate_exposures', copies from (
  select arm, count(*) - count(distinct (unit, t)) copies from exposure
  where abs(append_ms - t) <= $lateness group by 1) where copies > 0
union all select 'acct|' || arm || '|late_exposures', count(*) from exposure
  where abs(append_ms - t) > $lateness group by 1
"""


def recount(
    records: Sequence[Record], experiment: str, window_ms: int, lateness_ms: int, from_ms: int = 0
) -> dict[str, int]:
    """Sums of `experiment` once everything in `records` has matured, in the flat format of the store.
    `from_ms`: count only units since a recount that began at this time."""
    values = {"$experiment": f"'{experiment}'", "$window": str(window_ms), "$lateness": str(lateness_ms)}
    values["$from"] = str(from_ms)
    fields = ("topic", "partition", "offset", "append_ms")
    columns = {field: [getattr(record, field) for record in records] for field in fields}
    logged = pa.table(columns | {"value": [record.value.decode(errors="replace") for record in records]})
    with duckdb.connect() as base:
        base.register("records", logged)
        base.execute(_filled(VIEWS, values))
        return dict(base.execute(_filled(SUMS, values)).fetchall())


def add_sums(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sums of several partitions, added."""
    total: dict[str, int] = defaultdict(int)
    for part in parts:
        for key, count in part.items():
            total[key] += count
    return dict(total)


def _filled(sql: str, values: Mapping[str, str]) -> str:
    for name, value in values.items():
        sql = sql.replace(name, value)
    return sql
