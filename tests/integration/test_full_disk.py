"""A disk that fills up under the lake, for real: nothing torn, nothing lost, nothing twice, and it goes
on."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from support.breakable import BreakableBroker

from services.adapters.feast.offline_files import OfflineFolder
from services.adapters.files.lake_files import LakeFiles
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.lake.worker import Deps, LakeWorker
from services.messages import events
from services.messages.events import ActivityRow, Event

SIZE = "1m"
PAIRS = frozenset({("events", 0), ("events", 1), ("activity-rows", 0), ("activity-rows", 1)})
START_MS = 1_700_000_000_000


@pytest.fixture
def small_disk(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[Path]:
    """A file system of its own that holds `SIZE` (where mounting is allowed)."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk can't be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class LakeOnSmallDisk:
    def __init__(self, disk: Path):
        self.now_ms = START_MS
        self.disk = disk
        self.broker = BreakableBroker(2, lambda: self.now_ms)
        self.producer = MemoryEventProducer(self.broker)
        self.history = OfflineFolder(disk / "offline")
        self.history.prepare()
        self.sent = 0

    def worker(self) -> LakeWorker:
        deps = Deps(
            consumer=MemoryEventConsumer(self.broker),
            producer=self.producer,
            admin=MemoryLogAdmin(self.broker),
            files=LakeFiles(self.disk / "lake"),
            features=self.history,  # type: ignore[arg-type]
            owned=lambda: PAIRS,
        )
        return LakeWorker(deps, lambda: self.now_ms, flush_ms=0, max_records=10_000)

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += 1
            at_ms, name = self.now_ms + self.sent, f"{self.sent:08d}-{self.sent * 7919 % 10**9:09d}"
            event = Event(
                received_at=at_ms, event_id=name, type="click", item_id=name, user_id=f"u{self.sent % 7}"
            )
            row = ActivityRow(
                received_at=at_ms, user_id=name, item_ids=[name] * 3, item_at=[at_ms] * 3,
                item_types=["click"] * 3, event_ids=[name] * 3,
            )  # fmt: skip
            self.producer.send(events.EVENTS, name, events.encode(event))
            self.producer.send(events.ACTIVITY, name, events.encode(row))

    def visible(self) -> list[Path]:
        return sorted((self.disk / "lake").rglob("*.parquet")) + sorted(
            (self.disk / "offline").rglob("*.parquet")
        )

    def rows(self, topic: str) -> list[Any]:
        query = f"select partition, \"offset\" from '{self.disk}/lake/{topic}/*/*/*.parquet' order by all"
        return duckdb.sql(query).fetchall()


def attempt(worker: LakeWorker) -> bool:
    """One step; whether the disk had room."""
    try:
        worker.step(0)
    except OSError:
        return False
    return True


def test_a_full_disk_loses_and_doubles_nothing(small_disk: Path) -> None:
    world = LakeOnSmallDisk(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(400_000))
    worker, refused, kept = world.worker(), 0, set[Path]()
    for turn in range(60):
        world.send(60)
        world.now_ms += 60_000
        refused += not attempt(worker)
        for path in world.visible():
            pq.read_table(path, partitioning=None)  # what can be seen can be read, at any time
        assert kept <= set(world.visible())
        kept = {path for path in world.visible() if "lake" in path.parts}
        assert not [path for path in small_disk.rglob(".*") if path.is_file() and path.stat().st_size > 100]
        if turn % 20 == 19:
            worker = world.worker()  # also a restart meets the full disk
        if refused > 6:
            break
    assert refused > 6
    ballast.unlink()
    while attempt(worker) and len(world.rows("events")) < world.sent:
        pass
    expected = {
        topic: sorted((record.partition, record.offset) for record in world.broker.records(topic))
        for topic in ("events", "activity-rows")
    }
    assert {topic: world.rows(topic) for topic in expected} == expected
    users = world.history.read("user_activity", ["user_id"])["user_id"].to_pylist()
    assert len(users) == len(set(users)) == world.sent
