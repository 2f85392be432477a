"""Backfill rows are loaded where nothing would be served, and never replace a pushed row."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from support.breakable import BreakableActivityStore

from services.adapters.feast.schemas import SCHEMAS
from services.errors import UnavailableError
from services.features import backfill
from services.messages.events import ActivityRow
from services.runtime import row_writes

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
OLDEST = NOW - timedelta(days=30)
SCHEMA = SCHEMAS[backfill.VIEW]


def at_ms(hours: float) -> int:
    return int((NOW - timedelta(hours=hours)).timestamp() * 1_000)


def rows_of_file(*lines: tuple[str, str, float], version: str = "v1") -> pa.Table:
    """Backfill rows of an import: (user, item, hours before NOW), each a purchase."""
    names = ("user_id", "item_id", "at", "kind")
    whole = [dict(zip(names, (u, i, NOW - timedelta(hours=h), "purchase"), strict=True)) for u, i, h in lines]
    kinds = [pa.string(), pa.string(), pa.timestamp("us", "UTC"), pa.string()]
    interactions = pa.Table.from_pylist(whole, pa.schema(list(zip(names, kinds, strict=True))))
    return backfill.recent_activity(interactions, version, NOW, 5)


def clicked(user: str, item: str, hours: float) -> ActivityRow:
    stamp = at_ms(hours)
    return ActivityRow(
        received_at=stamp,
        user_id=user,
        item_ids=[item],
        item_at=[stamp],
        item_types=["click"],
        event_ids=[f"e-{item}"],
    )


def table_of(*rows: ActivityRow) -> pa.Table:
    lists = ("item_ids", "item_at", "item_types", "event_ids")
    plain = [
        {"user_id": row.user_id, "event_timestamp": datetime.fromtimestamp(row.received_at / 1_000, UTC)}
        | {name: getattr(row, name) for name in lists}
        for row in rows
    ]
    return pa.Table.from_pylist(plain, SCHEMA)


class Features:
    """A FeatureStore over an ActivityStore in memory. `broken`: writing online fails."""

    def __init__(self, *history: ActivityRow):
        self.online = BreakableActivityStore()
        self.files = {"history": table_of(*history)}
        self.read: list[Sequence[str] | None] = []
        self.broken = False

    def history(self, view: str, columns: Sequence[str] | None = None) -> pa.Table:
        assert view == backfill.VIEW
        self.read.append(columns)
        whole = pa.concat_tables(self.files.values())
        return whole.select(columns) if columns else whole

    def append(self, view: str, rows: pa.Table, name: str) -> None:
        assert view == backfill.VIEW
        assert name not in self.files, "a file of history would be replaced"
        self.files[name] = rows.select(SCHEMA.names).cast(SCHEMA)

    def write_online(self, view: str, rows: pa.Table) -> None:
        if self.broken:
            raise UnavailableError("Redis", "out of memory")
        with self.online.lock_rows(rows["user_id"].to_pylist()) as free:
            assert not free, "the activity worker could write meanwhile"
        plain = rows.drop_columns("event_timestamp").to_pylist()
        stamps = [round(stamp.timestamp() * 1_000) for stamp in rows["event_timestamp"].to_pylist()]
        self.online.push([ActivityRow(received_at=ms, **row) for ms, row in zip(stamps, plain, strict=True)])

    def load(self, rows: pa.Table, run: str = "run1") -> int:
        return backfill.load_backfill(
            rows, run, self, backfill.OnlineRows(self.online, OLDEST, frozenset({"v1", "v2"}))
        )

    @property
    def served(self) -> dict[str, list[str]]:
        return {user: row.item_ids for user, row in self.online.rows.items()}

    @property
    def in_history(self) -> list[tuple[str, list[str]]]:
        """Users and items of the history, by user and time."""
        rows = pa.concat_tables(self.files.values()).sort_by(
            [("user_id", "ascending"), ("event_timestamp", "ascending")]
        )
        return [(row["user_id"], row["item_ids"]) for row in rows.to_pylist()]


def test_a_seed_holds_the_latest_things_done_and_their_time() -> None:
    u, v = rows_of_file(
        *(("u", f"i{hour}", hour) for hour in range(9)), ("v", "z", 24), ("v", "w", -1)
    ).to_pylist()
    assert u["item_ids"] == ["i0", "i1", "i2", "i3", "i4"]
    assert u["item_types"] == ["purchase"] * 5
    assert u["event_timestamp"] == NOW
    assert u["item_at"] == [at_ms(hour) for hour in range(5)]
    assert len(set(u["event_ids"] + v["event_ids"])) == 6
    assert v["event_timestamp"] == NOW - timedelta(days=1)  # later interactions are ignored
    assert v["item_ids"] == ["z"]


def test_a_user_without_online_row_is_backfilled_with_history() -> None:
    features = Features()
    assert features.load(rows_of_file(("u", "a", 48), ("u", "b", 24), ("v", "c", 1))) == 2
    assert features.served == {"u": ["b", "a"], "v": ["c"]}
    assert features.in_history == [("u", ["b", "a"]), ("v", ["c"])]
    assert features.online.rows["u"].received_at == at_ms(24)
    assert (
        features.load(rows_of_file(("u", "a", 48), ("u", "b", 24), ("v", "c", 1)), "run2") == 0
    )  # every user has a row
    assert features.in_history == [("u", ["b", "a"]), ("v", ["c"])]


def test_a_later_import_keeps_clicks_and_records_only_served() -> None:
    """A purchase elsewhere: the last interaction of the file is later than the row."""
    features = Features()
    features.online.push([clicked("u", "f", 2)])
    assert features.load(rows_of_file(("u", "c", 1), ("v", "d", 1))) == 1
    assert features.served == {"u": ["f"], "v": ["d"]}
    assert features.in_history == [("v", ["d"])]


def test_a_row_that_comes_while_seeds_are_computed_stays() -> None:
    features = Features()
    before = features.online.load

    def load(users: Sequence[str]) -> dict[str, ActivityRow]:
        rows = before(users)
        features.online.push([clicked("u", "f", 2)])
        return rows

    features.online.load = load
    assert features.load(rows_of_file(("u", "c", 1))) == 0
    assert features.served == {"u": ["f"]}
    assert features.in_history == []


def test_an_expired_backfill_row_is_neither_loaded_nor_recorded() -> None:
    features = Features()
    hours = 30 * 24
    rows = rows_of_file(("old", "a", hours + 0.001), ("edge", "b", hours), ("new", "c", hours - 1))
    assert features.load(rows) == 2
    assert features.served == {"edge": ["b"], "new": ["c"]}  # `>=`, as Feast and the reader have it
    assert features.in_history == [("edge", ["b"]), ("new", ["c"])]


def test_a_row_past_its_time_to_live_is_filled_in() -> None:
    """Such a row is not served. Without backfill, a user who never clicks would stay unknown."""
    features = Features(clicked("u", "f", 31 * 24))
    features.online.push([clicked("u", "f", 31 * 24)])
    assert features.load(rows_of_file(("u", "c", 3))) == 1
    assert features.served == {"u": ["c"]}
    assert features.in_history == [("u", ["f"]), ("u", ["c"])]


def test_an_emptied_redis_gets_the_rows_of_history_before_seeds() -> None:
    """The activity worker restores the latest row of the history: a backfill row would hide the clicks."""
    features = Features(clicked("u", "e", 5), clicked("u", "f", 2), clicked("v", "g", 31 * 24))
    assert features.load(rows_of_file(("u", "c", 1), ("v", "d", 1))) == 2
    assert features.served == {"u": ["f"], "v": ["d"]}
    assert features.online.rows["u"] == clicked("u", "f", 2)
    assert features.in_history == [("u", ["e"]), ("u", ["f"]), ("v", ["g"]), ("v", ["d"])]


def test_a_kill_between_history_and_push_loses_nothing() -> None:
    features = Features()
    features.broken = True
    with pytest.raises(UnavailableError):
        features.load(rows_of_file(("u", "c", 3)))
    features.broken = False
    assert features.served == {}
    assert features.load(rows_of_file(("u", "c", 3)), "run2") == 1
    assert features.served == {"u": ["c"]}
    assert features.in_history == [("u", ["c"])]


def test_histories_are_read_only_as_far_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK", 2)
    features = Features(clicked("x", "e", 5))
    rows = rows_of_file(*((user, "a", 1) for user in "pqrst"))
    assert features.load(rows) == 5
    assert features.read == [("user_id", "event_timestamp")]
    assert len(features.files) == 4  # the one of the test, and three chunks
    features.load(rows, "run2")
    assert len(features.read) == 1


def test_a_seed_takes_no_row_that_somebody_is_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast compares timestamps before it writes: a first click pushed in between would be lost."""
    monkeypatch.setattr(row_writes, "PAUSE_S", 0.0)
    monkeypatch.setattr(backfill, "CHUNK", 2)
    features = Features()
    rows = rows_of_file(*((user, "a", 1) for user in "pqrst"))
    with features.online.lock_rows(["s"]), pytest.raises(UnavailableError, match="1 of them"):
        features.load(rows)
    assert sorted(features.served) == ["p", "q", "r"]
    features.load(rows, "run2")
    assert sorted(features.served) == ["p", "q", "r", "s", "t"]
    assert [user for user, _ in features.in_history] == ["p", "q", "r", "s", "t"]


def test_a_later_import_updates_backfilled_users_not_clickers() -> None:
    features = Features()
    features.load(rows_of_file(("u", "a", 48), ("v", "b", 48), ("w", "c", 48)))
    features.online.push([clicked("v", "x", 24)])
    later = rows_of_file(
        ("u", "a", 48), ("u", "d", 2), ("v", "b", 48), ("v", "e", 2), ("w", "c", 48), version="v2"
    )
    assert features.load(later, "run2") == 1
    assert features.served == {"u": ["d", "a"], "v": ["x"], "w": ["c"]}
    assert [row for row in features.in_history if row[0] == "u"] == [("u", ["a"]), ("u", ["d", "a"])]
    assert features.load(later, "run3") == 0
    features.online.rows.clear()  # Redis was emptied: the rows of the history come back
    before = list(features.in_history)
    assert features.load(later, "run4") == 3
    assert features.served == {"u": ["d", "a"], "v": ["e", "b"], "w": ["c"]}
    assert [row for row in features.in_history if row not in before] == [("v", ["e", "b"])]
