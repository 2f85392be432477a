"""ActivityStore: what Feast's online store does with rows, and the double that claims to do the same."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
import redis
from support.breakable import BreakableActivityStore

from services.errors import StalePositionError, UnavailableError
from services.messages.events import ActivityRow

AT_MS = 1_790_000_000_123


def row(user: str, at_ms: int, *items: str) -> ActivityRow:
    return ActivityRow(
        received_at=at_ms,
        user_id=user,
        item_ids=list(items),
        item_at=[AT_MS - index for index in range(len(items))],
        item_types=["click"] * len(items),
        event_ids=[f"e-{user}-{item}" for item in items],
    )


@pytest.fixture(params=["memory", "feast"])
def store(request, settings_for) -> Any:
    if request.param == "memory":
        return BreakableActivityStore()
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=request.getfixturevalue("redis_server"))
    FeastFeatureStore(settings).apply()
    return FeastActivityStore(settings)


@dataclass
class Two:
    """Two processes that write the same rows; `expire`: as if both had taken too long."""

    one: Any
    other: Any
    expire: Callable[[], None]


@pytest.fixture
def two(store, settings_for, request) -> Two:
    if isinstance(store, BreakableActivityStore):
        return Two(store, store, store.expire)
    server = request.getfixturevalue("redis_server")

    def expire() -> None:
        with redis.Redis.from_url(server.url) as client:
            client.delete(*client.keys("{activity}:writing:*"))

    return Two(store, type(store)(settings_for(redis=server)), expire)


def test_each_user_is_written_by_one_at_a_time(two) -> None:
    with two.one.lock_rows(["u", "v"]) as ours:
        assert ours == {"u", "v"}
        with two.other.lock_rows(["v", "é|:"]) as others:
            assert others == {"é|:"}
        with two.other.lock_rows(["v"]) as none:
            assert none == set()
    with two.other.lock_rows(["u", "v"]) as free:
        assert free == {"u", "v"}
    with two.one.lock_rows([]) as locked:
        assert locked == set()


def test_who_fails_while_writing_keeps_nobody_waiting(two) -> None:
    with pytest.raises(ValueError, match="no"), two.one.lock_rows(["u"]):
        raise ValueError("no")
    with two.other.lock_rows(["u"]) as free:
        assert free == {"u"}


def test_an_expired_lock_raises_and_leaves_the_next_holder_alone(two) -> None:
    slow, quick = two.one.lock_rows(["u", "v"]), two.other.lock_rows(["v"])
    slow.__enter__()
    two.expire()
    assert quick.__enter__() == {"v"}
    with pytest.raises(UnavailableError, match="rows of users"):
        slow.__exit__(None, None, None)
    with two.one.lock_rows(["u", "v"]) as free:
        assert free == {"u"}
    quick.__exit__(None, None, None)


def test_what_nobody_gives_back_ends_by_itself(redis_server, two) -> None:
    with two.one.lock_rows(["u"]), redis.Redis.from_url(redis_server.url) as client:
        assert all(0 < client.pttl(key) <= 5_000 for key in client.keys("{activity}:writing:*"))


def test_a_push_before_views_are_registered_fails_then_works(settings_for, redis_server) -> None:
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server)
    settings.home.mkdir()
    early = FeastActivityStore(settings)
    with pytest.raises(UnavailableError, match="ringside features apply"):
        early.push([row("u", AT_MS, "a")])
    FeastFeatureStore(settings).apply()
    with suppress(UnavailableError):  # the registry may have been cached without them
        early.push([row("u", AT_MS, "a")])
    early.push([row("u", AT_MS, "a")])
    assert early.load(["u"])["u"] == row("u", AT_MS, "a")


def test_rows_come_back_as_they_were_pushed(store) -> None:
    rows = [row("u", AT_MS, "b", "a"), row("é|:", AT_MS + 1, *(f"i{index}" for index in range(50)))]
    store.push(rows)
    assert store.load(["u", "nobody", "é|:"]) == {one.user_id: one for one in rows}
    assert store.load([]) == {}


def test_a_row_that_is_not_later_is_dropped(store) -> None:
    store.push([row("u", AT_MS, "a")])
    for at_ms in (AT_MS, AT_MS - 1):
        store.push([row("u", at_ms, "b")])
        assert store.load(["u"])["u"] == row("u", AT_MS, "a")
    store.push([row("u", AT_MS + 1, "b")])
    assert store.load(["u"])["u"].item_ids == ["b"]


def test_an_invalid_row_counts_as_empty_and_is_replaced(settings_for, redis_server) -> None:
    """An older worker restored it so from its history."""
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server)
    FeastFeatureStore(settings).apply()
    store = FeastActivityStore(settings)
    senseless = row("u", AT_MS, "a", "b")
    msgspec.structs.force_setattr(senseless, "event_ids", ["e1"])
    store.push([senseless, row("v", AT_MS, "a")])
    assert store.load(["u", "v"]) == {"u": row("u", AT_MS), "v": row("v", AT_MS, "a")}
    store.push([row("u", AT_MS + 1, "c")])
    assert store.load(["u"]) == {"u": row("u", AT_MS + 1, "c")}


def test_warming_up_leaves_no_trace(store) -> None:
    store.warm_up()
    assert store.load(["", "u"]) == {}
    store.push([row("", AT_MS, "a")])
    kept = store.load([""])
    store.warm_up()
    assert store.load([""]) == kept


def test_warming_up_sends_no_command_that_writes(redis_server, settings_for) -> None:
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server)
    FeastFeatureStore(settings).apply()
    store = FeastActivityStore(settings)
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_resetstat()
        store.warm_up()
        sent = set(client.info("commandstats"))
        assert "cmdstat_hmget" in sent  # it went all the way to Redis
        assert not sent & {"cmdstat_hset", "cmdstat_set", "cmdstat_expire", "cmdstat_del", "cmdstat_eval"}
        assert client.dbsize() == 0
        store.push([row("u", AT_MS, "a")])
        assert "cmdstat_hset" in client.info("commandstats")  # and then writes again


def test_positions_belong_to_their_log(store) -> None:
    assert store.positions("log-1") == {}
    store.initialize_positions("log-1", {("events", 0): 5, ("events", 3): 7})
    store.save_positions("log-1", {("events", 0): 9})
    store.save_positions("log-1", {})
    assert store.positions("log-1") == {("events", 0): 9, ("events", 3): 7}
    assert store.positions("log-2") == {}


def test_positions_that_are_gone_are_not_made_up(store) -> None:
    with pytest.raises(StalePositionError):
        store.save_positions("log-1", {("events", 0): 5})
    store.initialize_positions("log-1", {("events", 0): 5})
    with pytest.raises(StalePositionError):
        store.save_positions("log-1", {("events", 0): 6, ("events", 1): 1})
    assert store.positions("log-1") == {("events", 0): 5}


def test_redis_down_and_back(redis_server, settings_for) -> None:
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server)
    FeastFeatureStore(settings).apply()
    store = FeastActivityStore(settings)
    store.push([row("u", AT_MS, "a")])
    redis_server.server.kill()
    attempts: list[Callable[[], Any]] = [
        lambda: store.push([row("u", AT_MS + 1, "b")]),
        lambda: store.load(["u"]),
        lambda: store.lock_rows(["u"]).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(UnavailableError, match="(?i)redis"):
            attempt()
    redis_server.restart()
    store.push([row("u", AT_MS + 2, "c")])
    assert store.load(["u"]) == {"u": row("u", AT_MS + 2, "c")}


def test_rows_of_who_never_comes_back_leave_redis(redis_server, settings_for) -> None:
    from services.adapters.feast.activity_store import FeastActivityStore
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server)
    FeastFeatureStore(settings).apply()
    FeastActivityStore(settings).push([row("ada", AT_MS, "a")])
    with redis.Redis.from_url(redis_server.url) as client:
        lives_s = [client.ttl(key) for key in client.keys("*ada*")]
    assert len(lives_s) == 1
    assert settings.activity_ttl_s < lives_s[0] <= settings.activity_ttl_s + 86_400


def test_views_are_registered_once_all_of_them_are(redis_server, settings_for) -> None:
    """Whoever opens Feast makes the registry's file: that alone is no registration."""
    from services.adapters.feast.feature_store import FeastFeatureStore, open_store

    settings = settings_for(redis=redis_server)
    store = FeastFeatureStore(settings)
    assert not store.applied()
    settings.home.mkdir(parents=True, exist_ok=True)
    open_store(settings).list_feature_views()
    assert not store.applied()
    store.apply()
    assert store.applied()
