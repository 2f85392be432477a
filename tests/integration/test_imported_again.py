"""A shop imports its data again while shoppers click, with a real Redis and Feast."""

import asyncio
import csv
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis

from services import bootstrap
from services.adapters.feast.online_reader import FeastOnlineReader
from services.data_import.app import ImportRequest, import_data
from services.features.app import materialize
from services.messages.events import ActivityRow
from services.ports.features import UserRow
from services.settings import Settings

NOW = datetime.now(UTC)
VIEW = "user_activity"


def ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000)


def export(settings: Settings, *lines: tuple[str, str, datetime]) -> None:
    folder = settings.home / "own"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title"), *((item, item) for item in "abcdef")])
    with (folder / "interactions.csv").open("w", newline="") as file:
        whole = [(user, item, at.isoformat()) for user, item, at in lines]
        csv.writer(file).writerows([("user_id", "item_id", "at"), *whole])
    import_data(settings, ImportRequest(str(folder)), datetime.now(UTC))


def served(settings: Settings, user: str) -> UserRow:
    async def read() -> UserRow:
        reader = FeastOnlineReader(settings)
        try:
            return (await reader.read(user, None, None, 0))[0]
        finally:
            reader.close()

    return asyncio.run(read())


def empty(server: Any) -> None:
    with redis.Redis.from_url(server.url) as raw:
        raw.flushall()


def known(settings: Settings, user: str, at_ms: int) -> tuple[str, ...] | None:
    """The user's items as training sees them at a time."""
    rows = bootstrap.feature_store(settings).rows_as_of(VIEW, ["item_ids"], [user], [at_ms])
    [items] = rows["item_ids"]
    return tuple(items) if hasattr(items, "__len__") else None


@pytest.mark.slow
def test_what_shoppers_did_stays_and_training_sees_what_was_served(redis_server, settings_for) -> None:
    settings = settings_for(redis=redis_server, redis_deadline_ms=10_000, activity_ttl_s=30 * 86_400)
    first = [("anna", "a", ago(72)), ("bob", "b", ago(48)), ("old", "b", ago(31 * 24))]
    export(settings, *first)
    assert materialize(settings, datetime.now(UTC)).rows[VIEW] == 2
    assert served(settings, "anna").recent_items == ("a",)
    assert served(settings, "bob").recent_items == ("b",)
    assert served(settings, "old").recent_items == ()

    at = ms(ago(2))
    click = ActivityRow(
        received_at=at, user_id="anna", item_ids=["f", "a"], item_at=[at, ms(ago(72))],
        item_types=["click", "purchase"], event_ids=["e1", "v:1"],
    )  # fmt: skip
    bootstrap.activity_store(settings).push([click])
    # Ten minutes after the click, Anna bought c elsewhere, and a new user came.
    export(settings, *first, ("anna", "c", ago(1.8)), ("bob", "c", ago(1.8)), ("carl", "d", ago(1.7)))
    bob_before = served(settings, "bob")
    assert materialize(settings, datetime.now(UTC)).rows[VIEW] == 2
    assert served(settings, "anna").recent_items == ("f", "a")
    assert served(settings, "bob").recent_items == ("c", "b")  # only backfill rows so far
    assert served(settings, "carl").recent_items == ("d",)

    history = bootstrap.feature_store(settings)
    users = history.history(VIEW)["user_id"].to_pylist()
    assert sorted(users) == ["anna", "bob", "bob", "carl"]
    assert known(settings, "bob", bob_before.activity_at) == ("b",)
    assert known(settings, "anna", ms(ago(1))) == ("a",)  # the lake has yet to write the click's row
    for user in ("bob", "carl"):
        row = served(settings, user)
        assert known(settings, user, row.activity_at) == row.recent_items

    before = {user: served(settings, user) for user in ("bob", "carl")}
    empty(redis_server)
    assert materialize(settings, datetime.now(UTC)).rows[VIEW] == 3
    for user, row in before.items():
        after = served(settings, user)
        assert (after.recent_items, after.activity_at) == (row.recent_items, row.activity_at)
    assert served(settings, "anna").recent_items == ("c", "a")  # until her click is read from the log again
    assert history.history(VIEW).num_rows == 5
