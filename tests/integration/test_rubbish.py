"""Malformed records on every topic, for every reader: none stops, none is lost, all are counted."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from support.breakable import (
    BreakableActivityStore,
    BreakableBroker,
    BreakableItemOverlay,
    BreakableStateCache,
    BreakableSumStore,
)
from support.malformed_records import (
    HEADERS,
    illegal,
    impossible_records,
    odd_items,
    odd_rows,
    undecodable,
    valid_message,
)
from support.sql_recount import add_sums, recount
from support.traffic import EXPERIMENT, RULES, click, exposure

from experiments.lifecycle import commands
from services.activity.worker import ActivityWorker
from services.activity.worker import Deps as ActivityDeps
from services.adapters.files.lake_files import LakeFiles
from services.adapters.kafka.decision_log import KafkaDecisionLog
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.dead_letters.reader import read_dead_letters
from services.dead_letters.replay import replay
from services.errors import BadMessageError, UnavailableError
from services.lake.tables import TABLES
from services.lake.worker import Deps as LakeDeps
from services.lake.worker import LakeWorker
from services.messages import events
from services.messages.events import DEAD_LETTERS, DECISIONS, EVENTS, EXPOSURES
from services.messages.topics import topic_partitions
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin, Record
from services.recommend.catalogue_sync import ItemsFollower
from services.recommend.snapshot.sources import CatalogueSource
from services.runtime.dead_letters import DEAD_LETTERED_BY, DeadLetterWriter, source_of
from services.settings import Settings

PARTITIONS = 4
NO_COLUMN = b"0" * 400  # of a number that is valid JSON and too large for a column of the lake
Headers = Sequence[tuple[str, bytes]]
FED = (EXPOSURES, EVENTS, DECISIONS, events.ITEMS, events.ACTIVITY, DEAD_LETTERS)
WINDOW_MS, LATENESS_MS = round(RULES.window_s * 1_000), round(RULES.lateness_s * 1_000)


class History:
    """The part of a FeatureStore that the lake writes to."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def extend(self, view: str, rows: Any, name: str) -> None:
        self.rows += rows.to_pylist()


class NoImport:
    """A DataStore before the first import."""

    def current(self) -> None:
        return None


@dataclass
class EveryReader:
    """Every worker that reads a topic, over one broker. `now_ms` may run ahead: then everything matures."""

    home: Path
    producer: EventProducer
    consumer: Callable[[], EventConsumer]
    admin: LogAdmin
    clock: Callable[[], int]
    sent: list[Record] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store, self.cache = BreakableSumStore(), BreakableStateCache()
        settings = Settings(experiment=EXPERIMENT, broker_ack_deadline_ms=10_000)
        self.decisions = KafkaDecisionLog(settings, self.producer, self.consumer(), self.cache)
        champion = commands.Deployed("als", "als-1")
        origin = commands.Provenance("anna", self.clock())
        started = self.decisions.append(commands.start(EXPERIMENT, champion, RULES, "salt", origin))
        self.decisions.append(commands.enter(started, "popularity", "popularity-1", origin))
        bandit = Deps(self.consumer(), self.admin, self.store, self.decisions, Decoder(self.producer))
        everything = frozenset(range(PARTITIONS))
        self.bandit = Worker(bandit, lambda: everything, self.clock, Pace(safety_ms=1_000, commit_ms=0))
        pairs = frozenset((EVENTS, index) for index in range(PARTITIONS))
        self.rows = BreakableActivityStore()
        activity = ActivityDeps(self.consumer(), self.producer, self.admin, self.rows, lambda: pairs)
        self.activity = ActivityWorker(activity, self.clock, most=50, horizon_ms=0)
        overlay = BreakableItemOverlay()
        self.items = ItemsFollower(self.consumer(), self.admin, overlay)
        self.catalogue = CatalogueSource(NoImport(), overlay)  # type: ignore[arg-type]
        self.history = History()
        self.lake = self.lake_worker()

    def lake_worker(self) -> LakeWorker:
        pairs = frozenset(
            (topic, index) for topic in TABLES for index in range(topic_partitions(topic, PARTITIONS))
        )
        files = LakeFiles(self.home / "lake")
        deps = LakeDeps(self.consumer(), self.producer, self.admin, files, self.history, lambda: pairs)
        return LakeWorker(deps, self.clock, flush_ms=0, max_records=10_000)

    def send(self, topic: str, value: bytes, key: str = "ada", headers: Headers = ()) -> Record:
        where = self.producer.send(topic, key, value, headers).result(30)
        record = Record(topic, where.partition, where.offset, where.append_ms, where.key, value)
        self.sent.append(record)
        return record

    def say(self, topic: str, message: Any) -> None:
        self.send(topic, events.encode(message), message.routing_key if topic == EXPOSURES else message.key)

    def work(self) -> None:
        """Step every worker until no more records arrive."""
        quiet = 0
        while quiet < 3:
            read = sum(_stepped(worker) for worker in (self.bandit, self.activity, self.lake))
            self.items.poll()
            self.catalogue.refresh()
            quiet = 0 if read else quiet + 1

    def stored_sums(self) -> dict[str, int]:
        return add_sums(self.store.load(index)[1].get(EXPERIMENT, {}) for index in range(PARTITIONS))

    def in_lake(self, topic: str) -> int:
        files = f"{self.home}/lake/{topic}/*/*/*.parquet"
        return duckdb.sql(f"select count(distinct (partition, \"offset\")) from '{files}'").fetchall()[0][0]


def _stepped(worker: Any) -> int:
    try:
        return worker.step(0.05)
    except UnavailableError:  # a dead letter is in flight
        return 1


@pytest.fixture(autouse=True)
def _no_garbage_of_others() -> None:
    """Collect garbage first: at the recursion limit, warnings about sockets of other tests would fail."""
    gc.collect()


@pytest.fixture
def now_ms() -> list[int]:
    return [0]  # ahead of the clock


@pytest.fixture(params=["memory", pytest.param("kafka", marks=[pytest.mark.kafka, pytest.mark.slow])])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, now_ms: list[int], settings_for: Callable[..., Settings]
) -> Iterator[EveryReader]:
    def clock() -> int:
        return time.time_ns() // 1_000_000 + now_ms[0]

    if request.param == "memory":
        broker = BreakableBroker(PARTITIONS)
        producer = MemoryEventProducer(broker)
        admin = MemoryLogAdmin(broker)
        yield EveryReader(tmp_path, producer, lambda: MemoryEventConsumer(broker), admin, clock)
        return
    from services.adapters.kafka.admin import KafkaLogAdmin
    from services.adapters.kafka.consumer import KafkaEventConsumer
    from services.adapters.kafka.producer import KafkaEventProducer

    settings = settings_for(request.getfixturevalue("kafka_broker"), broker_ack_deadline_ms=10_000)
    opened: list[Any] = []

    def consumer() -> KafkaEventConsumer:
        opened.append(KafkaEventConsumer(settings))
        return opened[-1]

    opened.append(KafkaEventProducer(settings))
    yield EveryReader(tmp_path, opened[0], consumer, KafkaLogAdmin(settings), clock)
    for client in reversed(opened):
        client.close()


def test_malformed_records_are_dead_lettered_and_good_ones_count(site, now_ms):
    at_ms = site.clock()
    for topic in FED:
        for value in undecodable(EVENTS if topic == DEAD_LETTERS else topic, at_ms).values():
            site.send(topic, value)
    for number in range(5):
        slate = exposure(number, site.clock())
        site.say(EXPOSURES, slate)
        site.say(EVENTS, click(slate, site.clock(), f"good-{number}"))
    for topic in (events.ITEMS, events.ACTIVITY):
        site.send(topic, events.encode(valid_message(topic, at_ms)))
    feed_what_is_odd(site)
    for records in impossible_records(site.clock()).values():
        for topic, message in records:
            site.say(topic, message)
    site.work()
    now_ms[0] = WINDOW_MS + 3 * LATENESS_MS + 5_000
    site.work()

    assert_dead_lettered(site)
    assert_counted(site)
    assert_in_lake(site)
    assert_decided(site)
    assert site.activity.counts.bad.total() == len(undecodable(EVENTS, at_ms))
    assert site.items.bad.total() == len(undecodable(events.ITEMS, at_ms))
    assert len(site.catalogue.index) == 1
    lists = ("item_ids", "item_at", "item_types", "event_ids")
    assert all(len({len(row[name]) for name in lists}) == 1 for row in site.history.rows)


def feed_what_is_odd(site: EveryReader) -> None:
    """Send decodable records with odd values to the topics that are not counted, then a good one."""
    for change in odd_items(site.clock()).values():
        site.say(events.ITEMS, change)
    for row in odd_rows(site.clock()).values():
        site.send(events.ACTIVITY, events.encode(row))
    for name, value in HEADERS:
        site.send(DEAD_LETTERS, b"", headers=[(name, value)])
    state = site.decisions.catch_up()[EXPERIMENT]
    for value in illegal(state, site.clock()).values():
        site.send(DECISIONS, value)
    site.decisions.append(commands.enter(state, "text", "text-1", commands.Provenance("anna", site.clock())))


def assert_decided(site: EveryReader) -> None:
    """Malformed and illegal decisions are counted, and a later legal one applies."""
    state = site.decisions.catch_up()[EXPERIMENT]
    assert (state.revision, "text" in state.arms) == (3, True)
    assert site.decisions.projection.unreadable == len(undecodable(DECISIONS, site.clock()))
    assert site.decisions.projection.illegal == len(illegal(state, site.clock()))


def assert_dead_lettered(site: EveryReader) -> None:
    """Each malformed record has a dead letter with its bytes, key and reason; there are no others."""
    letters, _ = read_dead_letters(site.consumer(), 10_000)
    by_source = {letter.source: letter for letter in letters if letter.source}
    bad = [record for record in site.sent if record.topic in DEAD_LETTERED_BY and not _readable(record)]
    bad += [record for record in site.sent if record.topic == DECISIONS and NO_COLUMN in record.value]
    assert by_source.keys() == {source_of(record) for record in bad}
    for record in bad:
        letter = by_source[source_of(record)]
        assert (letter.key, letter.value) == (record.key, record.value)
        assert letter.reason
        assert letter.code in {"not-json", "schema", "version", "not-storable"}
        assert letter.reader == DEAD_LETTERED_BY[record.topic]


def assert_counted(site: EveryReader) -> None:
    """Sums equal the recount, and every readable record is in the audit or left out by reason."""
    pair = [record for record in site.sent if record.topic in (EXPOSURES, EVENTS) and _readable(record)]
    counted = site.stored_sums()
    assert counted == recount(pair, EXPERIMENT, WINDOW_MS, LATENESS_MS)
    what = ("acknowledged", "exposed", "late", "duplicate", "unmatched", "late_exposures", "n", "s")
    named = {name: sum(n for key, n in counted.items() if key.endswith(f"|{name}")) for name in what}
    assert named["acknowledged"] + named["exposed"] + site.bandit.left_out.total() == len(pair)
    assert site.bandit.left_out == {
        "exposure_unknown_experiment": 1, "event_unknown_experiment": 1, "event_unattributed": 1,
    }  # fmt: skip
    assert (named["late"], named["duplicate"], named["unmatched"], named["late_exposures"]) == (1, 2, 3, 2)
    assert (named["n"], named["s"]) == (5 + 6, 5 + 3)


def assert_in_lake(site: EveryReader) -> None:
    """Every record is a row, or was skipped and counted."""
    for topic in TABLES:
        bounds = [site.consumer().bounds(topic, i) for i in range(topic_partitions(topic, PARTITIONS))]
        bad = sum(count for (of, _), count in site.lake.bad.items() if of == topic)
        assert site.in_lake(topic) + bad == sum(end for _, end in bounds)


def _readable(record: Record) -> bool:
    return b'"v":1' in record.value and record.value.startswith(b"{")


@pytest.mark.parametrize("site", ["memory"], indirect=True)
def test_letters_put_back_twice_count_once(site, now_ms):
    slate = exposure(1, site.clock())
    site.say(EXPOSURES, slate)
    value = events.encode(click(slate, site.clock(), "e1"))  # as if an older worker could not read it
    unread = Record(EVENTS, 0, 10**6, site.clock(), slate.routing_key.encode(), value)
    dead_letter_writer = DeadLetterWriter(site.producer, "bandit")
    dead_letter_writer.dead_letter(unread, BadMessageError("not an Event: of a later version", "version"))
    dead_letter_writer.flush()
    [letter], _ = read_dead_letters(site.consumer(), 100)
    for _ in range(2):
        replay(site.producer, letter, "anna")
    site.work()
    now_ms[0] = WINDOW_MS + 3 * LATENESS_MS + 5_000
    site.work()
    counted = {key.split("|")[-1]: count for key, count in site.stored_sums().items()}
    assert counted == {
        "n": 1, "s": 1, "c": 1, "exposed": 1, "acknowledged": 2, "counted": 1, "duplicate": 1,
    }  # fmt: skip


@pytest.mark.parametrize("site", ["memory"], indirect=True)
def test_a_worker_that_starts_among_rubbish_works_too(site):
    for topic in FED:
        for value in undecodable(EVENTS if topic == DEAD_LETTERS else topic, site.clock()).values():
            site.send(topic, value)
    site.work()
    dead_lettered = len(read_dead_letters(site.consumer(), 10_000)[0])
    site.lake = site.lake_worker()
    fresh = KafkaDecisionLog(Settings(experiment=EXPERIMENT), site.producer, site.consumer(), site.cache)
    site.work()
    assert fresh.catch_up() == site.decisions.catch_up()
    assert len(read_dead_letters(site.consumer(), 10_000)[0]) == dead_lettered
