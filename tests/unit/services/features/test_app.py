"""Batch views as functions of interactions and a time; interactions from the lake; Feast's environment; the
loop."""

import logging
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from services.adapters.feast.feature_store import connection_string, environment
from services.adapters.feast.schemas import SCHEMAS
from services.errors import ConfigurationError, UnavailableError
from services.features import app, statistics
from services.features.backfill import recent_activity
from services.features.metrics import Materialized
from services.lake.tables import EVENTS
from services.settings import Settings

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
STAMP = NOW + timedelta(seconds=20)
TIME = pa.timestamp("us", "UTC")


def interactions(*rows: tuple) -> pa.Table:
    """(user, item, hours before NOW, kind, quantity, price)"""
    names = ("user_id", "item_id", "at", "kind", "quantity", "price")
    whole = [
        dict(zip(names, (u, i, NOW - timedelta(hours=h), *rest), strict=True)) for u, i, h, *rest in rows
    ]
    kinds = [pa.string(), pa.string(), TIME, pa.string(), pa.float32(), pa.float32()]
    return pa.Table.from_pylist(whole, pa.schema(list(zip(names, kinds, strict=True))))


DONE = interactions(
    ("u", "a", 2, "view", 1, 0),
    ("u", "a", 1, "click", 1, 0),
    ("u", "a", 0.5, "purchase", 2, 3.5),
    ("u", "b", 30, "purchase", 1, 10),
    ("u", "b", 24 * 20, "view", 1, 0),
    ("v", "b", 24 * 40, "purchase", 1, 1),
    ("v", "b", -1, "purchase", 1, 1),  # after NOW
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
        for table in (DONE, pa.concat_tables([DONE, interactions(("u", "c", 3, "view", 1, 0))]))
    )
    for before, after in zip(less, more, strict=True):
        for what in ("views", "purchases", "spend"):
            assert after[f"{what}_1d"] <= after[f"{what}_7d"] <= after[f"{what}_30d"]
            assert all(before[f"{what}_{days}d"] <= after[f"{what}_{days}d"] for days in (1, 7, 30))


def test_statistics_have_every_item_and_no_trend_without_events() -> None:
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


def in_lake(settings: Settings, file: str, *rows: dict) -> None:
    """Write events to the lake; missing columns are null."""
    folder = settings.lake_path / "events" / "date=2026-06-01" / "hour=11"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), EVENTS), folder / f"{file}.parquet")


def event(event_id: str, hours: float, **more: object) -> dict:
    at_ms = int((NOW - timedelta(hours=hours)).timestamp() * 1_000)
    defaults = {"type": "purchase", "item_id": "a", "user_id": "u"}
    return {"event_id": event_id, "received_at": at_ms} | defaults | more


def done_to(settings: Settings, imported: pa.Table) -> list[tuple]:
    names = ("user_id", "item_id", "kind", "price")
    table = app._interactions(settings, imported, ITEMS)
    assert table.schema.names == imported.schema.names
    return [tuple(row[name] for name in names) for row in table.to_pylist()]


def test_events_are_acts_each_once_whatever_the_lake_holds_twice(tmp_path) -> None:
    settings = Settings(home=tmp_path)
    assert done_to(settings, DONE.slice(0, 0)) == []
    in_lake(settings, "one", event("e1", 3, value=9.5), event("e2", 2), event("e3", 2, type="impression"))
    in_lake(settings, "two", event("e1", 3, value=9.5), event("e4", 1, type="click", user_id=None))
    in_lake(settings, "three", event("e5", 1, type="view", user_id=None, session_id="s", item_id="gone"))
    assert sorted(done_to(settings, DONE.slice(0, 0))) == [
        ("s", "gone", "view", 0.0),
        ("u", "a", "purchase", 3.5),  # the catalogue's price
        ("u", "a", "purchase", 9.5),
    ]


def test_events_in_both_lake_and_import_count_once(tmp_path) -> None:
    """A shop's own export contains the sales made through Ringside too; training begins after it as well."""
    settings = Settings(home=tmp_path)
    in_lake(settings, "sales", event("e1", 2, value=3.5), event("e2", 1, item_id="b", value=8.0))
    exported = interactions(("v", "b", 3, "purchase", 1, 10), ("u", "a", 2, "purchase", 1, 3.5))
    assert done_to(settings, exported) == [
        ("v", "b", "purchase", 10.0),
        ("u", "a", "purchase", 3.5),
        ("u", "b", "purchase", 8.0),
    ]
    u, _ = statistics.user_profile(app._interactions(settings, exported, ITEMS), NOW, STAMP).to_pylist()
    assert (u["purchases_1d"], u["spend_1d"]) == (2.0, 11.5)


class Turns:
    """A stop that comes after so many turns."""

    def __init__(self, turns: int):
        self.left = turns

    def is_set(self) -> bool:
        return self.left <= 0

    def wait(self, _: float) -> bool:
        self.left -= 1
        return self.left <= 0


class Meters:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def step(self) -> nullcontext:
        return nullcontext()


@pytest.mark.parametrize(
    "error", [UnavailableError("Redis", "gone"), duckdb.InvalidInputException("no magic")]
)
def test_no_error_ends_the_loop(error, monkeypatch, tmp_path, caplog) -> None:
    """If the process ended, the metric of the features' age would end too."""
    runs: list[BaseException | Materialized] = [error, Materialized(STAMP, {}, 1.0, 0.0)]
    first_runs = []

    class Aside(AbstractContextManager):
        def __exit__(self, *_: object) -> None: ...

        def submit(self, _task, _settings, first: bool) -> Future:
            future, outcome = Future(), runs.pop(0)
            first_runs.append(first)
            if isinstance(outcome, Materialized):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)
            return future

    monkeypatch.setattr(app, "ProcessPoolExecutor", lambda *_: Aside())
    monkeypatch.setattr(app, "RETRY_S", 0.0)
    monkeypatch.setattr(app.bootstrap, "configure_logging", lambda *_: None)
    monkeypatch.setattr(app, "stop_on_signal", lambda *_: Turns(3))
    monkeypatch.setattr(app.bootstrap, "metered", lambda *_, **__: nullcontext(Meters()))
    with caplog.at_level(logging.WARNING):
        app.run_every(Settings(home=tmp_path), 3_600.0)
    assert first_runs == [True, True]  # the failed run is repeated, the next one not due
    [record] = caplog.records
    assert record.getMessage().startswith("materializing features")
    assert str(error) in record.getMessage()
    assert bool(record.exc_info) == (not isinstance(error, UnavailableError))
