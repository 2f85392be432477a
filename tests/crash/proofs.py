"""Afterwards: what must be true, each as a list of what is wrong (empty: it holds) and a figure compared."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import redis

from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import fold
from experiments.lifecycle.state import Experiment
from experiments.lifecycle.transitions import retraining_request
from services.messages import events
from services.ports.state import Heartbeat
from tests.crash.installation import CrashInstallation
from tests.crash.shoppers import Seen

HERE = Path(__file__).parent
NAMED = 5  # differences told by name
ROW_KEEPS = 50  # events of a user's online row
IDENTITIES = {  # by arm, once everything has matured
    "acknowledged": ("counted", "late", "duplicate", "unmatched"),
    "exposed": ("n", "late_exposures", "duplicate_exposures"),
    "s": ("c",),
}
IN_THE_LOG = {
    "acknowledged": "select count(*) from event where type = 'click' and experiment is not null",
    "exposed": "select count(*) from candidate",
    "n": "select count(distinct (unit, received_at)) from candidate where not late",
}


@dataclass(slots=True)
class Finding:
    """`compared`: how many things were looked at; `wrong`: those that are not as they must be."""

    what: str
    compared: int
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Found:
    """What is left of a run. `raw`: folder with the dumped topics; `cached`: the state in Redis; `rows`:
    online activity by user; `beats`: heartbeats of the replicas."""

    site: CrashInstallation
    seen: Seen
    raw: Path
    cached: Experiment | None
    rows: Mapping[str, Sequence[str]]
    beats: Sequence[Heartbeat]

    def lake(self, topic: str) -> str:
        """Its files."""
        return str(self.site.settings.lake_path / topic / "date=*" / "hour=*" / "*.parquet")

    def topic(self, name: str) -> str:
        """Its dump."""
        return str(self.raw / f"{name}.parquet")


def prove(found: Found) -> list[Finding]:
    """Every proof."""
    with opened(found, "topics") as topics, opened(found, "lake") as lake:
        stored = stored_sums(found.site)
        decided = decisions(found)
        return [
            equal("sums = recount over the topics", stored, sums(topics)),
            equal("sums = recount over the lake", stored, sums(lake)),
            identity(topics, stored),
            held_once(topics, lake),
            acknowledged(found.seen, topics, "topic"),
            acknowledged(found.seen, lake, "lake"),
            folded(found, decided),
            one_arm(topics, decided),
            one_arm_seen(found.seen, decided),
            many_versions(topics, decided, found.site.scenario.versions),
            only_200(found.seen),
            activity(found, topics),
            retrained(found, decided),
        ]


# ---- sums --------------------------------------------------------------------------------------------------


def opened(found: Found, source: str) -> duckdb.DuckDBPyConnection:
    """A database with the recount over the topics or over the lake in it."""
    where = found.topic if source == "topics" else found.lake
    base = duckdb.connect()
    for text in (f"read_{source}.sql", "recount.sql"):
        values = {
            "$exposures": f"'{where(events.EXPOSURES)}'",
            "$events": f"'{where(events.EVENTS)}'",
            "$window": str(round(found.site.scenario.window_s * 1_000)),
            "$lateness": str(round(found.site.scenario.lateness_s * 1_000)),
        }
        sql = (HERE / text).read_text()
        for name, value in values.items():
            sql = sql.replace(name, value)
        base.execute(sql)
    return base


def stored_sums(site: CrashInstallation) -> dict[tuple[int, str], int]:
    """(partition, field) -> count, as they lie in Redis, zeros left out."""
    client = redis.Redis.from_url(site.settings.redis_url, decode_responses=True)
    found = {}
    for partition in range(site.scenario.partitions):
        flat = client.hgetall(f"{{bandit:{partition}}}:sums:{site.settings.experiment}")
        found |= {(partition, name): int(count) for name, count in flat.items() if int(count)}
    return found


def sums(base: duckdb.DuckDBPyConnection) -> dict[tuple[int, str], int]:
    """The same from the logs."""
    rows = base.execute("select p, field, total from sums where total > 0").fetchall()
    return {(p, name): total for p, name, total in rows}


def equal(what: str, stored: Mapping[Any, int], truth: Mapping[Any, int]) -> Finding:
    """Integer for integer, key by key."""
    keys = sorted(stored.keys() | truth.keys())
    wrong = [
        f"{key}: stored {stored.get(key, 0)}, recounted {truth.get(key, 0)}"
        for key in keys
        if stored.get(key) != truth.get(key)
    ]
    return Finding(what, len(keys), wrong)


def identity(topics: duckdb.DuckDBPyConnection, stored: Mapping[tuple[int, str], int]) -> Finding:
    """Within the sums: every click in one category, every first exposure a unit or none, success as exposures
    say it = as events say it. Between log and sums: every click and every unit is there."""
    parted = [_parted(name, count) for (_, name), count in stored.items()]
    total = Counter[tuple[str, str]]()
    for arm, what, count in parted:
        total[arm, what] += count
    wrong = [
        f"arm {arm}: {left} {total[arm, left]} != {[total[arm, part] for part in right]} ({', '.join(right)})"
        for arm in sorted({arm for arm, _ in total})
        for left, right in IDENTITIES.items()
        if total[arm, left] != sum(total[arm, part] for part in right)
    ]
    compared = 0
    for what, query in IN_THE_LOG.items():
        [(logged,)] = topics.execute(query).fetchall()
        counted = sum(count for (_, name), count in total.items() if name == what)
        compared += logged
        if logged != counted:
            wrong.append(f"{what}: {logged} in the log, {counted} in the sums")
    return Finding("accounting identity closes", compared, wrong)


def _parted(name: str, count: int) -> tuple[str, str, int]:
    """Arm, what is counted, count; of cells and accounts alike."""
    parts = name.split("|")
    return parts[1], parts[-1], count


# ---- events ------------------------------------------------------------------------------------------------


def held_once(topics: duckdb.DuckDBPyConnection, lake: duckdb.DuckDBPyConnection) -> Finding:
    """The lake holds exactly the records of the topics, each once."""
    wrong, compared = [], 0
    for table in ("exposure", "event"):
        query = f"select p, o, count(*) from {table} group by all"
        logged = {(p, o): n for p, o, n in topics.execute(query).fetchall()}
        kept = {(p, o): n for p, o, n in lake.execute(query).fetchall()}
        compared += len(logged)
        wrong += [
            f"{table} {at}: {kept.get(at, 0)} rows in the lake, {logged.get(at, 0)} in the topic"
            for at in sorted(logged.keys() | kept.keys())
            if kept.get(at) != logged.get(at)
        ]
    return Finding("lake = topics, each record once", compared, wrong)


def acknowledged(seen: Seen, base: duckdb.DuckDBPyConnection, where: str) -> Finding:
    """Every acknowledged event is there: once, or at most as often as it had to be sent."""
    there = dict(base.execute("select event_id, count(*) from event group by 1").fetchall())
    wrong = [
        f"{event_id}: sent {sent} times, {there.get(event_id, 0)} in the {where}"
        for event_id, sent in seen.acknowledged.items()
        if not 1 <= there.get(event_id, 0) <= sent
    ]
    known = seen.acknowledged.keys() | seen.unanswered
    wrong += [f"{event_id}: nobody sent it" for event_id in there if event_id not in known]
    return Finding(f"acknowledged events in the {where}", len(seen.acknowledged), wrong)


def only_200(seen: Seen) -> Finding:
    """A client that repeats once never saw anything else from /recommend, nor a slate without items."""
    wrong = list(seen.failures) + [f"{seen.empty} slates without items"] * bool(seen.empty)
    return Finding("/recommend answers 200 with items", seen.statuses.total(), wrong)


# ---- decisions and arms ------------------------------------------------------------------------------------


def decisions(found: Found) -> list[Decision]:
    """Those that count: of each revision the first record in the log."""
    base = duckdb.connect()
    rows = base.execute(
        "select value from read_parquet(?) where (value::json->>'experiment') = ?"
        " qualify row_number() over (partition by (value::json->>'revision')::int order by o) = 1"
        " order by (value::json->>'revision')::int",
        [found.topic(events.DECISIONS), found.site.settings.experiment],
    ).fetchall()
    return [msgspec.json.decode(value, type=Decision) for (value,) in rows]


def folded(found: Found, decided: list[Decision]) -> Finding:
    """The fold of the log is the cached state, and what every replica serves."""
    state = fold(decided)
    wrong = []
    if [decision.revision for decision in decided] != list(range(1, len(decided) + 1)):
        wrong.append("revisions have gaps")
    if state != found.cached:
        wrong.append(f"the fold is at revision {state and state.revision}, not equal to the cached state")
    newest = state.revision if state else 0
    wrong += [
        f"{beat.replica} serves revision {beat.revision} of {newest}"
        for beat in found.beats
        if beat.revision != newest
    ]
    return Finding("fold of decisions = cached state", len(decided), wrong)


def taken_out(decided: list[Decision]) -> set[str]:
    """Arms that were retired at some time."""
    out = {d.detail.arm for d in decided if d.kind == "rollback"}
    arms_before: set[str] = set()
    for decision in decided:
        out |= arms_before - set(decision.weights)
        arms_before = set(decision.weights)
    return out


def one_arm(topics: duckdb.DuckDBPyConnection, decided: list[Decision]) -> Finding:
    """Every unit kept arm, weights version and propensity; one that was overridden had a retired arm."""
    query = """select unit, list(distinct (arm, weights_version, propensity, unit_at)) kept from exposure
        where excluded is null group by 1"""
    units = topics.execute(query).fetchall()
    wrong = [f"{unit}: {kept}" for unit, kept in units if len(kept) != 1]
    retired = taken_out(decided)
    query = """select unit, any_value(arm) from exposure where excluded is null and unit in
        (select unit from exposure where excluded = 'overridden') group by 1"""
    overridden = topics.execute(query).fetchall()
    wrong += [
        f"{unit}: overridden, but {arm} was never retired" for unit, arm in overridden if arm not in retired
    ]
    return Finding("every unit kept one arm", len(units), wrong)


def one_arm_seen(seen: Seen, decided: list[Decision]) -> Finding:
    """The same as shoppers saw it: one arm, and after it only a champion in place of a retired one."""
    retired = taken_out(decided)
    wrong = [
        f"{unit}: {arms}"
        for unit, arms in seen.arms.items()
        if len(arms) > 1 and not set(arms[:-1]) <= retired
    ]
    return Finding("shoppers saw one arm a unit", len(seen.arms), wrong)


def many_versions(topics: duckdb.DuckDBPyConnection, decided: list[Decision], wanted: int) -> Finding:
    """At least so many weights versions came into force within the life of some units."""
    topics.execute("create table version (version int, since_ms bigint)")
    first: dict[int, int] = {}
    for decision in decided:
        first.setdefault(decision.weights_version, decision.received_at)
    topics.executemany("insert into version values (?, ?)", list(first.items()))
    query = """with life as (select unit, min(unit_at) born, max(received_at) died from
            (select unit, unit_at, received_at from exposure where excluded is null
             union all select unit, unit_at, received_at from event where unit is not null) group by 1)
        select unit, count(*) from life join version on since_ms between born and died
        group by 1 having count(*) >= ?"""
    lived = topics.execute(query, [wanted]).fetchall()
    wrong = [] if lived else [f"{len(first)} versions, but no unit lived through {wanted} of them"]
    return Finding(f"units that saw {wanted} or more weights versions", len(lived), wrong)


# ---- features and models -----------------------------------------------------------------------------------


def activity(found: Found, topics: duckdb.DuckDBPyConnection) -> Finding:
    """The online row of every user holds exactly what they did (users with so few events that all fit)."""
    query = """select who, list(distinct event_id) from event where type <> 'impression' and who is not null
        group by 1 having count(distinct event_id) <= ?"""
    did = topics.execute(query, [ROW_KEEPS]).fetchall()
    wrong = [
        f"{who}: {len(set(found.rows.get(who, ())) ^ set(acts))} events of {len(acts)} differ"
        for who, acts in did
        if set(found.rows.get(who, ())) != set(acts)
    ]
    return Finding("online rows = what users did", sum(len(acts) for _, acts in did), wrong)


def retrained(found: Found, decided: list[Decision]) -> Finding:
    """No retraining request was answered twice, and none is open."""
    open_, wrong = 0, []
    for decision in decided:
        if retraining_request(decision):
            open_ = 1
        elif decision.kind == "enter" and decision.author == "trainer":
            if not open_:
                wrong.append(f"revision {decision.revision} answers no request")
            open_ = 0
    state = fold(decided)
    if state is not None and state.retrain_pending:
        wrong.append("a retraining request is open")
    asked = sum(retraining_request(decision) is not None for decision in decided)
    return Finding("retraining requests answered once", asked, wrong)


def online_rows(settings: Any, users: list[str], file: Path) -> None:
    """Event ids of the online rows, by user, as JSON; imports Feast, so it runs in a child."""
    from services.adapters.feast.activity_store import FeastActivityStore

    rows = FeastActivityStore(settings).load(users)
    file.write_text(json.dumps({user: list(row.event_ids) for user, row in rows.items()}))
