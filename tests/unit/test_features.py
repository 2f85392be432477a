"""Batch views as functions of what was done and a moment; seeds; the environment that Feast reads."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from services import turns
from services.adapters.feast_schemas import SCHEMAS
from services.adapters.feast_store import connection_string, environment
from services.adapters.memory_activity import MemoryActivityStore
from services.errors import ConfigurationError, UnavailableError
from services.features import seed, statistics
from services.features.seed import recent_activity
from services.settings import Settings

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
STAMP = NOW + timedelta(seconds=20)
TIME = pa.timestamp("us", "UTC")


def acts(*rows: tuple) -> pa.Table:
    """(user, item, hours before NOW, kind, quantity, price)"""
    names = ("user_id", "item_id", "at", "kind", "quantity", "price")
    whole = [
        dict(zip(names, (u, i, NOW - timedelta(hours=h), *rest), strict=True)) for u, i, h, *rest in rows
    ]
    kinds = [pa.string(), pa.string(), TIME, pa.string(), pa.float32(), pa.float32()]
    return pa.Table.from_pylist(whole, pa.schema(list(zip(names, kinds, strict=True))))


DONE = acts(
    ("u", "a", 2, "view", 1, 0),
    ("u", "a", 1, "click", 1, 0),
    ("u", "a", 0.5, "purchase", 2, 3.5),
    ("u", "b", 30, "purchase", 1, 10),
    ("u", "b", 24 * 20, "view", 1, 0),
    ("v", "b", 24 * 40, "purchase", 1, 1),
    ("v", "b", -1, "purchase", 1, 1),  # has not happened yet
)
ITEMS = pa.table(
    {
        "item_id": ["a", "b", "c"],
        "title": ["A", "B", "C"],
        "category": ["x", "y", "y"],
        "description": ["", "", ""],
        "price": [3.5, 10.0, 1.0],
        "first_seen": pa.array([NOW - timedelta(days=10), NOW - timedelta(days=50), None], TIME),
    }
)


def test_a_profile_counts_by_window() -> None:
    u, v = statistics.user_profile(DONE, NOW, STAMP).to_pylist()
    assert {name: u[name] for name in ("views_1d", "views_7d", "views_30d")} == {
        "views_1d": 2.0,
        "views_7d": 2.0,
        "views_30d": 3.0,
    }
    assert (u["purchases_1d"], u["purchases_7d"], u["spend_1d"], u["spend_7d"]) == (1.0, 2.0, 7.0, 17.0)
    assert (u["view_age_s"], u["purchase_age_s"]) == (3_600.0, 1_800.0)
    assert (v["purchases_30d"], v["spend_30d"], v["view_age_s"]) == (0.0, 0.0, None)
    assert v["purchase_age_s"] == 40 * 86_400.0
    assert u["event_timestamp"] == STAMP


def test_windows_nest_and_more_acts_never_lower_a_count() -> None:
    less, more = (
        statistics.user_profile(table, NOW, STAMP).to_pylist()
        for table in (DONE, pa.concat_tables([DONE, acts(("u", "c", 3, "view", 1, 0))]))
    )
    for before, after in zip(less, more, strict=True):
        for what in ("views", "purchases", "spend"):
            assert after[f"{what}_1d"] <= after[f"{what}_7d"] <= after[f"{what}_30d"]
            assert all(before[f"{what}_{days}d"] <= after[f"{what}_{days}d"] for days in (1, 7, 30))


def test_statistics_have_a_row_for_every_item_and_no_trend_without_acts() -> None:
    a, b, c = statistics.item_statistics(DONE, ITEMS, NOW, STAMP).to_pylist()
    assert (a["item_id"], a["views_1d"], a["purchases_1d"], a["age_days"]) == ("a", 2.0, 1.0, 10.0)
    assert a["trend"] == pytest.approx(np.log((3 + 1) / (3 * 7 / 30 + 1)))
    assert b["trend"] == pytest.approx(np.log((1 + 1) / (2 * 7 / 30 + 1)))
    assert (c["views_30d"], c["purchases_30d"], c["trend"], c["price"], c["age_days"]) == (
        0,
        0,
        0.0,
        1.0,
        None,
    )


def test_content_is_written_where_it_changed() -> None:
    nothing = SCHEMAS["item_content"].empty_table()
    first = statistics.item_content(ITEMS, nothing, NOW)
    assert first["item_id"].to_pylist() == ["a", "b", "c"]
    assert statistics.item_content(ITEMS, first, STAMP).num_rows == 0
    renamed = ITEMS.set_column(1, "title", pa.array(["A", "B2", "C"]))
    later = statistics.item_content(renamed, first, STAMP)
    assert later["item_id"].to_pylist() == ["b"]
    both = pa.concat_tables([first, later])
    assert statistics.item_content(renamed, both, STAMP).num_rows == 0
    assert statistics.item_content(ITEMS, both, STAMP)["item_id"].to_pylist() == ["b"]  # and back again


@pytest.mark.parametrize(
    ("view", "rows"),
    [
        ("user_profile", statistics.user_profile(DONE, NOW, STAMP)),
        ("item_statistics", statistics.item_statistics(DONE, ITEMS, NOW, STAMP)),
        ("item_content", statistics.item_content(ITEMS, SCHEMAS["item_content"].empty_table(), STAMP)),
        ("user_activity", recent_activity(DONE, "v1", NOW, 50)),
    ],
)
def test_rows_have_the_columns_of_their_view(view, rows) -> None:
    assert sorted(rows.schema.names) == sorted(SCHEMAS[view].names)


def test_a_seed_holds_the_latest_things_done_and_their_time() -> None:
    u, v = recent_activity(DONE, "v1", NOW, 3).to_pylist()
    assert (u["item_ids"], u["item_types"]) == (["a", "a", "a"], ["purchase", "click", "view"])
    assert u["event_timestamp"] == NOW - timedelta(hours=0.5)
    assert u["item_at"][0] == int(u["event_timestamp"].timestamp() * 1_000)
    assert len(set(u["event_ids"] + v["event_ids"])) == 4
    assert v["event_timestamp"] == NOW - timedelta(days=40)  # what has not happened yet is not known


def test_feast_connects_without_retries_and_with_timeouts() -> None:
    text = connection_string("rediss://someone:se%3Dcret@redis.example:7000/3")
    parts = dict(part.split("=", 1) for part in text.split(",")[1:])
    assert text.startswith("redis.example:7000,")
    assert (parts["db"], parts["retry"], parts["password"], parts["ssl"]) == ("3", "null", "se=cret", "true")
    assert float(parts["socket_timeout"]) > 0
    with pytest.raises(ConfigurationError, match="comma"):
        connection_string("redis://:a,b@host/0")


def test_feast_gets_absolute_paths_whatever_the_working_directory() -> None:
    variables = environment(Settings(home="somewhere"))
    assert variables["RINGSIDE_FEAST_HOME"].startswith("/")
    assert variables["RINGSIDE_FEAST_REGISTRY"].startswith("sqlite:////")


def test_a_seed_takes_no_row_that_somebody_is_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feast reads a row's timestamp, and writes then: a first click pushed in between would be lost."""
    monkeypatch.setattr(turns, "PAUSE_S", 0.0)
    monkeypatch.setattr(seed, "CHUNK", 2)
    rows, written = MemoryActivityStore(), []

    class Online:
        def write_online(self, view: str, seeds: pa.Table) -> None:
            users = seeds["user_id"].to_pylist()
            with rows.writing(users) as free:
                assert not free, "the activity worker could write meanwhile"
            written.extend(users)

    interactions = acts(*((user, "a", 1, "click", 1, 0) for user in "pqrst"))
    seeds = seed.recent_activity(interactions, "v1", NOW, 5)
    with rows.writing(["s"]), pytest.raises(UnavailableError, match="1 of them"):
        seed.load_seeds(seeds, Online(), rows)
    assert written == ["p", "q", "r"]
    written.clear()
    seed.load_seeds(seeds, Online(), rows)
    assert written == ["p", "q", "r", "s", "t"]
