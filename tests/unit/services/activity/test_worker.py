"""The activity worker in memory: rows under any order, repetition and outage."""

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.breakable import BreakableActivityStore, BreakableBroker

from services.activity import rows
from services.activity.restore import RowSettings, restore
from services.activity.worker import CHECK_MS, ActivityWorker, Deps
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer, MemoryLogAdmin
from services.errors import BadMessageError, UnavailableError
from services.messages import events
from services.messages.events import ACTIVITY, DEAD_LETTERS, EVENTS, ActivityRow, Attribution, Event
from services.messages.topics import partition_of
from services.ports.event_log import Record
from services.runtime import row_writes

NOW_MS = 1_700_000_000_000
HORIZON_MS = 500


def event(index: int, at: int = 0, user: str | None = "u", **fields: Any) -> Event:
    values = {"event_id": f"e{index}", "type": "click", "item_id": f"i{index}", "user_id": user} | fields
    return Event(received_at=NOW_MS + at, **values)


acts = st.lists(
    st.builds(event, st.integers(0, 12), st.integers(0, 3)), unique_by=lambda e: e.event_id, max_size=13
)


@given(acts, st.randoms(use_true_random=False), st.integers(1, 6))
def test_order_and_repetition_change_nothing(done: list[Event], rng: Any, most: int) -> None:
    at_once = rows.merge(None, "u", done, most)
    shuffled = [*done, *done[: len(done) // 2]]
    rng.shuffle(shuffled)
    one_by_one = None
    for act in shuffled:
        one_by_one = rows.merge(one_by_one, "u", [act], most)
    assert one_by_one == at_once or not done


@given(acts, st.integers(1, 6))
def test_a_row_holds_the_latest_first(done: list[Event], most: int) -> None:
    row = rows.merge(None, "u", done, most)
    expected = sorted(done, key=lambda e: (e.received_at, e.event_id), reverse=True)[:most]
    assert row.event_ids == [e.event_id for e in expected]
    assert row.item_ids == [e.item_id for e in expected]
    assert row.item_at == [e.received_at for e in expected]
    assert row.item_types == [e.type for e in expected]


def test_two_clicks_in_one_millisecond_both_stay() -> None:
    row = rows.merge(None, "u", [event(1), event(2)], 50)
    assert sorted(row.item_ids) == ["i1", "i2"]
    assert rows.merge(row, "u", [event(1)], 50) == row


def test_row_timestamps_run_ahead_and_grow_with_every_push() -> None:
    row = rows.stamp(rows.merge(None, "u", [event(1)], 50), NOW_MS, HORIZON_MS)
    again = rows.stamp(row, NOW_MS, HORIZON_MS)
    earlier_clock = rows.stamp(again, NOW_MS - 10_000, HORIZON_MS)
    assert row.received_at == NOW_MS + HORIZON_MS
    assert row.received_at < again.received_at < earlier_clock.received_at


@pytest.mark.parametrize(
    ("act", "owner"),
    [
        (event(1, user="u", session_id="s"), "u"),
        (event(1, user=None, session_id="s"), "s"),
        (event(1, user=None), None),
        (event(1, type="impression"), None),
    ],
)
def test_a_row_belongs_to_its_requests_routing_key(act: Event, owner: str | None) -> None:
    assert rows.row_key(act) == owner


# ---- the worker
# ----------------------------------------------------------------------------------------------------


@dataclass
class ActivityInMemory:
    broker: BreakableBroker
    store: BreakableActivityStore
    now_ms: int = NOW_MS

    def worker(self, most: int = 50, partitions: Iterable[int] = range(4)) -> ActivityWorker:
        consumer = MemoryEventConsumer(self.broker)
        pairs = frozenset((EVENTS, index) for index in partitions)
        producer = MemoryEventProducer(self.broker)
        deps = Deps(consumer, producer, MemoryLogAdmin(self.broker), self.store, lambda: pairs)
        return ActivityWorker(deps, lambda: self.now_ms, most=most, horizon_ms=HORIZON_MS)

    def send(self, *messages: Event | bytes) -> None:
        for message in messages:
            raw = message if isinstance(message, bytes) else events.encode(message)
            key = "k" if isinstance(message, bytes) else message.key
            MemoryEventProducer(self.broker).send(EVENTS, key, raw).result(0)

    def published(self, topic: str) -> list[Any]:
        consumer = MemoryEventConsumer(self.broker)
        indices = range(4 if topic == ACTIVITY else 1)
        consumer.assign({(topic, index): self.broker.bounds((topic, index))[0] for index in indices})
        return consumer.poll(0, 10_000)

    def history(self) -> list[ActivityRow]:
        return [events.decode(ActivityRow, record.value) for record in self.published(ACTIVITY)]


class HistoryOf:
    """A FeatureStore that has only the history of activity."""

    def __init__(self, row: ActivityRow):
        self._row = row

    def applied(self) -> bool:
        return True

    def history(self, view: str) -> pa.Table:
        lists = {
            name: [getattr(self._row, name)] for name in ("item_ids", "item_at", "item_types", "event_ids")
        }
        stamp = pa.array([self._row.received_at], pa.timestamp("ms", "UTC"))
        table = pa.table({"user_id": [self._row.user_id], **lists, "event_timestamp": stamp})
        return table if view == "user_activity" else table.slice(1)


@pytest.fixture
def world(memory_broker) -> ActivityInMemory:
    return ActivityInMemory(memory_broker, BreakableActivityStore())


def test_what_was_pushed_is_what_history_gets(world) -> None:
    world.send(event(1), event(2, 5, user="v"), event(3, 9))
    worker = world.worker()
    assert worker.step(0) == 3
    assert world.store.rows["u"].item_ids == ["i3", "i1"]
    assert world.store.rows["v"].item_ids == ["i2"]
    assert sorted(world.history(), key=lambda row: row.user_id) == [
        world.store.rows["u"],
        world.store.rows["v"],
    ]
    assert len(world.store.pushes) == 1  # one batch


def test_a_click_dated_ahead_does_not_block_the_next(world) -> None:
    worker = world.worker()
    world.send(event(1, ts=NOW_MS + 5 * 3_600_000))
    worker.step(0)
    world.now_ms += 10
    world.send(event(2, 10))
    worker.step(0)
    assert world.store.rows["u"].item_ids == ["i2", "i1"]
    assert world.store.rows["u"].received_at == NOW_MS + 10 + HORIZON_MS


def test_events_out_of_order_end_up_in_order(world) -> None:
    worker = world.worker()
    for index, at in ((1, 30), (2, 10), (3, 20)):
        world.send(event(index, at))
        worker.step(0)
    assert world.store.rows["u"].item_ids == ["i1", "i3", "i2"]
    assert [row.received_at for row in world.history()] == sorted(
        {row.received_at for row in world.history()}
    )


def test_the_same_event_twice_is_pushed_once(world) -> None:
    worker = world.worker()
    world.send(event(1), event(1))
    worker.step(0)
    world.send(event(1))
    worker.step(0)
    assert world.store.rows["u"].event_ids == ["e1"]
    assert len(world.store.pushes) == 1
    assert set(map(str, world.history())) == {str(world.store.rows["u"])}


def test_an_attributed_click_belongs_to_the_user_who_clicked(world) -> None:
    shown = Attribution(
        recommendation_id="r", experiment="x", routing_key="s", unit="s:s:-", unit_at=NOW_MS,
        exposed_at=NOW_MS, arm="a", weights_version=1, propensity=0.5, position=0,
    )  # fmt: skip
    world.send(event(1, user="u", session_id="s", attribution=shown))
    world.worker().step(0)
    assert list(world.store.rows) == ["u"]


def test_what_cannot_be_read_is_counted_and_stops_nobody(world) -> None:
    world.send(b"{nonsense", event(1))
    worker = world.worker()
    worker.step(0)
    assert worker.counts.bad == {"not-json": 1}
    assert world.published(DEAD_LETTERS) == []  # the attribution worker writes those of events
    assert world.store.rows["u"].item_ids == ["i1"]


def test_an_event_without_end_makes_no_row(world) -> None:
    world.send(event(1, item_id="i" * 600_000), event(2))
    worker = world.worker()
    worker.step(0)
    assert worker.counts.bad == {"schema": 1}
    assert world.store.rows["u"].item_ids == ["i2"]


class Narrow(MemoryEventProducer):
    """Rejects records of more than `most` bytes, as librdkafka does."""

    most = 300

    def send(self, topic: str, key: Any, value: bytes, headers: Any = ()) -> "Future[Record]":
        if len(value) <= self.most:
            return super().send(topic, key, value, headers)
        refused: Future[Record] = Future()
        refused.set_exception(BadMessageError(f"a record of {len(value)} bytes", "too-large"))
        return refused


def test_a_row_too_large_for_history_is_still_online(world, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "MemoryEventProducer", Narrow)
    world.send(*(event(index, index) for index in range(9)), event(1, user="v"))
    worker = world.worker()
    assert worker.step(0) == 10
    assert worker.counts.unpublished == 1
    assert len(world.store.rows["u"].item_ids) == 9
    assert [row.user_id for row in world.history()] == ["v"]
    assert sum(world.store.saved[world.broker.log_id].values()) == 10
    world.send(event(2, user="v"))
    assert world.worker().step(0) == 1


def test_redis_down_and_back_loses_and_doubles_nothing(world) -> None:
    worker = world.worker()
    worker.step(0)
    world.send(event(1))
    world.store.down = True
    for _ in range(3):
        with pytest.raises(UnavailableError):
            worker.step(0)
    world.send(event(2, 5))
    world.store.down = False
    worker.step(0)
    assert world.store.rows["u"].event_ids == ["e2", "e1"]


@pytest.mark.parametrize("fails", ["push", "save_positions"])
def test_a_crash_anywhere_is_made_good_by_the_next_worker(fails, world, monkeypatch) -> None:
    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    world.send(event(1), event(2, 1))
    with monkeypatch.context() as patched:
        patched.setattr(world.store, fails, crash)
        with pytest.raises(KeyboardInterrupt):
            world.worker().step(0)
    world.now_ms += 60_000
    world.send(event(3, 2))
    world.worker().step(0)
    assert world.store.rows["u"].event_ids == ["e3", "e2", "e1"]
    assert world.store.rows["u"] in world.history()
    assert {row.received_at for push in world.store.pushes for row in push} <= {
        row.received_at for row in world.history()
    }


def test_a_push_whose_publication_was_lost_is_published_after_all(world, monkeypatch) -> None:
    """The row was served, so the history must have it: the replay changes nothing and publishes it."""
    world.send(event(1))

    def crash(*_args: object) -> None:
        raise KeyboardInterrupt

    worker = world.worker()
    with monkeypatch.context() as patched:
        patched.setattr(MemoryEventProducer, "send", crash)
        with pytest.raises(KeyboardInterrupt):
            worker.step(0)
    served = world.store.rows["u"]
    assert world.history() == []
    world.worker().step(0)
    assert world.history() == [served]
    assert world.store.rows["u"] == served


def test_a_restart_goes_on_where_it_stopped(world) -> None:
    world.send(event(1))
    world.worker().step(0)
    world.send(event(2, 5))
    assert world.worker().step(0) == 1
    assert world.store.rows["u"].event_ids == ["e2", "e1"]


def test_a_longer_new_log_is_read_from_its_start(world) -> None:
    worker = world.worker()
    world.send(event(1), event(2, 1))
    worker.step(0)
    world.broker.lose_everything("another log")
    world.send(*(event(index, index) for index in range(3, 8)))
    for _ in range(4):
        world.now_ms += CHECK_MS
        worker.step(0)
    assert set(world.store.rows["u"].event_ids) == {f"e{index}" for index in range(1, 8)}
    assert sum(world.store.saved["another log"].values()) == 5


def test_a_row_keeps_the_latest(world) -> None:
    world.send(*(event(index, index) for index in range(9)))
    world.worker(most=4).step(0)
    assert world.store.rows["u"].item_ids == ["i8", "i7", "i6", "i5"]


def test_a_slow_push_is_told(world, monkeypatch) -> None:
    worker = world.worker()
    push = world.store.push

    def slow(batch: list[ActivityRow]) -> None:
        world.now_ms += HORIZON_MS + 1
        push(batch)

    monkeypatch.setattr(world.store, "push", slow)
    world.send(event(1))
    worker.step(0)
    assert (worker.counts.late, worker.counts.rows) == (1, 1)


# ---- two writers of one row
# ----------------------------------------------------------------------------------------------------


def clicks_of_one_user_in_two_partitions(world: ActivityInMemory) -> None:
    """A slate shown to a guest and clicked after logging in; see services.runtime.row_writes."""
    for partition in range(2):
        key = next(name for name in map(str, range(99)) if partition_of(name.encode(), 4) == partition)
        raw = events.encode(event(partition, partition))
        MemoryEventProducer(world.broker).send(EVENTS, key, raw).result(0)


def meanwhile(
    world: ActivityInMemory, monkeypatch: pytest.MonkeyPatch, call: str, act: Callable[[], None]
) -> None:
    """Call `act` once, during the first call of this method of the store."""
    plain = getattr(world.store, call)

    def interrupted(*arguments: Any) -> Any:
        monkeypatch.setattr(world.store, call, plain)
        act()
        return plain(*arguments)

    monkeypatch.setattr(world.store, call, interrupted)


def step(worker: ActivityWorker) -> None:
    with suppress(UnavailableError):
        worker.step(0)


@pytest.mark.parametrize("expires", [False, True])
@pytest.mark.parametrize("call", ["lock_rows", "load", "push", "save_positions"])
def test_two_who_write_one_row_lose_no_click(
    call: str, expires: bool, world: ActivityInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any interleaving, and also if the lock of the first one expired."""
    monkeypatch.setattr(row_writes, "PAUSE_S", 0.0)
    first, second = world.worker(partitions=[0]), world.worker(partitions=[1])
    first.step(0)
    second.step(0)
    clicks_of_one_user_in_two_partitions(world)

    def comes_in_between() -> None:
        if expires:
            world.store.expire()
        step(second)

    meanwhile(world, monkeypatch, call, comes_in_between)
    for worker in (first, first, second, first, second):
        step(worker)
    assert sorted(world.store.rows["u"].event_ids) == ["e0", "e1"]
    assert sorted(position for position in world.store.saved[world.broker.log_id].values()) == [1, 1]
    assert world.store.rows["u"] in world.history()


def test_writing_one_user_does_not_delay_others(world, monkeypatch) -> None:
    monkeypatch.setattr(row_writes, "PAUSE_S", 0.0)
    worker = world.worker()
    world.send(event(1), event(2, user="v"))
    with world.store.lock_rows(["u"]):
        with pytest.raises(UnavailableError, match="1 of them"):
            worker.step(0)
        assert list(world.store.rows) == ["v"]
    worker.step(0)
    assert sorted(world.store.rows) == ["u", "v"]
    assert sorted(row.user_id for row in world.history()) == ["u", "v"]


@pytest.mark.parametrize("call", ["load", "push"])
def test_restoring_history_hides_no_simultaneous_click(call, world, monkeypatch) -> None:
    monkeypatch.setattr(row_writes, "PAUSE_S", 0.0)
    worker, settings = world.worker(), RowSettings(50, HORIZON_MS, 10**9)
    world.send(event(1))
    worker.step(0)
    known = world.store.rows.pop("u")  # Redis was emptied
    history = HistoryOf(known)
    world.send(event(2, 5))
    meanwhile(world, monkeypatch, call, lambda: step(worker))
    restore(world.store, history, settings, lambda: world.now_ms)  # type: ignore[arg-type]
    step(worker)
    assert sorted(world.store.rows["u"].event_ids) == ["e1", "e2"]


@pytest.mark.parametrize(
    "senseless",
    [{"event_ids": []}, {"item_types": ["stare"]}, {"item_at": [-1]}, {"item_ids": ["i" * 201]}],
)
def test_an_invalid_history_row_is_skipped_and_clicks_continue(senseless, world) -> None:
    row = rows.stamp(rows.merge(None, "u", [event(1)], 50), NOW_MS, HORIZON_MS)
    for name, value in senseless.items():
        msgspec.structs.force_setattr(row, name, value)
    settings = RowSettings(50, HORIZON_MS, 10**9)
    done = restore(world.store, HistoryOf(row), settings, lambda: world.now_ms)  # type: ignore[arg-type]
    assert (done.activity, done.published, world.store.rows) == (0, {}, {})
    world.send(event(2))
    world.worker().step(0)
    assert world.store.rows["u"].event_ids == ["e2"]
