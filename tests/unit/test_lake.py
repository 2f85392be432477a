"""The lake worker: every record in exactly one file, whatever is killed when."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from experiments.experiment import Decision
from services import events
from services.adapters import memory
from services.adapters.feast_store import FeastFeatureStore
from services.adapters.lake_files import LakeFiles
from services.errors import StalePositionError, UnavailableError
from services.events import ActivityRow, Attribution, Event, Exposure
from services.lake.tables import KINDS, table
from services.lake.worker import Deps, LakeWorker
from services.ports import Record
from services.settings import Settings

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS


def click(index: int, **fields: Any) -> Event:
    values = {
        "event_id": f"e{index}",
        "type": "click",
        "item_id": f"i{index % 7}",
        "user_id": f"u{index % 3}",
    }
    return Event(received_at=START_MS + index, **(values | fields))


def exposure(index: int) -> Exposure:
    return Exposure(
        received_at=START_MS + index, recommendation_id=f"r{index}", experiment="x", routing_key="u",
        unit="s:u:-", unit_at=START_MS, first=index == 0, arm="a", answered_by="b", model_version="m",
        weights_version=3, propensity=0.25, placement="home", items=["i1", "i2"], user_id="u",
        features_at=START_MS - 5,
    )  # fmt: skip


def activity_row(index: int) -> ActivityRow:
    return ActivityRow(
        received_at=START_MS + index, user_id=f"u{index % 3}", item_ids=["i1"], item_at=[START_MS],
        item_types=["click"], event_ids=[f"e{index}"],
    )  # fmt: skip


@dataclass
class World:
    home: Path
    now_ms: int = START_MS
    fail_writes: bool = False

    def __post_init__(self) -> None:
        self.broker = memory.MemoryBroker(partitions=2, clock=lambda: self.now_ms)
        self.settings = Settings(home=self.home)
        self.features = FeastFeatureStore(self.settings)

    def worker(self, flush_ms: int = 1_000, most: int = 10_000) -> LakeWorker:
        consumer = memory.MemoryEventConsumer(self.broker)
        pairs = {
            (topic, index)
            for topic in KINDS
            for index in range(2 if topic in ("events", "exposures", "activity-rows") else 1)
        }
        deps = Deps(
            consumer=consumer,
            producer=memory.MemoryEventProducer(self.broker),
            admin=memory.MemoryLogAdmin(self.broker),
            files=LakeFiles(self.settings.lake_path),
            features=self.features,
            owned=lambda: frozenset(pairs),
        )
        return LakeWorker(deps, lambda: self.now_ms, flush_ms=flush_ms, most=most)

    def send(self, topic: str, message: Any, key: str = "k") -> None:
        raw = message if isinstance(message, bytes) else events.encode(message)
        memory.MemoryEventProducer(self.broker).send(topic, key, raw).result(0)

    def files(self, topic: str) -> list[Path]:
        return sorted((self.settings.lake_path / topic).glob("**/*.parquet"))

    def rows(self, topic: str) -> list[dict[str, Any]]:
        tables = [pq.read_table(path, partitioning=None).to_pylist() for path in self.files(topic)]
        return sorted(
            (row for rows in tables for row in rows), key=lambda row: (row["partition"], row["offset"])
        )


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_records_wait_for_their_time_and_then_lie_in_one_file_a_partition(world) -> None:
    worker = world.worker(flush_ms=1_000)
    for index in range(5):
        world.send("events", click(index))
    worker.step(0)
    assert world.files("events") == []
    world.now_ms += 1_000
    worker.step(0)
    assert len(world.files("events")) == 1
    assert [row["event_id"] for row in world.rows("events")] == [f"e{index}" for index in range(5)]


def test_many_records_do_not_wait(world) -> None:
    worker = world.worker(most=3)
    for index in range(3):
        world.send("events", click(index))
    worker.step(0)
    assert len(world.rows("events")) == 3


def test_leaving_tidily_writes_what_waits(world) -> None:
    worker = world.worker()
    world.send("events", click(1))
    worker.step(0)
    worker.close()
    assert len(world.rows("events")) == 1


def test_a_worker_that_hung_while_another_one_took_over_doubles_nothing(world) -> None:
    hung, other = world.worker(), world.worker()
    for index in range(3):
        world.send("events", click(index))
        world.send("activity-rows", activity_row(index))
    hung.step(0)  # has them in memory; no file is due
    for index in range(3, 5):
        world.send("events", click(index))
    other.step(0)
    world.now_ms += 1_000
    other.step(0)
    hung.step(0)  # awake: its records are due, but no longer its own
    hung.close()
    assert [row["event_id"] for row in world.rows("events")] == [f"e{index}" for index in range(5)]
    assert [row["received_at"] - START_MS for row in world.rows("activity-rows")] == [0, 1, 2]
    world.send("events", click(5))
    for worker in (hung, other, hung, other):  # both believe that all is theirs: they take it in turns
        worker.step(0)
        world.now_ms += 1_000
        worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == [f"e{index}" for index in range(6)]


def test_who_writes_a_partition_can_not_be_displaced_within_the_write(tmp_path: Path) -> None:
    first, second = LakeFiles(tmp_path), LakeFiles(tmp_path)
    first.take("events", 0, "log")
    with first.holding("events", 0), pytest.raises(UnavailableError, match="another worker is writing"):
        second.take("events", 0, "log")
    second.take("events", 0, "log")
    with pytest.raises(StalePositionError), first.holding("events", 0):
        pass


def test_a_file_lies_in_the_hour_in_which_the_broker_got_its_records(world) -> None:
    worker = world.worker()
    for index in range(4):
        world.now_ms = START_MS + index * HOUR_MS // 2
        world.send("events", click(index))
    world.now_ms += 1_000
    worker.step(0)
    worker.close()
    folders = [path.parent.name for path in world.files("events")]
    assert folders == ["hour=22", "hour=23"]
    assert all(path.parent.parent.name == "date=2023-11-14" for path in world.files("events"))
    assert [row["offset"] for row in world.rows("events")] == [0, 1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_kills_at_any_moment_lose_and_double_nothing(seed, world, monkeypatch) -> None:
    """Workers die between any two steps, or in the middle of a write; what was sent is there once."""
    rng = random.Random(seed)
    write, sent = pq.write_table, 0
    worker = world.worker(flush_ms=rng.choice([0, 300, 2_000]), most=rng.choice([2, 50]))

    def dies_sometimes(rows: Any, where: Any, **options: Any) -> None:
        write(rows, where, **options)
        if rng.random() < 0.2:
            raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", dies_sometimes)
    for _ in range(40):
        for _ in range(rng.randrange(4)):
            world.send("events", click(sent), key=f"k{rng.randrange(5)}")
            world.send("activity-rows", activity_row(sent), key=f"k{rng.randrange(5)}")
            sent += 1
        world.now_ms += rng.randrange(HOUR_MS // 4)
        try:
            worker.step(0)
        except KeyboardInterrupt:
            worker = world.worker(flush_ms=300)
        if rng.random() < 0.1:
            worker = world.worker(flush_ms=300)
    monkeypatch.setattr(pq, "write_table", write)
    last = world.worker(flush_ms=0)
    while last.step(0):
        pass
    assert sorted(row["event_id"] for row in world.rows("events")) == sorted(
        f"e{index}" for index in range(sent)
    )
    history = world.features.history("user_activity")
    assert sorted(sum(history["event_ids"].to_pylist(), [])) == sorted(f"e{index}" for index in range(sent))


def test_a_full_disk_is_no_loss(world, monkeypatch) -> None:
    worker = world.worker(flush_ms=0)
    world.send("events", click(1))

    def full(*_args: Any, **_options: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="no space"):
            worker.step(0)
    world.send("events", click(2))
    worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == ["e1", "e2"]


def test_another_log_is_not_mistaken_for_the_old_one(world) -> None:
    world.send("events", click(1))
    world.worker(flush_ms=0).step(0)
    world.broker.lose_everything("memory-2")
    world.send("events", click(2))
    world.worker(flush_ms=0).step(0)
    assert sorted(row["event_id"] for row in world.rows("events")) == ["e1", "e2"]


def test_records_that_the_log_dropped_first_are_told_and_the_rest_is_kept(world, caplog) -> None:
    worker = world.worker(flush_ms=0)
    worker.step(0)
    for index in range(5):
        world.send("events", click(index))
    partition = next(index for index in range(2) if world.broker.bounds(("events", index))[1])
    world.broker.truncate("events", partition, 3)
    while not world.rows("events"):
        worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == ["e3", "e4"]
    assert "gone before they reached the lake" in caplog.text


def test_a_full_disk_after_a_gap_neither_loses_nor_doubles_what_waits(world, monkeypatch) -> None:
    worker = world.worker(flush_ms=10**9)
    for index in range(2):  # two hours, so two files
        world.send("events", click(index))
        worker.step(0)
        world.now_ms += 3_600_000
    world.send("events", click(2))
    world.send("events", click(3))
    partition = next(index for index in range(2) if world.broker.bounds(("events", index))[1])
    world.broker.truncate("events", partition, 3)
    write, files = pq.write_table, iter([pq.write_table])

    def full(*args: Any, **options: Any) -> None:
        if (writes := next(files, None)) is None:
            raise OSError("no space left on device")
        writes(*args, **options)

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="no space"):
        worker.step(0)
    monkeypatch.setattr(pq, "write_table", write)
    worker.step(0)
    worker.step(0)
    worker.close()
    assert [row["event_id"] for row in world.rows("events")] == ["e0", "e1", "e3"]


def test_what_another_worker_buries_is_left_out_and_what_nobody_else_reads_is_buried_here(world) -> None:
    world.send("events", b"{")
    world.send("events", click(1))
    world.send("decisions", b"[]")
    worker = world.worker(flush_ms=0)
    while worker.step(0):
        pass
    assert [row["event_id"] for row in world.rows("events")] == ["e1"]
    letters = world.rows("dead-letters")
    assert [letter["value"] for letter in letters] == [b"[]"]
    assert '"reader":"lake"' in letters[0]["headers"]
    assert world.worker(flush_ms=0).step(0) == 0  # passed for good


def test_columns_say_what_the_messages_said(world) -> None:
    shown = Attribution(
        recommendation_id="r", experiment="x", routing_key="u", unit="s:u:-", unit_at=START_MS,
        exposed_at=START_MS, arm="a", weights_version=3, propensity=0.25, position=1,
    )  # fmt: skip
    world.send("events", click(1, value=2.5, attribution=shown))
    world.send("events", click(2))
    world.send("exposures", exposure(0))
    decision = Decision(
        experiment="x", revision=1, kind="start", received_at=START_MS, author="key", rule="command",
        reason="go", weights_version=1, weights={"a": 1.0}, detail={"salt": "s"},
    )  # fmt: skip
    world.send("decisions", decision)
    world.worker(flush_ms=0).step(0)
    attributed, plain = world.rows("events")
    assert (attributed["arm"], attributed["position"], attributed["value"]) == ("a", 1, 2.5)
    assert (plain["arm"], plain["value"], plain["type"]) == (None, None, "click")
    assert world.rows("exposures")[0]["items"] == ["i1", "i2"]
    assert world.rows("exposures")[0]["features_at"] == START_MS - 5
    assert world.rows("decisions")[0]["weights"] == '{"a":1.0}'
    found = duckdb.sql(
        f"SELECT arm, count(*) FROM '{world.settings.lake_path}/events/*/*/*.parquet' GROUP BY arm"
    )
    assert sorted(found.fetchall(), key=str) == [("a", 1), (None, 1)]


def test_pushed_rows_become_feasts_history(world) -> None:
    row = activity_row(4)
    world.send("activity-rows", row)
    world.send("activity-rows", row)
    world.worker(flush_ms=0).step(0)
    history = world.features.history("user_activity").to_pylist()
    assert len(history) == 1
    assert history[0]["user_id"] == row.user_id
    assert history[0]["event_timestamp"].timestamp() * 1_000 == row.received_at


@pytest.mark.parametrize("topic", list(KINDS))
def test_every_schema_takes_no_rows(topic) -> None:
    rows, bad = table(topic, [])
    assert (rows.num_rows, bad) == (0, [])


def test_bad_records_are_named_with_their_reason() -> None:
    record = Record("events", 1, 7, START_MS, None, b'{"received_at": "noon"}')
    rows, bad = table("events", [record])
    assert rows.num_rows == 0
    assert bad[0][0] == record
    assert "received_at" in str(bad[0][1])


def test_a_number_that_no_column_holds_makes_one_bad_record_not_a_stopped_worker(world) -> None:
    world.send("items", b'{"received_at": 1, "item_id": "a", "stock": 99999999999999999999}')
    world.send("items", b'{"received_at": 1, "item_id": "b", "stock": 3}')
    worker = world.worker(flush_ms=0)
    while worker.step(0):
        pass
    assert [(row["item_id"], row["stock"]) for row in world.rows("items")] == [("b", 3)]
    assert len(world.rows("dead-letters")) == 1
    assert sum(worker.bad.values()) == 1
