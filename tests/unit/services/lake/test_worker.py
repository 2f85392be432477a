"""The lake worker: every record is in exactly one file, after kills at any instant."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from support.breakable import BreakableBroker
from support.decisions import raw_json

from experiments.lifecycle.decisions import Decision
from services.adapters.feast.feature_store import FeastFeatureStore
from services.adapters.files import lake_files
from services.adapters.files.lake_files import LakeFiles
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.errors import StalePositionError, UnavailableError
from services.lake.tables import TABLES, table
from services.lake.worker import Deps, LakeWorker
from services.messages import events
from services.messages.events import ActivityRow, Attribution, Event, Exposure
from services.ports.event_log import Record
from services.ports.lake import Span
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
class LakeInMemory:
    home: Path
    now_ms: int = START_MS
    fail_writes: bool = False

    def __post_init__(self) -> None:
        self.broker = BreakableBroker(partitions=2, clock=lambda: self.now_ms)
        self.settings = Settings(home=self.home)
        self.features = FeastFeatureStore(self.settings)

    def worker(self, flush_ms: int = 1_000, max_records: int = 10_000) -> LakeWorker:
        consumer = MemoryEventConsumer(self.broker)
        pairs = {
            (topic, index)
            for topic in TABLES
            for index in range(2 if topic in ("events", "exposures", "activity-rows") else 1)
        }
        deps = Deps(
            consumer=consumer,
            producer=MemoryEventProducer(self.broker),
            admin=MemoryLogAdmin(self.broker),
            files=LakeFiles(self.settings.lake_path),
            features=self.features,
            owned=lambda: frozenset(pairs),
        )
        return LakeWorker(deps, lambda: self.now_ms, flush_ms=flush_ms, max_records=max_records)

    def send(self, topic: str, message: Any, key: str = "k") -> None:
        raw = message if isinstance(message, bytes) else events.encode(message)
        MemoryEventProducer(self.broker).send(topic, key, raw).result(0)

    def files(self, topic: str) -> list[Path]:
        return sorted((self.settings.lake_path / topic).glob("**/*.parquet"))

    def rows(self, topic: str) -> list[dict[str, Any]]:
        tables = [pq.read_table(path, partitioning=None).to_pylist() for path in self.files(topic)]
        return sorted(
            (row for rows in tables for row in rows), key=lambda row: (row["partition"], row["offset"])
        )


@pytest.fixture
def world(tmp_path) -> LakeInMemory:
    return LakeInMemory(tmp_path)


def test_records_wait_then_form_one_file_per_partition(world) -> None:
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
    worker = world.worker(max_records=3)
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


def test_a_worker_hanging_through_a_takeover_doubles_nothing(world) -> None:
    hung, other = world.worker(), world.worker()
    for index in range(3):
        world.send("events", click(index))
        world.send("activity-rows", activity_row(index))
    hung.step(0)  # buffers them; no file is due
    for index in range(3, 5):
        world.send("events", click(index))
    other.step(0)
    world.now_ms += 1_000
    other.step(0)
    hung.step(0)  # its records are due, but another worker has the partition
    hung.close()
    assert [row["event_id"] for row in world.rows("events")] == [f"e{index}" for index in range(5)]
    assert [row["received_at"] - START_MS for row in world.rows("activity-rows")] == [0, 1, 2]
    world.send("events", click(5))
    for worker in (hung, other, hung, other):  # both own everything and take it over from each other
        worker.step(0)
        world.now_ms += 1_000
        worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == [f"e{index}" for index in range(6)]


def test_a_partitions_writer_cannot_be_displaced_during_a_write(tmp_path: Path) -> None:
    first, second = LakeFiles(tmp_path), LakeFiles(tmp_path)
    first.acquire("events", [0], "log")
    with first.hold("events", 0), pytest.raises(UnavailableError, match="another worker is writing"):
        second.acquire("events", [0], "log")
    second.acquire("events", [0], "log")
    with pytest.raises(StalePositionError), first.hold("events", 0):
        pass


def test_a_file_lies_in_its_records_broker_hour(world) -> None:
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


def deadly(patched: pytest.MonkeyPatch, rng: random.Random) -> None:
    """Kill the writer of a file now and then, before the file has its name or after."""
    draft, whole = pq.write_table, LakeFiles.write

    def dies_before(rows: Any, where: Any, **options: Any) -> None:
        draft(rows, where, **options)
        if rng.random() < 0.15:
            raise KeyboardInterrupt

    def dies_after(*arguments: Any) -> None:
        whole(*arguments)
        if rng.random() < 0.1:
            raise KeyboardInterrupt

    patched.setattr(pq, "write_table", dies_before)
    patched.setattr(LakeFiles, "write", dies_after)


@pytest.mark.parametrize("seed", range(5))
def test_kills_at_any_moment_lose_and_double_nothing(seed, world, monkeypatch) -> None:
    """Workers are killed between steps and during writes; each record is there once."""
    rng, sent = random.Random(seed), 0
    worker = world.worker(flush_ms=rng.choice([0, 300, 2_000]), max_records=rng.choice([2, 50]))
    with monkeypatch.context() as patched:
        deadly(patched, rng)
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
    last = world.worker(flush_ms=0)
    while last.step(0):
        pass
    expected = sorted(f"e{index}" for index in range(sent))
    assert sorted(row["event_id"] for row in world.rows("events")) == expected
    history = world.features.history("user_activity")
    assert sorted(sum(history["event_ids"].to_pylist(), [])) == expected


def test_a_full_disk_is_no_loss(world, monkeypatch) -> None:
    worker = world.worker(flush_ms=0)
    world.send("events", click(1))

    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        with pytest.raises(OSError, match="no space"):
            worker.step(0)
    world.send("events", click(2))
    worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == ["e1", "e2"]


# ---- start positions
# ----------------------------------------------------------------------------------------------------

LOG = "0123abcd"


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Topics whose folders were listed."""
    topics: list[str] = []
    plain = LakeFiles.files

    def recorded(self: LakeFiles, topic: str) -> Any:
        topics.append(topic)
        return plain(self, topic)

    monkeypatch.setattr(LakeFiles, "files", recorded)
    return topics


def written(files: LakeFiles, first: int, after: int, partition: int = 0, at_ms: int = START_MS) -> None:
    with files.hold("events", partition):
        files.write("events", Span(LOG, partition, first, after), at_ms, table("events", [])[0])


def test_a_retry_reads_no_folder_through(world, monkeypatch, listed) -> None:
    """After any error it keeps its partitions and knows what it wrote."""
    worker = world.worker(flush_ms=0)
    world.send("events", click(1))
    worker.step(0)
    listed.clear()
    world.send("events", click(2))
    with monkeypatch.context() as patched:
        patched.setattr(LakeFiles, "hold", unavailable)
        with pytest.raises(UnavailableError):
            worker.step(0)
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        for _ in range(3):
            with pytest.raises(OSError, match="no space"):
                worker.step(0)
    worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == ["e1", "e2"]
    assert listed == []


def unavailable(*_args: Any) -> None:
    raise UnavailableError("the lake", "another worker is writing")


def full(*_args: Any, **_options: Any) -> None:
    raise OSError("no space left on device")


def test_a_start_reads_each_topic_through_once_at_most(world, listed) -> None:
    for index in range(8):
        world.send("events", click(index), key=f"k{index}")
    world.worker(flush_ms=0).step(0)
    assert len(listed) == len(set(listed)) == len(TABLES)
    listed.clear()
    world.worker(flush_ms=0).step(0)
    assert "events" not in listed  # its start positions are noted
    assert len(listed) == len(set(listed))
    assert len(world.rows("events")) == 8


def test_a_position_is_known_after_an_interrupted_write(tmp_path, monkeypatch, listed) -> None:
    files = LakeFiles(tmp_path)
    assert files.acquire("events", [0], LOG) == {}
    written(files, 0, 5)
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", full)
        for after in (7, 9):
            with pytest.raises(OSError, match="no space"):
                written(files, 5, after)
    listed.clear()
    assert LakeFiles(tmp_path).acquire("events", [0], LOG) == {0: 5}
    assert listed == []


@pytest.mark.parametrize("files_before", range(3))
def test_a_file_that_nobody_lived_to_tell_of_counts(files_before, tmp_path, monkeypatch) -> None:
    files, whole = LakeFiles(tmp_path), lake_files.write_parquet
    files.acquire("events", [0], LOG)
    for first in range(files_before):
        written(files, first, first + 1)

    def killed_after(*arguments: Any) -> None:
        whole(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(lake_files, "write_parquet", killed_after)
        with pytest.raises(KeyboardInterrupt):
            written(files, files_before, files_before + 1)
    assert LakeFiles(tmp_path).acquire("events", [0], LOG) == {0: files_before + 1}


NOTES = [b"", b"\n", b"\n\n", b"\n\xff\x00/\n../../x", b"\n" + b"date=x/" * 900]


@pytest.mark.parametrize("note", NOTES)
def test_files_decide_where_a_partition_continues(note, tmp_path) -> None:
    files = LakeFiles(tmp_path)
    files.acquire("events", [0, 1], LOG)
    written(files, 0, 5)
    written(files, 5, 9)
    written(files, 3, 4, partition=1)
    [newest], [other] = tmp_path.rglob("*-0-5-9.parquet"), tmp_path.rglob("*-1-3-4.parquet")
    writer = tmp_path / ".writers" / "events-0"
    whole = writer.read_bytes()
    writer.write_bytes(whole[:32] + note)
    assert LakeFiles(tmp_path).acquire("events", [0, 1, 2], LOG) == {0: 9, 1: 4}
    writer.write_bytes(whole[:32] + b"\n\n" + str(other.relative_to(tmp_path / "events")).encode())
    assert LakeFiles(tmp_path).acquire("events", [0], LOG) == {0: 9}  # it is of another partition
    writer.write_bytes(whole)
    assert LakeFiles(tmp_path).acquire("events", [0], "ffffffff") == {}
    newest.unlink()  # an operator wants it to be written again
    assert LakeFiles(tmp_path).acquire("events", [0], LOG) == {0: 5}


def test_a_clock_that_went_back_hides_no_file(tmp_path) -> None:
    for noted in (True, False):
        files = LakeFiles(tmp_path)
        first = files.acquire("events", [0], LOG).get(0, 0)
        written(files, first, first + 5, at_ms=START_MS + 48 * HOUR_MS)
        written(files, first + 5, first + 9)
        if not noted:
            (tmp_path / ".writers" / "events-0").unlink()
        assert LakeFiles(tmp_path).acquire("events", [0], LOG) == {0: first + 9}


def test_records_of_a_confirmed_log_are_written_without_broker(world) -> None:
    worker = world.worker(flush_ms=2_000)
    for index in range(2):
        world.send("events", click(index))
        worker.step(0)
        world.now_ms += 700
    worker.step(0)  # the last confirmation was 1.4 s ago
    world.send("events", click(2))
    worker.step(0)  # fetched, not confirmed
    world.broker.down = True
    for _ in range(4):
        worker.step(0)
        world.now_ms += 1_000
    assert [row["event_id"] for row in world.rows("events")] == ["e0", "e1"]
    world.broker.down = False
    for _ in range(4):
        worker.step(0)
        world.now_ms += 1_000
    assert [row["event_id"] for row in world.rows("events")] == ["e0", "e1", "e2"]


@pytest.mark.parametrize("seen", [False, True])
def test_a_longer_new_log_is_kept_beside_the_old(seen, world) -> None:
    """`seen`: confirmed records of the old log wait for their file when the log is gone."""
    worker = world.worker(flush_ms=2_000)
    world.send("events", click(1))
    worker.step(0)
    world.now_ms += 2_000
    worker.step(0)
    if seen:
        world.send("events", click(2))
        worker.step(0)
        world.now_ms += 1_000
        worker.step(0)
    world.broker.lose_everything("memory-2")
    for index in range(3, 9):
        world.send("events", click(index))
    for _ in range(6):
        worker.step(0)
        world.now_ms += 1_000
    worker.close()
    old = ["e1", "e2"] if seen else ["e1"]
    assert sorted(row["event_id"] for row in world.rows("events")) == [*old, *(f"e{n}" for n in range(3, 9))]
    world.worker(flush_ms=0).step(0)  # nothing is missing
    assert len(world.rows("events")) == len(old) + 6


def test_another_log_is_not_mistaken_for_the_old_one(world) -> None:
    world.send("events", click(1))
    world.worker(flush_ms=0).step(0)
    world.broker.lose_everything("memory-2")
    world.send("events", click(2))
    world.worker(flush_ms=0).step(0)
    assert sorted(row["event_id"] for row in world.rows("events")) == ["e1", "e2"]


def test_dropped_records_are_reported_and_the_rest_kept(world, caplog) -> None:
    worker = world.worker(flush_ms=0)
    worker.step(0)
    for index in range(5):
        world.send("events", click(index))
    partition = next(index for index in range(2) if world.broker.bounds(("events", index))[1])
    world.broker.truncate("events", partition, 3)
    while not world.rows("events"):
        worker.step(0)
    assert [row["event_id"] for row in world.rows("events")] == ["e3", "e4"]
    assert "deleted before they reached the lake" in caplog.text


def test_a_full_disk_after_a_gap_loses_nothing(world, monkeypatch) -> None:
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


def test_only_records_no_other_worker_reads_are_dead_lettered(world) -> None:
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
    assert world.worker(flush_ms=0).step(0) == 0  # its position is past all of them


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
        reason="go", weights_version=1, weights={"a": 1.0}, detail_json=raw_json({"salt": "s"}),
    )  # fmt: skip
    world.send("decisions", decision)
    world.worker(flush_ms=0).step(0)
    attributed, plain = world.rows("events")
    assert (attributed["arm"], attributed["position"], attributed["value"]) == ("a", 1, 2.5)
    assert (plain["arm"], plain["value"], plain["type"]) == (None, None, "click")
    assert world.rows("exposures")[0]["items"] == ["i1", "i2"]
    assert world.rows("exposures")[0]["features_at"] == START_MS - 5
    assert world.rows("decisions")[0]["weights"] == '{"a":1.0}'
    by_arm = duckdb.sql(
        f"SELECT arm, count(*) FROM '{world.settings.lake_path}/events/*/*/*.parquet' GROUP BY arm"
    )
    assert sorted(by_arm.fetchall(), key=str) == [("a", 1), (None, 1)]


def test_pushed_rows_become_feasts_history(world) -> None:
    row = activity_row(4)
    world.send("activity-rows", row)
    world.send("activity-rows", row)
    world.worker(flush_ms=0).step(0)
    history = world.features.history("user_activity").to_pylist()
    assert len(history) == 1
    assert history[0]["user_id"] == row.user_id
    assert history[0]["event_timestamp"].timestamp() * 1_000 == row.received_at


@pytest.mark.parametrize("topic", list(TABLES))
def test_every_schema_takes_no_rows(topic) -> None:
    rows, bad = table(topic, [])
    assert (rows.num_rows, bad) == (0, [])


def test_bad_records_are_named_with_their_reason() -> None:
    record = Record("events", 1, 7, START_MS, None, b'{"received_at": "noon"}')
    rows, bad = table("events", [record])
    assert rows.num_rows == 0
    assert bad[0][0] == record
    assert "received_at" in str(bad[0][1])


def test_a_number_out_of_range_is_one_bad_record(world) -> None:
    world.send("items", b'{"received_at": 1, "item_id": "a", "stock": 99999999999999999999}')
    world.send("items", b'{"received_at": 1, "item_id": "b", "stock": 3}')
    worker = world.worker(flush_ms=0)
    while worker.step(0):
        pass
    assert [(row["item_id"], row["stock"]) for row in world.rows("items")] == [("b", 3)]
    assert len(world.rows("dead-letters")) == 1
    assert sum(worker.bad.values()) == 1
