"""StateCache: newer states win, heartbeats and leases expire, on memory and on Redis."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import redis
from support.breakable import BreakableStateCache
from support.traffic import EXPERIMENT, RULES, START_MS

from experiments.lifecycle import commands
from experiments.lifecycle.fold import apply
from experiments.lifecycle.state import Experiment
from services.adapters.redis.state_cache import RedisStateCache
from services.errors import UnavailableError
from services.ports.state import Heartbeat, StateCache

ORIGIN = commands.Provenance("anna", START_MS)
TTL_S = 0.1


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def cache(request: pytest.FixtureRequest, settings_for: Callable) -> StateCache:
    if request.param == "memory":
        return BreakableStateCache()
    return RedisStateCache(settings_for(redis=request.getfixturevalue("redis_server")))


@pytest.fixture
def history() -> list[Experiment]:
    """Every state of an experiment that has lived through a promotion, its undo, a hold and a rollback."""
    champion = commands.Deployed("popularity", "popularity-1")
    state = apply(None, commands.start(EXPERIMENT, champion, RULES, "salt", ORIGIN))
    states = [state]
    for build in (
        lambda s: commands.enter(s, "als", "als-1", ORIGIN),
        lambda s: commands.promote(s, "als", ORIGIN),
        lambda s: commands.undo(s, 3, ORIGIN),
        lambda s: commands.hold(s, ["the watermark stalled"], ORIGIN),
        lambda s: commands.resume(s, ORIGIN),
        lambda s: commands.rollback(s, "als", ORIGIN),
    ):
        states.append(apply(states[-1], build(states[-1])))
    return states


def beat(replica: str, revision: int = 1) -> Heartbeat:
    return Heartbeat(replica, revision, "popularity", ("popularity-1", "als-1"), START_MS)


def test_what_was_put_is_what_one_gets(cache, history):
    assert cache.get(EXPERIMENT) is None
    for state in history:
        assert cache.put(state)
        assert cache.get(EXPERIMENT) == state


def test_an_older_state_never_replaces_a_newer_one(cache, history):
    newest = history[-1]
    cache.put(newest)
    assert [cache.put(state) for state in history] == [False] * len(history)
    assert cache.get(EXPERIMENT) == newest
    assert cache.put(replace(newest, name="another", revision=1))
    assert cache.get(EXPERIMENT) == newest


def test_heartbeats_are_those_of_the_replicas_that_live(cache):
    cache.put_heartbeat(beat("b", 3), ttl_s=30)
    cache.put_heartbeat(beat("a", 3), ttl_s=30)
    assert cache.heartbeats() == [beat("a", 3), beat("b", 3)]
    cache.put_heartbeat(beat("a", 3), ttl_s=TTL_S)
    cache.put_heartbeat(beat("b", 4), ttl_s=30)
    time.sleep(TTL_S * 1.5)
    assert cache.heartbeats() == [beat("b", 4)]


def test_a_lease_has_one_holder_until_it_expires(cache):
    assert cache.acquire_lease("decider", "one", ttl_s=TTL_S)
    assert cache.acquire_lease("decider", "one", ttl_s=30)  # renewed
    assert cache.acquire_lease("trainer", "two", ttl_s=30)
    time.sleep(TTL_S * 1.5)
    assert not cache.acquire_lease("decider", "two", ttl_s=30)
    assert cache.acquire_lease("decider", "one", ttl_s=TTL_S)
    time.sleep(TTL_S * 1.5)
    assert cache.acquire_lease("decider", "two", ttl_s=30)


def test_a_dead_redis_is_unavailable(redis_server, settings_for):
    cache = RedisStateCache(settings_for(redis=redis_server, state_deadline_ms=50))
    cache.put_heartbeat(beat("a"), ttl_s=30)
    redis_server.server.kill()
    for call in (
        lambda: cache.get(EXPERIMENT),
        cache.heartbeats,
        lambda: cache.acquire_lease("decider", "one", 1),
    ):
        with pytest.raises(UnavailableError, match="Redis"):
            call()


def test_passwords_are_not_in_error_messages(settings_for):
    cache = RedisStateCache(settings_for(redis_url="redis://user:hush@127.0.0.1:1/0", state_deadline_ms=50))
    with pytest.raises(UnavailableError, match=r"Redis at 127\.0\.0\.1:1/0") as caught:
        cache.heartbeats()
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("body", ["hi", "{}", '{"name": "storefront"}'])
def test_an_undecodable_cached_state_is_logged_and_replaced(
    redis_server, settings_for, history, caplog, body
):
    cache = RedisStateCache(settings_for(redis=redis_server))
    cache.put(history[0])
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.hset("experiment:storefront", mapping={"revision": 99, "body": body})
    assert cache.get(EXPERIMENT) is None
    assert cache.get(EXPERIMENT) is None
    assert len(caplog.messages) == 1
    assert "experiment:storefront holds no state" in caplog.messages[0]
    assert cache.put(history[1])
    assert cache.get(EXPERIMENT) == history[1]


def test_an_undecodable_heartbeat_is_ignored_and_logged_once(redis_server, settings_for, caplog):
    cache = RedisStateCache(settings_for(redis=redis_server))
    cache.put_heartbeat(beat("a"), ttl_s=30)
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.hset("{heartbeats}:bodies", "b", "hello")
    assert cache.heartbeats() == cache.heartbeats() == [beat("a")]
    assert len(caplog.messages) == 1
