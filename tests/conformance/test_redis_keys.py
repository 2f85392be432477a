"""Key names and values in Redis, against those that an earlier version stored (recorded/redis.json)."""

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from experiments.lifecycle.state import Rules
from services.adapters.feast.online_reader import FeastOnlineReader
from services.adapters.redis import keys
from services.adapters.redis.item_overlay import RedisItemOverlay
from services.adapters.redis.pin_store import RedisPinStore
from services.adapters.redis.row_locks import RedisRowLocks
from services.adapters.redis.state_cache import RedisStateCache
from services.adapters.redis.sum_store import RedisSumStore
from services.messages.events import ItemChanged
from services.ports.catalogue import OverlayPosition
from services.ports.pins import Pin
from services.ports.state import Heartbeat, Positions
from services.settings import Settings

AT_MS = 1_790_000_000_000
RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "recorded" / "redis.json").read_text())
BEFORE = Positions("log-1", 5, 7, 3)
AFTER = Positions("log-1", 9, 11, 4, (("storefront", 2),))
SUMS = {"1|als|497222|n": 4, "1|als|497222|s": 1, "acct|als|counted": 1}
BEAT = Heartbeat("r1", 1, "popularity", ("popularity-1",), AT_MS)
CHANGES = [
    ItemChanged(received_at=AT_MS, item_id="a", price=2.5, author="anna"),
    ItemChanged(received_at=AT_MS, item_id="b", deleted=True, author="anna"),
]


@pytest.fixture
def settings(redis_server: Any, settings_for: Callable[..., Settings]) -> Settings:
    return settings_for(redis=redis_server, redis_deadline_ms=5_000, state_deadline_ms=5_000)


@pytest.fixture
def client(settings: Settings) -> Any:
    with redis.Redis.from_url(settings.redis_url, decode_responses=True) as client:
        yield client


def put_recorded(client: Any) -> None:
    """Load what the earlier version stored."""
    for key, value in RECORDED.items():
        if isinstance(value, str):
            client.set(key, value)
        elif isinstance(value, dict):
            client.hset(key, mapping=value)
        elif key == keys.HEARTBEAT_EXPIRY:
            client.zadd(key, dict.fromkeys(value, 4e12))
        else:
            client.sadd(key, *value)


def read(settings: Settings, user: str, proposal: Pin | None) -> Pin | None:
    """The pin of a unit, as `/recommend` reads it."""

    async def once() -> Pin | None:
        reader = FeastOnlineReader(settings)
        _, pin, _ = await reader.read(user, f"storefront|{user}", proposal, 3_600)
        reader.close()
        return pin

    return asyncio.run(once())


def test_keys_written_are_those_that_were_recorded(settings: Settings, client: Any) -> None:
    state = RedisStateCache(settings)
    put_recorded(client)
    cached = state.get("storefront")
    client.flushall()

    sums = RedisSumStore(settings)
    sums.apply(1, None, BEFORE, {"storefront": SUMS})
    sums.set_watermark(1, AT_MS, 3)
    sums.report_loss(1, "lost")
    sums.report_loss(2, "lost too")
    sums.acknowledge_loss(1, "lost")
    sums.apply(2, None, AFTER, {"storefront": {"1|als|497222|n": 2}})
    assert cached is not None
    state.put(cached)
    state.mark_complete("storefront")
    state.put_heartbeat(BEAT, 3_600)
    state.acquire_lease("decider", "one", 3_600)
    pins = RedisPinStore(settings)
    pins.begin_restore([0, 1])
    pins.restore({"storefront|u1": (Pin(1, "als", 0.25, AT_MS), 3_600_000)})
    pins.mark_restored(0)
    RedisItemOverlay(settings).apply(None, OverlayPosition("log-1", 4), CHANGES)
    read(settings, "u2", Pin(1, "popularity", 0.75, AT_MS))
    client.hset(keys.activity_positions("log-1"), "events/0", 5)
    with RedisRowLocks(settings).lock_rows(["u1"]):
        written = client.keys()
    assert without_tokens(written) == without_tokens(RECORDED)


def without_tokens(names: Any) -> set[str]:
    """Names without the random name of a pin store."""
    return {re.sub("restoring:[0-9a-f]{16}", "restoring:TOKEN", name) for name in names}


def test_recorded_values_are_still_read(settings: Settings, client: Any) -> None:
    put_recorded(client)
    sums = RedisSumStore(settings)
    assert sums.load(1) == (BEFORE, {"storefront": SUMS})
    assert sums.positions([1, 2]) == {1: BEFORE, 2: AFTER}
    assert sums.losses() == {2: "lost too"}
    assert sums.loss_acknowledged(1, BEFORE)
    state = RedisStateCache(settings)
    cached = state.get("storefront")
    assert cached is not None
    assert (cached.champion, cached.rules) == ("popularity", Rules())
    assert state.heartbeats() == [BEAT]
    assert not state.acquire_lease("decider", "two", 60)
    assert RedisPinStore(settings).restored_partitions() == {0}
    assert RedisItemOverlay(settings).changes() == (OverlayPosition("log-1", 4), CHANGES)
    assert read(settings, "u1", None) == Pin(1, "als", 0.25, AT_MS)
    assert read(settings, "u2", Pin(9, "als", 0.5, AT_MS)) == Pin(1, "popularity", 0.75, AT_MS)
    with RedisRowLocks(settings).lock_rows(["u1", "u2"]) as locked:
        assert locked == {"u2"}
