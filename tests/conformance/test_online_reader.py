"""OnlineReader: what Feast itself would answer, within the deadline, and pins whose first writer wins."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from support.breakable import BreakableOnlineReader, BreakablePinStore

from services.adapters.feast.online_reader import FeastOnlineReader
from services.adapters.feast.redis_layout import PROFILE_FEATURES, USER_ACTIVITY, USER_PROFILE
from services.adapters.feast.schemas import SCHEMAS
from services.adapters.redis.pin_store import RedisPinStore
from services.errors import UnavailableError
from services.ports.features import OnlineReader, UserRow
from services.ports.pins import Pin, PinStore

DAY_MS = 86_400_000
NOW_MS = 1_790_000_000_123
UNIT = "shop|s:u:1"
FIRST, SECOND = Pin(3, "als-1", 0.25, NOW_MS), Pin(4, "popularity", 0.75, NOW_MS + 5)


def run(reader: Any, story: Callable[[Any], Awaitable[Any]]) -> Any:
    """One event loop for one story; a reader that hangs fails instead of hanging the tests."""

    async def bounded() -> Any:
        try:
            return await asyncio.wait_for(story(reader), 20)
        finally:
            if hasattr(reader, "close"):
                reader.close()

    return asyncio.run(bounded())


@pytest.fixture(params=["memory", "feast"])
def reader(request, settings_for) -> OnlineReader:
    if request.param == "memory":
        return BreakableOnlineReader()
    redis_server = request.getfixturevalue("redis_server")
    settings = settings_for(redis=redis_server, redis_deadline_ms=2_000)
    RedisPinStore(settings).mark_complete(["shop"], 0)
    return FeastOnlineReader(settings)


def test_the_first_writer_of_a_pin_wins(reader) -> None:
    async def story(reader) -> list:
        return [await reader.read("u", UNIT, pin, 60) for pin in (FIRST, SECOND, None)]

    assert run(reader, story) == [
        (UserRow(), FIRST, True),
        (UserRow(), FIRST, False),
        (UserRow(), FIRST, False),
    ]


def test_while_pins_may_be_missing_nobody_is_pinned(redis_server, settings_for) -> None:
    """The mark of complete pins was lost with them, so no unit counts as new."""
    settings = settings_for(redis=redis_server, redis_deadline_ms=2_000)
    store, reader = RedisPinStore(settings), FeastOnlineReader(settings)

    async def story(reader) -> list:
        results = [await reader.read("u", UNIT, pin, 60) for pin in (FIRST, SECOND)]
        store.restore({UNIT: (FIRST, 60_000)})
        results.append(await reader.read("u", UNIT, SECOND, 60))
        assert store.mark_complete(["shop"], 0)
        return results + [await reader.read("u", UNIT, SECOND, 60) for _ in range(2)]

    empty = (UserRow(), None, False)
    assert run(reader, story) == [empty, empty, empty, empty, (UserRow(), FIRST, False)]


@pytest.fixture(params=["memory", "redis"])
def pins(request, settings_for) -> PinStore:
    if request.param == "memory":
        return BreakablePinStore(BreakableOnlineReader())
    return RedisPinStore(settings_for(redis=request.getfixturevalue("redis_server")))


def empty(pins: PinStore) -> None:
    if isinstance(pins, BreakablePinStore):
        pins.lose_data()
    else:
        pins._redis.flushall()


def test_pins_are_complete_only_while_every_partition_is_restored(pins) -> None:
    pins.begin_restore([0, 1])
    assert pins.mark_restored(0)
    assert not pins.mark_complete(["shop"], 2)
    assert pins.mark_restored(1)
    assert pins.restored_partitions() == {0, 1}
    assert pins.mark_complete(["shop"], 2)
    empty(pins)
    assert not pins.mark_complete(["shop"], 2)


def test_pins_restored_before_another_wipe_are_incomplete(pins) -> None:
    pins.begin_restore([0, 1])
    pins.restore({UNIT: (FIRST, 60_000)})
    empty(pins)
    assert not pins.mark_restored(0)
    assert pins.restored_partitions() == frozenset()
    pins.begin_restore([0])
    assert pins.mark_restored(0)


def test_units_have_separate_pins_and_no_unit_has_none(reader) -> None:
    async def story(reader) -> list:
        await reader.read("u", UNIT, FIRST, 60)
        return [await reader.read("u", key, None, 60) for key in ("shop|s:u:2", None)]

    assert run(reader, story) == [(UserRow(), None, False)] * 2


def test_a_pin_expires_with_its_unit(reader) -> None:
    async def story(reader) -> tuple:
        await reader.read("u", UNIT, FIRST, 0.02)
        while (await reader.read("u", UNIT, None, 60))[1] is not None:
            await asyncio.sleep(0.01)
        return await reader.read("u", UNIT, SECOND, 60)

    assert run(reader, story) == (UserRow(), SECOND, True)


def test_a_pin_is_replaced_on_purpose_only(reader) -> None:
    async def story(reader) -> tuple:
        await reader.read("u", UNIT, FIRST, 60)
        await reader.replace_pin(UNIT, SECOND, 60)
        return await reader.read("u", UNIT, FIRST, 60)

    assert run(reader, story) == (UserRow(), SECOND, False)


def test_of_many_at_once_exactly_one_writes(reader) -> None:
    async def story(reader) -> list:
        asked = (reader.read("u", UNIT, Pin(index, "a", 0.5, NOW_MS), 60) for index in range(50))
        return await asyncio.gather(*asked)

    answers = run(reader, story)
    assert sum(written for _, _, written in answers) == 1
    assert len({pin for _, pin, _ in answers}) == 1


# ---- features, against Feast itself
# --------------------------------------------------------------------------------


@pytest.fixture
def feast(redis_server, settings_for) -> Any:
    """(settings, FeastFeatureStore) with an empty online store."""
    from services.adapters.feast.feature_store import FeastFeatureStore

    settings = settings_for(redis=redis_server, redis_deadline_ms=2_000)
    store = FeastFeatureStore(settings)
    store.apply()
    return settings, store


def stamp(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1_000, UTC)


def activity(rng: random.Random, user: str, at_ms: int) -> dict[str, Any]:
    count = rng.choice([0, 1, 50])
    return {
        "user_id": user,
        "item_ids": [rng.choice(["85048", "79323P", "ÄÖ 猫", "x" * 200]) for _ in range(count)],
        "item_at": sorted((rng.randrange(NOW_MS) for _ in range(count)), reverse=True),
        "item_types": [rng.choice(["view", "click", "purchase"]) for _ in range(count)],
        "event_ids": [f"{rng.getrandbits(128):032x}" for _ in range(count)],
        "event_timestamp": stamp(at_ms),
    }


def profile(rng: random.Random, user: str, at_ms: int) -> dict[str, Any]:
    numbers = {name: rng.choice([0.0, -1.5, 1e12, rng.random(), None]) for name in PROFILE_FEATURES}
    return {"user_id": user, **numbers, "event_timestamp": stamp(at_ms)}


def load(store: Any, view: str, rows: list[dict[str, Any]]) -> None:
    store.write_online(view, pa.Table.from_pylist(rows, SCHEMAS[view]))


def test_rows_equal_what_feast_answers(feast) -> None:
    settings, store = feast
    rng = random.Random(7)
    users = [f"user {index} é" for index in range(120)] + ["12346", "", "a:b|c"]
    load(
        store,
        USER_ACTIVITY,
        [activity(rng, u, NOW_MS - rng.randrange(DAY_MS)) for u in users if rng.random() < 0.7],
    )
    load(
        store,
        USER_PROFILE,
        [profile(rng, u, NOW_MS - rng.randrange(DAY_MS)) for u in users if rng.random() < 0.7],
    )
    names = ("item_ids", "item_at", "item_types")
    features = [f"{USER_ACTIVITY}:{name}" for name in names]
    features += [f"{USER_PROFILE}:{name}" for name in PROFILE_FEATURES]
    answer = store.opened.get_online_features(
        features, entity_rows=[{"user_id": user} for user in users]
    ).to_dict()
    reader = FeastOnlineReader(settings, clock=lambda: NOW_MS)

    async def story(reader) -> list[UserRow]:
        return [(await reader.read(user, None, None, 0))[0] for user in users]

    for index, row in enumerate(run(reader, story)):
        assert row.recent_items == tuple(answer["item_ids"][index] or ())
        assert row.recent_at == tuple(answer["item_at"][index] or ())
        assert row.recent_types == tuple(answer["item_types"][index] or ())
        theirs = {name: answer[name][index] for name in PROFILE_FEATURES}
        assert dict(row.profile) == {name: value for name, value in theirs.items() if value is not None}


def test_a_row_is_served_until_its_ttl_and_not_after(feast) -> None:
    settings, store = feast
    rng = random.Random(8)
    written = activity(rng, "u", NOW_MS) | {"item_ids": ["a"], "item_at": [1], "item_types": ["view"]}
    load(store, USER_ACTIVITY, [written | {"event_ids": ["e"]}])
    load(store, USER_PROFILE, [profile(rng, "u", NOW_MS)])
    ends = (settings.profile_ttl_s * 1_000, settings.activity_ttl_s * 1_000)
    now_ms = 0
    reader = FeastOnlineReader(settings, clock=lambda: now_ms)

    async def story(reader) -> list[tuple[int, int]]:
        nonlocal now_ms
        seen = []
        for age_ms in (0, ends[0], ends[0] + 1, ends[1], ends[1] + 1):
            now_ms = NOW_MS + age_ms
            row = (await reader.read("u", None, None, 0))[0]
            assert bool(row.recent_items) == bool(row.activity_at)
            seen.append((row.activity_at, row.profile_at))
        return seen

    both, neither = (NOW_MS, NOW_MS), (0, 0)
    assert run(reader, story) == [both, both, (NOW_MS, 0), (NOW_MS, 0), neither]


# ---- when Redis hangs, dies, comes back
# ----------------------------------------------------------------------------


async def until_it_answers(reader: OnlineReader) -> int:
    failures = 0
    while True:
        try:
            await reader.read("u", UNIT, FIRST, 60)
        except UnavailableError:
            failures += 1
            await asyncio.sleep(0.02)
        else:
            return failures


@pytest.mark.parametrize("trouble", ["freeze", "kill"])
def test_a_failing_redis_is_unavailable_and_recovers_by_itself(trouble, redis_server, settings_for) -> None:
    reader = FeastOnlineReader(settings_for(redis=redis_server, redis_deadline_ms=40))

    async def story(reader) -> int:
        await until_it_answers(reader)
        getattr(redis_server.server, trouble)()
        asked = (reader.read("u", UNIT, FIRST, 60) for _ in range(20))
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(answer, UnavailableError) for answer in answers)
        await asyncio.to_thread(redis_server.server.thaw if trouble == "freeze" else redis_server.restart)
        return await until_it_answers(reader)

    assert run(reader, story) < 500


def test_the_deadline_is_the_readers_own(redis_server, settings_for) -> None:
    """A hung Redis costs its deadline: of two readers the one with less patience gives up first."""
    patient = FeastOnlineReader(settings_for(redis=redis_server, redis_deadline_ms=3_000))
    hasty = FeastOnlineReader(settings_for(redis=redis_server, redis_deadline_ms=30))
    order = []

    async def ask(name: str, reader: FeastOnlineReader) -> None:
        with pytest.raises(UnavailableError, match="no answer within"):
            await reader.read("u", None, None, 0)
        order.append(name)

    async def story(_reader) -> None:
        await asyncio.gather(until_it_answers(patient), until_it_answers(hasty))
        redis_server.server.freeze()
        waiting = asyncio.ensure_future(ask("patient", patient))
        for _ in range(10):
            await ask("hasty", hasty)
        order.append("thaw")
        redis_server.server.thaw()
        waiting.cancel()
        hasty.close()

    run(patient, story)
    assert order == ["hasty"] * 10 + ["thaw"]


def test_an_error_of_redis_is_unavailable_not_a_wrong_row(redis_server, settings_for) -> None:
    import redis

    settings = settings_for(redis=redis_server, redis_deadline_ms=2_000)
    RedisPinStore(settings).mark_complete(["shop"], 0)
    reader = FeastOnlineReader(settings)
    with redis.Redis.from_url(redis_server.url) as client:
        client.lpush(f"pin:{UNIT}", "not a pin")

    async def story(reader) -> None:
        with pytest.raises(UnavailableError, match="WRONGTYPE"):
            await reader.read("u", UNIT, FIRST, 60)
        assert (await reader.read("u", "shop|s:u:2", FIRST, 60))[
            1
        ] == FIRST  # and the connection is still in step

    run(reader, story)


def test_only_a_changed_row_is_decoded_again(feast) -> None:
    settings, store = feast
    rng = random.Random(9)
    reader = FeastOnlineReader(settings, clock=lambda: NOW_MS + 10)

    async def read(reader) -> UserRow:
        return (await reader.read("u", None, None, 0))[0]

    async def story(reader) -> list[UserRow]:
        rows = []
        for at_ms in (NOW_MS, NOW_MS, NOW_MS + 1):
            load(store, USER_ACTIVITY, [activity(random.Random(at_ms), "u", at_ms)])
            rows.append(await read(reader))
        load(store, USER_PROFILE, [profile(rng, "u", NOW_MS)])
        return [*rows, await read(reader)]

    first, same, newer, with_profile = run(reader, story)
    assert same is first
    assert newer.activity_at == NOW_MS + 1
    assert (with_profile.activity_at, with_profile.profile_at) == (NOW_MS + 1, NOW_MS)
