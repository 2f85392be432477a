"""DecisionLog: the first record with the next revision wins, on memory and on the topic of every broker."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.breakable import BreakableBroker, BreakableDecisionLog, BreakableStateCache
from support.decisions import altered
from support.malformed_records import illegal
from support.traffic import EXPERIMENT, RULES, START_MS

from experiments.lifecycle import commands
from experiments.lifecycle.decisions import Decision
from experiments.lifecycle.fold import fold
from experiments.lifecycle.state import Experiment, to_dict
from experiments.lifecycle.transitions import IllegalTransition
from services.adapters.kafka import decision_log
from services.adapters.kafka.decision_log import KafkaDecisionLog
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer
from services.errors import StalePositionError, UnavailableError
from services.messages import events
from services.ports.event_log import Record
from services.ports.state import DecisionLog
from services.settings import Settings

ORIGIN = commands.Provenance("anna", START_MS)
Open = Callable[[], DecisionLog]


def start() -> Decision:
    return commands.start(EXPERIMENT, commands.Deployed("pop", "pop-1"), RULES, "salt", ORIGIN)


def enter(state: Experiment, arm: str = "als") -> Decision:
    return commands.enter(state, arm, f"{arm}-1", ORIGIN)


def held_decisions(log: KafkaDecisionLog) -> int:
    """How many records a log keeps in memory."""
    kept = [part for part in vars(log.projection).values() if isinstance(part, dict)]
    return sum(isinstance(found, Decision) for part in kept for of in part.values() for found in _all(of))


def _all(of: object) -> list[object]:
    return of if isinstance(of, list) else [of]


@pytest.fixture
def broker() -> BreakableBroker:
    return BreakableBroker(partitions=2)


def topic_log(broker: BreakableBroker, cache: BreakableStateCache, history: bool = True) -> KafkaDecisionLog:
    consumer, producer = MemoryEventConsumer(broker), MemoryEventProducer(broker)
    return KafkaDecisionLog(Settings(experiment=EXPERIMENT), producer, consumer, cache, history)


@pytest.fixture(params=["memory", "topic", "embedded", pytest.param("kafka", marks=pytest.mark.kafka)])
def opened(request: pytest.FixtureRequest, settings_for: Callable) -> Open:
    """A way to open the log as another process would."""
    cache = BreakableStateCache()
    if request.param == "memory":
        one = BreakableDecisionLog(cache)
        return lambda: one
    if request.param == "topic":
        broker = BreakableBroker(partitions=2)
        return lambda: topic_log(broker, cache)
    return _over_kafka(request, settings_for, cache)


def _over_kafka(request: pytest.FixtureRequest, settings_for: Callable, cache: BreakableStateCache) -> Open:
    from services.adapters.kafka.consumer import KafkaEventConsumer
    from services.adapters.kafka.producer import KafkaEventProducer

    broker = request.getfixturevalue("kafka_broker" if request.param == "kafka" else "embedded_broker")
    settings = settings_for(broker=broker)

    def open_log() -> KafkaDecisionLog:
        producer, consumer = KafkaEventProducer(settings), KafkaEventConsumer(settings)
        request.addfinalizer(producer.close)
        request.addfinalizer(consumer.close)
        return KafkaDecisionLog(settings, producer, consumer, cache)

    return open_log


def test_every_reader_sees_the_same_history_and_state(opened):
    log = opened()
    assert log.catch_up() == {}
    first = log.append(start())
    second = log.append(enter(first))
    other = opened()
    assert other.catch_up() == log.catch_up() == {EXPERIMENT: second}
    assert other.history(EXPERIMENT) == log.history(EXPERIMENT)
    assert [d.revision for d in other.history(EXPERIMENT, after_revision=1)] == [2]
    assert fold(other.history(EXPERIMENT)) == second


def test_a_state_that_was_handed_out_stays_what_it_was(opened):
    """Also if the log that gave it reads on, over many records at once."""
    log, reader = opened(), opened()
    state = log.append(enter(log.append(start())))
    seen = reader.catch_up()[EXPERIMENT]
    kept = to_dict(seen)
    for share in (0.1, 0.2, 0.3):
        shares = {"pop": 1 - share, "als": share}
        state = log.append(commands.allocate(state, shares, {}, 0, ORIGIN))
    assert reader.catch_up()[EXPERIMENT] == state
    assert to_dict(seen) == kept
    assert len(state.versions) == len(seen.versions) + 3


def test_a_log_without_history_decides_alike_and_keeps_nothing(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    bare = [topic_log(broker, cache, history=False) for _ in range(2)]
    state = bare[0].append(enter(bare[0].append(start())))
    stale = commands.pause(state, ORIGIN)
    winner = bare[1].append(enter(state, "text"))
    with pytest.raises(StalePositionError, match="revision 3 is taken, 4 is next"):
        bare[0].append(stale)
    broker.append(events.DECISIONS, b"storefront", events.encode(stale))
    assert log.catch_up() == bare[0].catch_up() == bare[1].catch_up() == {EXPERIMENT: winner}
    assert log.projection.void == bare[0].projection.void == bare[1].projection.void == 1
    with pytest.raises(RuntimeError, match="keeps no history"):
        bare[0].history(EXPERIMENT)
    assert held_decisions(bare[0]) == held_decisions(bare[1]) == 0 < held_decisions(log)


def test_the_second_decision_with_a_revision_does_not_count(opened):
    one, two = opened(), opened()
    state = one.append(start())
    two.catch_up()
    winner = one.append(enter(state, "als"))
    with pytest.raises(
        StalePositionError, match="revision 2 is taken, 3 is next|revision 2 is void, 3 is next"
    ):
        two.append(enter(state, "text"))
    assert two.catch_up()[EXPERIMENT] == winner
    assert set(winner.arms) == {"pop", "als"}


def test_writers_at_once_leave_one_history(opened):
    """Each of four writers enters an arm, trying again until it is the first with its revision."""
    logs = [opened() for _ in range(4)]
    logs[0].append(start())
    threads = [threading.Thread(target=insist, args=(log, f"arm{n}")) for n, log in enumerate(logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    final = opened()
    state = final.catch_up()[EXPERIMENT]
    assert set(state.arms) == {"pop", "arm0", "arm1", "arm2", "arm3"}
    assert [d.revision for d in final.history(EXPERIMENT)] == [1, 2, 3, 4, 5]


def insist(log: DecisionLog, arm: str) -> None:
    for _ in range(40):
        try:
            log.append(enter(log.catch_up()[EXPERIMENT], arm))
        except StalePositionError:
            continue
        return


def test_an_invalid_decision_is_refused_and_not_appended(broker):
    log = topic_log(broker, BreakableStateCache())
    state = log.append(start())
    with pytest.raises(IllegalTransition, match="already in"):
        log.append(altered(enter(state), detail={"arm": "pop", "model_version": "pop-2"}))
    assert len(broker.records(events.DECISIONS)) == 1


def test_void_illegal_and_unreadable_records_change_nothing_and_are_distinguished(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(start())
    entered = enter(state)
    for value in (
        b"\xff\xfe",
        b'{"v": 1}',
        events.encode(altered(entered, revision=1)),  # revision 1 is taken
        events.encode(altered(entered, revision=7)),  # nobody decided 2 to 6
        events.encode(altered(entered, detail={})),  # no arm named
        events.encode(altered(entered, detail={"arm": 5, "model_version": None})),
    ):
        broker.append(events.DECISIONS, b"storefront", value)
    assert log.catch_up() == {EXPERIMENT: state}
    log.append(entered)
    reader = topic_log(broker, cache)
    assert reader.catch_up()[EXPERIMENT].revision == 2
    assert (reader.projection.void, reader.projection.illegal, reader.projection.unreadable) == (2, 2, 2)
    assert broker.records(events.DEAD_LETTERS) == []  # the lake worker buries decisions


def test_the_cache_follows_and_is_repaired_by_the_next_reader(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(start())
    assert cache.get(EXPERIMENT) == state
    cache.down = True  # as if killed between the append and the cache
    newer = log.append(enter(state))
    cache.down = False
    assert cache.get(EXPERIMENT) == state
    assert topic_log(broker, cache).catch_up()[EXPERIMENT] == newer
    assert cache.get(EXPERIMENT) == newer


def test_a_truncated_log_continues_from_the_cached_state(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(enter(log.append(start())))
    later = log.append(commands.pause(state, ORIGIN))
    broker.truncate(events.DECISIONS, 0, before=2)
    reader = topic_log(broker, cache)
    assert reader.catch_up() == {EXPERIMENT: later}
    assert [d.revision for d in reader.history(EXPERIMENT)] == [3]
    assert reader.append(commands.resume(later, ORIGIN)).revision == 4
    assert log.catch_up()[EXPERIMENT].revision == 4


def test_a_new_log_goes_on_from_the_cached_state(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(enter(log.append(start())))
    broker.lose_everything("memory-2")
    reader = topic_log(broker, cache)
    assert reader.catch_up() == {EXPERIMENT: state}
    assert reader.append(commands.pause(state, ORIGIN)).revision == 3
    assert log.catch_up()[EXPERIMENT].status == "paused"


def test_a_log_that_cannot_be_reached_is_unavailable_and_recovers(broker):
    log = topic_log(broker, BreakableStateCache())
    broker.down = True
    with pytest.raises(UnavailableError):
        log.catch_up()
    broker.down = False
    assert log.append(start()).revision == 1


def test_a_log_cut_while_being_read_is_reread(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(enter(log.append(start())))

    class Cut(MemoryEventConsumer):
        def bounds(self, topic: str, partition: int) -> tuple[int, int]:
            found = super().bounds(topic, partition)
            broker.truncate(topic, partition, before=1)
            return found

    reader = KafkaDecisionLog(
        Settings(experiment=EXPERIMENT), MemoryEventProducer(broker), Cut(broker), cache
    )
    with pytest.raises(UnavailableError):
        reader.catch_up()
    assert reader.catch_up() == {EXPERIMENT: state}


def test_without_an_acknowledgement_nothing_is_claimed(broker):
    consumer, producer = MemoryEventConsumer(broker), MemoryEventProducer(broker)
    settings = Settings(experiment=EXPERIMENT, broker_ack_deadline_ms=20)
    log = KafkaDecisionLog(settings, producer, consumer, BreakableStateCache())
    broker.stall()
    with pytest.raises(UnavailableError, match="acknowledgement.*may be in the log or not"):
        log.append(start())
    broker.release()  # it did get through
    assert log.catch_up()[EXPERIMENT].revision == 1


def test_without_the_cache_no_experiment_is_started(broker):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    cache.down = True
    assert log.catch_up() == {}
    with pytest.raises(
        UnavailableError, match="can't say whether storefront runs already.*nothing was changed"
    ):
        log.append(start())
    assert broker.records(events.DECISIONS) == []
    cache.down = False
    state = log.append(start())
    cache.down = True
    reader = topic_log(broker, cache)
    assert reader.catch_up() == {EXPERIMENT: state}
    paused = reader.append(commands.pause(state, ORIGIN))
    assert log.catch_up() == {EXPERIMENT: paused}


class Slow(MemoryEventConsumer):
    """A consumer that takes `poll_s` seconds of `time` for each record."""

    def __init__(self, broker: BreakableBroker, time: "Time", poll_s: float):
        super().__init__(broker)
        self._time, self._poll_s = time, poll_s

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        self._time.now_s += self._poll_s
        return super().poll(timeout_s, 1)


class Time:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def slow_log(broker: BreakableBroker, cache: BreakableStateCache, monkeypatch: Any, poll_s: float) -> Any:
    time = Time()
    monkeypatch.setattr(decision_log, "time", time)
    consumer = Slow(broker, time, poll_s)
    return KafkaDecisionLog(
        Settings(experiment=EXPERIMENT), MemoryEventProducer(broker), consumer, cache
    ), consumer


def test_a_long_log_is_read_to_its_end(broker, monkeypatch):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(start())
    for arm in range(10):
        state = log.append(enter(state, f"arm{arm}"))
    reader, _ = slow_log(broker, cache, monkeypatch, 0.9 * decision_log.STALLED_S)
    assert reader.catch_up() == {EXPERIMENT: state}


def test_a_stalled_log_is_unavailable_and_loses_nothing_read(broker, monkeypatch):
    """Half of it is read; whoever reads the other half also caches what the first one changed."""
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    other = altered(start(), experiment="another")
    log.append(other)
    state = log.append(start())
    reader, consumer = slow_log(broker, cache, monkeypatch, 0.9 * decision_log.STALLED_S)
    with monkeypatch.context() as still:
        polled = consumer.poll
        left = [polled]
        still.setattr(consumer, "poll", lambda *given: left.pop()(*given) if left else nothing(consumer))
        with pytest.raises(UnavailableError, match="no record for 10 s at offset 1; its end is 2"):
            reader.catch_up()
    cache.lose_data()
    assert reader.catch_up()[EXPERIMENT] == state
    assert cache.get("another") is not None


def nothing(consumer: Slow) -> list[Record]:
    consumer._time.now_s += 1.0
    return []


def test_what_only_the_cache_can_explain_waits_for_it(broker):
    """The log begins at revision 3 and Redis is away: nothing of it is passed over as void meanwhile."""
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    state = log.append(enter(log.append(start())))
    later = log.append(commands.resume(log.append(commands.pause(state, ORIGIN)), ORIGIN))
    broker.truncate(events.DECISIONS, 0, before=2)
    reader = topic_log(broker, cache)
    cache.down = True
    for _ in range(2):
        with pytest.raises(UnavailableError, match="Redis"):
            reader.catch_up()
    cache.down = False
    assert reader.catch_up() == {EXPERIMENT: later}
    assert [d.revision for d in reader.history(EXPERIMENT)] == [3, 4]
    assert reader.projection.void == 0


@pytest.fixture
def senseless(broker) -> dict[str, bytes]:
    """Records that take the next revision of an experiment and make no sense, by what is wrong."""
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    return illegal(log.append(enter(log.append(start()))), START_MS)


def test_a_breaking_record_is_skipped_and_later_ones_count(broker, senseless):
    """In one poll: nothing behind a senseless record is passed over."""
    log = topic_log(broker, BreakableStateCache())
    state = log.catch_up()[EXPERIMENT]
    for value in senseless.values():
        broker.append(events.DECISIONS, b"storefront", value)
    pause = commands.pause(state, ORIGIN)
    broker.append(events.DECISIONS, b"storefront", events.encode(pause))
    fresh = topic_log(broker, BreakableStateCache())
    for reader in (log, fresh):
        assert reader.catch_up()[EXPERIMENT].status == "paused"
        assert (reader.projection.illegal, reader.projection.unreadable, reader.projection.void) == (
            len(senseless),
            0,
            0,
        )
    assert fresh.catch_up() == log.catch_up()


def test_a_reader_that_fails_resumes_at_that_record(broker, monkeypatch):
    cache = BreakableStateCache()
    log = topic_log(broker, cache)
    log.append(enter(log.append(start())))
    other = topic_log(broker, BreakableStateCache())
    apply, failing = other.projection.apply, [True]

    def fails_once(offset: int, decision: Decision) -> bool:
        if failing.pop() if failing else False:
            raise RuntimeError("a bug")
        return apply(offset, decision)

    monkeypatch.setattr(other.projection, "apply", fails_once)
    with pytest.raises(RuntimeError, match="a bug"):
        other.catch_up()
    assert other.catch_up() == log.catch_up()


def test_an_append_is_confirmed_even_if_others_appended_since(broker, monkeypatch):
    """What comes behind the record before its writer reads it back does not make it a loser."""
    cache = BreakableStateCache()
    log, other = (topic_log(broker, cache, history=False) for _ in range(2))
    state = log.append(start())
    send = log._send

    def overtaken(decision: Decision) -> Record:
        sent = send(decision)
        following = other.append(commands.pause(other.catch_up()[EXPERIMENT], ORIGIN))
        other.append(commands.resume(following, ORIGIN))
        return sent

    monkeypatch.setattr(log, "_send", overtaken)
    assert log.append(enter(state)).revision == 4


def test_a_log_without_history_keeps_nothing_a_record(broker):
    log = topic_log(broker, BreakableStateCache(), history=False)
    state = log.append(start())
    held = [len(part) for part in vars(log.projection).values() if isinstance(part, dict)]
    for _ in range(10):
        state = log.append(commands.resume(log.append(commands.pause(state, ORIGIN)), ORIGIN))
    assert [len(part) for part in vars(log.projection).values() if isinstance(part, dict)] == held
