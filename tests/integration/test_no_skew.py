"""No skew between serving and training: vectors as served, at random moments, while users click and views are
materialised, equal what point-in-time retrieval says afterwards; time to live included (infra/adr/0004)."""

import asyncio
import csv
import random
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from support.breakable import BreakableBroker

from services.activity.worker import ActivityWorker
from services.activity.worker import Deps as ActivityDeps
from services.adapters.feast.online_reader import FeastOnlineReader
from services.adapters.feast.redis_layout import PROFILE_FEATURES
from services.adapters.files.lake_files import LakeFiles
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.data_import.app import ImportRequest, import_data
from services.features.app import Materialized, materialize
from services.lake.worker import Deps as LakeDeps
from services.lake.worker import LakeWorker
from services.messages import events
from services.messages.events import EVENTS, Event
from services.ports.features import UserRow
from services.settings import Settings

USERS = [f"u{index}" for index in range(60)]
ITEMS = [f"i{index}" for index in range(40)]
RECENT = ("item_ids", "item_at", "item_types")
SERVED_S = 13.0
VECTORS = 1_500
PARTITIONS = 4


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Served:
    """What one read answered, and the moment before it."""

    user: str
    at_ms: int
    row: UserRow


@dataclass
class Traffic:
    """Clicks, the activity worker and materialisation, each on a thread, until `stop`."""

    settings: Settings
    worker: ActivityWorker
    broker: BreakableBroker
    stop: threading.Event = field(default_factory=threading.Event)
    runs: list[Materialized] = field(default_factory=list)
    trouble: list[BaseException] = field(default_factory=list)
    clicks: int = 0

    def click(self) -> None:
        rng = random.Random(1)
        while not self.stop.wait(rng.expovariate(60)):
            # Half of the users fall silent early, so that their rows pass their time to live while served.
            quiet = self.clicks > 150
            event = Event(
                received_at=now_ms(),
                event_id=f"e{self.clicks}",
                type=rng.choice(["view", "click", "purchase"]),
                item_id=rng.choice(ITEMS),
                user_id=rng.choice(USERS[: 20 if quiet else 40]),
            )
            MemoryEventProducer(self.broker).send(EVENTS, event.key, events.encode(event)).result(1)
            self.clicks += 1

    def work(self) -> None:
        while not self.stop.is_set():
            self.worker.step(0.05)

    def materialize(self) -> None:
        while not self.stop.wait(1.0):
            self.runs.append(materialize(self.settings, datetime.now(UTC)))

    def guarded(self, task: Any) -> None:
        try:
            task()
        except BaseException as error:  # noqa: BLE001  (a thread's failure must fail the test)
            self.trouble.append(error)

    def start(self) -> list[threading.Thread]:
        tasks = (self.click, self.work, self.materialize)
        threads = [threading.Thread(target=self.guarded, args=(task,)) for task in tasks]
        for thread in threads:
            thread.start()
        return threads


@dataclass
class ServedVectors:
    """What was served while what happened."""

    served: list[Served]
    traffic: Traffic
    features: Any

    @property
    def late(self) -> dict[str, int]:
        """Runs that ended after their rows' timestamps."""
        runs = sum(run.late_s > 0 for run in self.traffic.runs)
        return {"pushes": self.traffic.worker.counts.late, "materialisations": runs}

    def facts(self) -> dict[str, Any]:
        """What the proof covered."""
        fresh = [one for one in self.served if one.row.activity_at]
        too_old = {one.user for one in self.served[-300:] if not one.row.activity_at}
        return {
            "vectors": len(self.served),
            "with activity": len(fresh),
            "with profile": sum(bool(one.row.profile_at) for one in self.served),
            "distinct activity rows": len({(one.user, one.row.activity_at) for one in fresh}),
            "distinct profile rows": len({(one.user, one.row.profile_at) for one in self.served}),
            "users served, then too old": len({one.user for one in fresh} & too_old),
            "clicks": self.traffic.clicks,
            "materialisations": len(self.traffic.runs),
            "late": self.late,
        }


@pytest.fixture
def settings(redis_server, settings_for) -> Settings:
    return settings_for(
        redis=redis_server,
        redis_deadline_ms=10_000,
        activity_ttl_s=7,
        activity_horizon_ms=2_000,
        profile_ttl_s=6,
        materialize_horizon_ms=4_000,
    )


def import_shop(settings: Settings) -> None:
    """A small shop whose users bought something a moment ago: their seeds are served, then grow too old."""
    folder = settings.home / "own"
    folder.mkdir(parents=True)
    with (folder / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("item_id", "title", "price"), *((item, item, 2.5) for item in ITEMS)])
    bought = [(user, ITEMS[index % 7], now_ms() / 1_000) for index, user in enumerate(USERS[:50])]
    with (folder / "interactions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user_id", "item_id", "at"), *bought])
    import_data(settings, ImportRequest(str(folder)), datetime.now(UTC))


def activity_worker(settings: Settings, broker: BreakableBroker) -> ActivityWorker:
    from services.adapters.feast.activity_store import FeastActivityStore

    pairs = frozenset((EVENTS, index) for index in range(PARTITIONS))
    consumer, producer = MemoryEventConsumer(broker), MemoryEventProducer(broker)
    deps = ActivityDeps(
        consumer, producer, MemoryLogAdmin(broker), FeastActivityStore(settings), lambda: pairs
    )
    return ActivityWorker(deps, now_ms, most=settings.recent_items, horizon_ms=settings.activity_horizon_ms)


def drain_into_lake(settings: Settings, broker: BreakableBroker, features: Any) -> None:
    pairs = frozenset((events.ACTIVITY, index) for index in range(PARTITIONS))
    consumer, producer = MemoryEventConsumer(broker), MemoryEventProducer(broker)
    files = LakeFiles(settings.lake_path)
    deps = LakeDeps(consumer, producer, MemoryLogAdmin(broker), files, features, lambda: pairs)
    worker = LakeWorker(deps, now_ms, flush_ms=0, max_records=1)
    while worker.step(0):
        pass


async def serve(settings: Settings, rng: random.Random) -> list[Served]:
    """Vectors as /recommend reads them, of random users at random moments."""
    asked_at = 0

    def clock() -> int:
        nonlocal asked_at
        asked_at = now_ms()
        return asked_at

    reader = FeastOnlineReader(settings, clock)
    served, end = [], time.monotonic() + SERVED_S
    while time.monotonic() < end or len(served) < VECTORS:
        user = rng.choice(USERS)
        row = (await reader.read(user, None, None, 0))[0]
        served.append(Served(user, asked_at, row))
        await asyncio.sleep(rng.expovariate(VECTORS / SERVED_S) / 2)
    reader.close()
    return served


def known(
    features: Any, view: str, names: tuple[str, ...], served: list[Served], at_ms: list[int]
) -> list[tuple]:
    """What point-in-time retrieval knows, as tuples of comparable values; None: no row."""
    rows = features.rows_as_of(view, names, [one.user for one in served], at_ms)
    return [
        None if absent(row) else tuple(map(comparable, row))
        for row in rows[list(names)].itertuples(index=False)
    ]


def absent(row: Any) -> bool:
    return all(not hasattr(value, "__len__") and pd.isna(value) for value in row)


def comparable(value: Any) -> Any:
    if hasattr(value, "__len__") and not isinstance(value, str):
        return tuple(value)
    return None if pd.isna(value) else value


def activity_of(row: UserRow) -> tuple | None:
    return (row.recent_items, row.recent_at, row.recent_types) if row.activity_at else None


def profile_of(row: UserRow) -> tuple | None:
    return tuple(row.profile.get(name) for name in PROFILE_FEATURES) if row.profile_at else None


@pytest.fixture
def story(settings) -> ServedVectors:
    """Serve, click, materialise, all at once; then let the lake write the history."""
    from services.adapters.feast.feature_store import FeastFeatureStore

    broker = BreakableBroker(partitions=PARTITIONS, clock=now_ms)
    features = FeastFeatureStore(settings)
    features.apply()
    worker = activity_worker(settings, broker)
    import_shop(settings)
    traffic = Traffic(settings, worker, broker, runs=[materialize(settings, datetime.now(UTC))])
    threads = traffic.start()
    try:
        served = asyncio.run(serve(settings, random.Random(2)))
    finally:
        traffic.stop.set()
        for thread in threads:
            thread.join()
    assert not traffic.trouble
    while worker.step(0):
        pass
    drain_into_lake(settings, broker, features)
    return ServedVectors(served, traffic, features)


@pytest.mark.slow
def test_served_vectors_equal_point_in_time_retrieval(story, record_property) -> None:
    served, features, late = story.served, story.features, story.late
    for view, names, vector, stamp, on_time in (
        ("user_activity", RECENT, activity_of, lambda row: row.activity_at, not late["pushes"]),
        (
            "user_profile",
            PROFILE_FEATURES,
            profile_of,
            lambda row: row.profile_at,
            not late["materialisations"],
        ),
    ):
        as_served = [vector(one.row) for one in served]
        by_version = [stamp(one.row) for one in served]
        assert known(features, view, names, served, by_version) == as_served
        if on_time:  # a row read before its time is marked, and exact by version alone
            by_time = [max(one.at_ms, stamp(one.row)) for one in served]
            assert known(features, view, names, served, by_time) == as_served
    facts = story.facts()
    record_property("facts", facts)
    print(facts)
    assert facts["vectors"] >= 1_000
    assert 100 < facts["with activity"] < facts["vectors"] - 100  # both kinds, or nothing is proved
    assert facts["with profile"] > 100
    assert facts["distinct activity rows"] > 200
    assert facts["distinct profile rows"] > 100
    assert facts["users served, then too old"] >= 5
    assert facts["materialisations"] >= 2
