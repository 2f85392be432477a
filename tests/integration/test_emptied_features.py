"""Redis forgets everything while shoppers click: afterwards every row is what it would have been."""

import random
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
import redis
from support.breakable import BreakableActivityStore, BreakableBroker

from services.activity.worker import ActivityWorker, Deps
from services.adapters.feast.schemas import SCHEMAS
from services.adapters.files.lake_files import LakeFiles
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.errors import UnavailableError
from services.lake.worker import Deps as LakeDeps
from services.lake.worker import LakeWorker
from services.messages import events
from services.messages.events import ACTIVITY, EVENTS, Event

NOW_MS = int(datetime.now(UTC).timestamp() * 1_000)
USERS = [f"u{index}" for index in range(12)]


class ActivityOnRedis:
    """Events in a log, an activity worker on real Redis and Feast, a lake that keeps its rows, and an
    undisturbed twin of the worker in memory."""

    def __init__(self, settings: Any):
        from services.adapters.feast.activity_store import FeastActivityStore
        from services.adapters.feast.feature_store import FeastFeatureStore

        self.now_ms, self.settings, self.sent = NOW_MS, settings, 0
        self.broker = BreakableBroker(partitions=4, clock=self.clock)
        self.features = FeastFeatureStore(settings)
        self.features.apply()
        self.store, self.twin = FeastActivityStore(settings), BreakableActivityStore()
        self.worker = self.make(self.store, self.features)
        self.undisturbed = self.make(self.twin, None)
        self.lake = self.make_lake()
        self.producer = MemoryEventProducer(self.broker)

    def clock(self) -> int:
        self.now_ms += 1
        return self.now_ms

    def make(self, store: Any, features: Any) -> ActivityWorker:
        pairs = frozenset((EVENTS, index) for index in range(4))
        broker = self.broker
        producer = MemoryEventProducer(broker if features else BreakableBroker(4))
        deps = Deps(
            MemoryEventConsumer(broker), producer, MemoryLogAdmin(broker), store, lambda: pairs, features
        )
        return ActivityWorker(deps, self.clock, most=5, horizon_ms=50)

    def make_lake(self) -> LakeWorker:
        pairs = frozenset((ACTIVITY, index) for index in range(4))
        broker, files = self.broker, LakeFiles(self.settings.lake_path)
        consumer, admin = MemoryEventConsumer(broker), MemoryLogAdmin(broker)
        deps = LakeDeps(
            consumer, MemoryEventProducer(broker), admin, files, self.features, owned=lambda: pairs
        )
        return LakeWorker(deps, self.clock, flush_ms=0, max_records=10)

    def click(self, rng: random.Random, times: int) -> None:
        for _ in range(times):
            self.sent += 1
            user = rng.choice(USERS)
            event = Event(
                received_at=self.clock(), event_id=f"e{self.sent}", type="click",
                item_id=f"i{rng.randrange(30)}", user_id=user,
            )  # fmt: skip
            self.producer.send(EVENTS, user, events.encode(event))

    def drain(self) -> None:
        for worker in (self.worker, self.undisturbed):
            for _ in range(50):
                try:
                    if not worker.step(0) and worker.counts.events >= self.sent:
                        break
                except UnavailableError:
                    continue

    def keep(self) -> None:
        while self.lake.step(0):
            pass
        self.lake.step(0)

    def rows(self, store: Any) -> dict[str, Any]:
        rows = store.load(USERS)
        return {
            user: (row.item_ids, row.item_at, row.item_types, row.event_ids) for user, row in rows.items()
        }


@pytest.fixture
def site(redis_server, settings_for) -> ActivityOnRedis:
    return ActivityOnRedis(settings_for(redis=redis_server))


def profile(user: str, spent: float) -> dict[str, Any]:
    schema = SCHEMAS["user_profile"]
    numbers = {name: 0.0 for name in schema.names if name not in ("user_id", "event_timestamp")}
    at = datetime.fromtimestamp(NOW_MS / 1_000, UTC)
    return {"user_id": user, **numbers, "spend_30d": spent, "event_timestamp": at}


def test_rows_are_what_they_would_have_been(site, redis_server):
    """Emptied under clicks and killed with what it had; early events are only in the histories on disk."""
    rng = random.Random(5)
    site.click(rng, 40)
    site.drain()
    site.keep()
    for index in range(4):
        site.broker.truncate(EVENTS, index, before=site.broker.bounds((EVENTS, index))[1])
    with redis.Redis.from_url(redis_server.url) as raw:
        for _ in range(6):
            site.click(rng, 3)
            site.worker.step(0)
            raw.flushall()
            site.click(rng, 2)
            site.worker.step(0)
        redis_server.server.kill()
        site.click(rng, 1)
        with pytest.raises(UnavailableError):
            site.worker.step(0)
        redis_server.restart()
        raw.flushall()
    site.drain()
    assert site.rows(site.store) == site.rows(site.twin)
    assert len(site.rows(site.store)) == len(USERS)


def test_a_wipe_is_noticed_without_traffic_and_reported_once(site, redis_server):
    rng = random.Random(7)
    view = pa.Table.from_pylist([profile("u1", 9.0), profile("u2", 3.0)], SCHEMAS["user_profile"])
    site.features.append("user_profile", view, "batch-1")
    site.click(rng, 40)
    site.drain()
    site.keep()
    records = len(site.broker.records(ACTIVITY))
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
        site.now_ms += 2_000
        for _ in range(5):
            site.worker.step(0)
        assert site.rows(site.store) == site.rows(site.twin)
        assert raw.hget(entity("u1"), "_ts:user_profile")
    assert len(site.broker.records(ACTIVITY)) == records  # history has them all


def entity(user: str) -> bytes:
    from services.adapters.feast.redis_layout import entity_key

    return entity_key("user_id", user)


def test_a_restart_finds_an_emptied_redis(site, redis_server):
    rng = random.Random(6)
    site.click(rng, 40)
    site.drain()
    site.keep()
    with redis.Redis.from_url(redis_server.url) as raw:
        raw.flushall()
    heard = []
    site.worker = site.make(site.store, site.features)
    site.worker._progress = lambda done, total, what: heard.append((done, total, what))
    site.worker.step(0)
    assert site.rows(site.store) == site.rows(site.twin)
    users = len(site.rows(site.twin))
    assert heard[0] == (users, users, "recent activity of users")
    assert site.worker.restored.activity == users
