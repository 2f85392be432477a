"""Laws of the event log, on every adapter: in memory, the embedded broker, Apache Kafka."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from services.adapters.kafka.admin import KafkaLogAdmin
from services.errors import DataLossError, RingsideError, UnavailableError
from services.messages.events import DECISIONS, EVENTS, EXPOSURES, ITEMS
from services.messages.topics import TOPICS, partition_of
from services.ports.event_log import EventConsumer, EventProducer, Record

PARTITIONS = 4
KEYS = [f"shopper-{number}" for number in range(40)]
BOTH = (EXPOSURES, EVENTS)
EVERYTHING = frozenset((topic, index) for topic in BOTH for index in range(PARTITIONS))
SHARING = ["memory", pytest.param("kafka", marks=pytest.mark.kafka)]  # embedded: one member, another port
ALL_EVENTS = {(EVENTS, index): 0 for index in range(PARTITIONS)}


def produced(producer: EventProducer, topic: str, keys: list[str | None], prefix: str = "m") -> list[Record]:
    """Send one numbered record a key and wait for every acknowledgement."""
    sent = [producer.send(topic, key, f"{prefix}{number}".encode()) for number, key in enumerate(keys)]
    return [future.result(timeout=60) for future in sent]


def consumed(consumer: EventConsumer, count: int, timeout_s: float = 60.0) -> list[Record]:
    """Poll until `count` records came, or time is over."""
    records: list[Record] = []
    end = time.monotonic() + timeout_s
    while len(records) < count and time.monotonic() < end:
        records += consumer.poll(0.2)
    return records


def eventually(what: Any, timeout_s: float = 60.0) -> Any:
    """The first truthy value of `what()`; a RingsideError counts as not yet."""
    end = time.monotonic() + timeout_s
    while True:
        try:
            value = what()
        except RingsideError:
            value = None
        if value or time.monotonic() > end:
            return value
        time.sleep(0.05)


def test_lag_counts_the_records_left_after_the_last_poll(log: Any) -> None:
    produced(log.producer(), EVENTS, ["ada"] * 30)
    consumer, pair = log.consumer(), (EVENTS, partition_of(b"ada", PARTITIONS))
    consumer.assign({pair: 0})
    first = eventually(lambda: consumer.poll(0.2, max_records=10))
    assert consumer.lag() == {pair: 30 - len(first)}
    assert len(first) <= 10
    assert len(consumed(consumer, 30 - len(first))) == 30 - len(first)
    assert eventually(lambda: consumer.poll(0) or consumer.lag() == {pair: 0})


def test_what_is_acknowledged_is_read_back_with_its_bytes(log: Any) -> None:
    raw = bytes(range(256))
    where = (
        log.producer().send(EVENTS, "ada", raw, [("reason", b"\xff"), ("origin", b"x")]).result(timeout=60)
    )
    consumer = log.consumer()
    consumer.assign({(EVENTS, where.partition): where.offset})
    (record,) = consumed(consumer, 1)
    assert (record.topic, record.partition, record.offset) == (EVENTS, where.partition, where.offset)
    assert (record.key, record.value) == (b"ada", raw)
    assert record.headers == (("reason", b"\xff"), ("origin", b"x"))
    assert record.append_ms == where.append_ms
    assert where.value == b""


def test_records_of_a_key_stay_in_order(log: Any) -> None:
    produced(log.producer(), EVENTS, [KEYS[number % 7] for number in range(300)])
    consumer = log.consumer()
    consumer.assign(ALL_EVENTS)
    records = consumed(consumer, 300)
    assert len(records) == 300
    for index in range(PARTITIONS):
        of_partition = [record for record in records if record.partition == index]
        numbers = [int(record.value[1:]) for record in of_partition]
        assert numbers == sorted(numbers)
        assert [record.offset for record in of_partition] == sorted(record.offset for record in of_partition)
        assert [record.append_ms for record in of_partition] == sorted(
            record.append_ms for record in of_partition
        )


def test_partition_is_a_function_of_the_key_alone(log: Any) -> None:
    producer = log.producer()
    events, exposures = produced(producer, EVENTS, KEYS), produced(producer, EXPOSURES, KEYS)
    expected = [partition_of(key.encode(), PARTITIONS) for key in KEYS]
    assert [record.partition for record in events] == expected
    assert [record.partition for record in exposures] == expected
    assert len(set(expected)) == PARTITIONS


def test_a_topic_with_one_partition_is_a_total_order(log: Any) -> None:
    where = produced(log.producer(), DECISIONS, [*KEYS[:10], None])
    assert [record.partition for record in where] == [0] * 11
    assert [record.offset for record in where] == sorted(record.offset for record in where)
    assert log.admin().partitions(DECISIONS) == 1


def test_reading_goes_on_from_the_positions_of_another_consumer(log: Any) -> None:
    producer = log.producer()
    produced(producer, EVENTS, KEYS, "a")
    first = log.consumer()
    first.assign(ALL_EVENTS)
    assert len(consumed(first, len(KEYS))) == len(KEYS)
    produced(producer, EVENTS, KEYS, "b")
    second = log.consumer()
    second.assign(first.positions())
    records = consumed(second, len(KEYS))
    assert sorted(record.value for record in records) == sorted(
        f"b{number}".encode() for number in range(len(KEYS))
    )


def test_positions_count_what_was_returned_and_nothing_more(log: Any) -> None:
    produced(log.producer(), EVENTS, ["ada"] * 30)
    pair = (EVENTS, partition_of(b"ada", PARTITIONS))
    consumer = log.consumer()
    consumer.assign({pair: 0})
    assert consumer.positions() == {pair: 0}
    end = time.monotonic() + 20
    some: list[Record] = []
    while len(some) < 7 and time.monotonic() < end:
        some += consumer.poll(0.2, max_records=7 - len(some))
        assert consumer.positions() == {pair: len(some)}
    assert [record.offset for record in some] == list(range(7))


def test_assign_replaces_the_earlier_assignment(log: Any) -> None:
    produced(log.producer(), EVENTS, ["ada"] * 5)
    index = partition_of(b"ada", PARTITIONS)
    consumer = log.consumer()
    consumer.assign({(EVENTS, index): 0})
    assert len(consumed(consumer, 5)) == 5
    consumer.assign({(EVENTS, index): 3})
    assert [record.offset for record in consumed(consumer, 2)] == [3, 4]
    consumer.assign({(EVENTS, (index + 1) % PARTITIONS): 0})
    assert consumer.poll(0.3) == []
    assert consumer.positions() == {(EVENTS, (index + 1) % PARTITIONS): 0}


def test_bounds_are_the_first_offset_and_the_next_one(log: Any) -> None:
    producer, consumer = log.producer(), log.consumer()
    pair = (EVENTS, partition_of(b"ada", PARTITIONS))
    assert eventually(lambda: consumer.bounds(*pair) == (0, 0))
    produced(producer, EVENTS, ["ada"] * 4)
    assert consumer.bounds(*pair) == (0, 4)
    assert consumer.end_offsets(ALL_EVENTS) == {other: 4 if other == pair else 0 for other in ALL_EVENTS}
    assert consumer.end_offsets([]) == {}


def test_no_later_record_precedes_the_offset_of_a_time(log: Any) -> None:
    producer, consumer = log.producer(), log.consumer()
    (first,) = produced(producer, EVENTS, ["ada"])
    pair = (EVENTS, first.partition)
    time.sleep(0.01)  # the broker's clock has milliseconds
    later = produced(producer, EVENTS, ["ada"] * 3)
    after_ms = later[-1].append_ms + 60_000
    exact = log.name != "embedded"  # which has no index of times: everything it keeps
    assert consumer.offsets_since([pair], first.append_ms) == {pair: 0}
    assert consumer.offsets_since([pair], later[0].append_ms) == {pair: 1 if exact else 0}
    assert consumer.offsets_since([pair], after_ms) == {pair: 4 if exact else 0}
    assert (
        consumer.offsets_since([pair, (EVENTS, (first.partition + 1) % PARTITIONS)], after_ms)[pair]
        == 4 * exact
    )
    assert consumer.offsets_since([], after_ms) == {}


def test_a_position_past_the_end_is_data_loss(log: Any) -> None:
    produced(log.producer(), EVENTS, ["ada"] * 3)
    pair = (EVENTS, partition_of(b"ada", PARTITIONS))
    consumer = log.consumer()
    consumer.assign({pair: 50})
    with pytest.raises(DataLossError, match=rf"events/{pair[1]}.*50.*\[0, 3\)"):
        consumed(consumer, 1)


def test_the_end_of_the_log_is_no_data_loss(log: Any) -> None:
    produced(log.producer(), EVENTS, ["ada"] * 3)
    pair = (EVENTS, partition_of(b"ada", PARTITIONS))
    consumer = log.consumer()
    consumer.assign({pair: 3})
    assert consumer.poll(0.5) == []
    assert consumer.positions() == {pair: 3}


def test_topics_are_created_once_with_the_requested_partitions(log: Any) -> None:
    admin = log.admin()
    admin.create_topics(PARTITIONS)
    assert admin.create_topics(PARTITIONS) == []
    assert [admin.partitions(topic) for topic in TOPICS] == [4, 4, 4, 1, 1, 1]
    with pytest.raises(RingsideError, match="kafka_partitions"):
        admin.create_topics(PARTITIONS + 1)


def test_log_id_stays_while_the_log_does(log: Any) -> None:
    admin = log.admin()
    before = admin.log_id()
    produced(log.producer(), EVENTS, KEYS)
    assert log.admin().log_id() == admin.log_id() == before


def test_a_topic_that_was_recreated_alone_is_another_log(kafka_broker: Any, settings_for: Callable) -> None:
    """Even if it has grown past the position of a consumer."""
    settings = settings_for(broker=kafka_broker)
    admin = KafkaLogAdmin(settings)
    counted, items = admin.log_id(), admin.log_id([ITEMS])
    with admin._client() as client:
        client.delete_topics([ITEMS])
        assert eventually(lambda: ITEMS not in client.list_topics())
    with pytest.raises(UnavailableError, match="items does not exist; create them: `ringside topics`"):
        admin.log_id([ITEMS])
    assert admin.create_topics(PARTITIONS) == [ITEMS]
    assert admin.log_id() == counted
    assert admin.log_id([ITEMS]) != items


def test_one_member_gets_every_partition_and_reads_only_assigned_ones(log: Any) -> None:
    produced(log.producer(), EVENTS, KEYS)
    member = log.member("counting", (EXPOSURES, EVENTS))
    everything = {(topic, index) for topic in (EXPOSURES, EVENTS) for index in range(PARTITIONS)}
    assert eventually(lambda: member.poll(0.1) or member.assignment()) == everything
    assert member.positions() == {}
    assert member.poll(0.3) == []
    member.assign({(EVENTS, 0): 0, (EVENTS, 1): 1})
    lie_in = [partition_of(key.encode(), PARTITIONS) for key in KEYS]
    expected = lie_in.count(0) + lie_in.count(1) - 1
    assert len(consumed(member, expected)) == expected
    assert member.poll(0.3) == []
    assert set(member.positions()) == {(EVENTS, 0), (EVENTS, 1)}


@pytest.mark.parametrize("log", SHARING, indirect=True)
def test_a_send_fails_at_its_deadline_until_the_broker_returns(log: Any) -> None:
    producer, consumer = log.producer(), log.consumer()
    produced(producer, EVENTS, ["ada"])
    log.kill()
    sent = [producer.send(EVENTS, "ada", b"lost?") for _ in range(5)]
    for future in sent:
        assert isinstance(future.exception(timeout=30), UnavailableError)
    log.revive()
    assert eventually(lambda: producer.send(EVENTS, "ada", b"back").result(timeout=30))
    pair = (EVENTS, partition_of(b"ada", PARTITIONS))
    consumer.assign({pair: 0})
    values = [record.value for record in consumed(consumer, 2)]
    assert values[0] == b"m0"
    assert b"back" in values


def test_a_hung_broker_fails_the_future_at_its_deadline(log: Any) -> None:
    producer = log.producer()
    produced(producer, EVENTS, ["ada"])
    log.freeze()
    try:
        future = producer.send(EVENTS, "ada", b"hm")
        assert isinstance(future.exception(timeout=30), UnavailableError)
        if log.name != "memory":
            assert not producer.flush(0.0) or future.done()
    finally:
        log.thaw()
    assert eventually(lambda: producer.send(EVENTS, "ada", b"again").result(timeout=30))


def test_bounds_and_log_id_of_a_dead_broker_are_unavailable(log: Any) -> None:
    consumer, admin = log.consumer(), log.admin()
    log.kill()
    with pytest.raises(UnavailableError):
        consumer.bounds(EVENTS, 0)
    with pytest.raises(UnavailableError):
        consumer.end_offsets(ALL_EVENTS)
    with pytest.raises(UnavailableError):
        admin.log_id()


def settled(*members: Any) -> bool:
    """Whether, after a poll of each, every partition belongs to exactly one member."""
    read = [member.poll(0.1) for member in members]
    shares = [member.assignment() for member in members]
    return (
        not any(read)
        and sum(map(len, shares)) == len(EVERYTHING)
        and frozenset().union(*shares) == EVERYTHING
    )


@pytest.mark.parametrize("log", SHARING, indirect=True)
def test_members_share_matching_partitions_and_give_them_back(log: Any) -> None:
    produced(log.producer(), EVENTS, KEYS)
    first = log.member("counting", BOTH)
    assert eventually(lambda: settled(first))
    first.assign(dict.fromkeys(EVERYTHING, 0))
    assert len(consumed(first, len(KEYS))) == len(KEYS)
    stood = first.positions()

    second = log.member("counting", BOTH)
    assert eventually(lambda: settled(first, second) and second.assignment())
    for member in (first, second):
        ours = member.assignment()
        assert {index for topic, index in ours if topic == EVENTS} == {
            i for topic, i in ours if topic == EXPOSURES
        }
        assert len(ours) == len(EVERYTHING) // 2
    assert first.positions() == {pair: stood[pair] for pair in first.assignment()}, "what stays goes on"
    assert second.positions() == {}, "what is new waits for `assign`"

    second.close()
    assert eventually(lambda: settled(first))
    assert set(first.positions()) < EVERYTHING, "what comes back waits for `assign`"
    first.assign(stood)
    produced(log.producer(), EVENTS, KEYS)
    assert len(consumed(first, len(KEYS))) == len(KEYS)


@pytest.mark.parametrize("log", SHARING, indirect=True)
def test_a_member_continues_when_another_joins_and_leaves_unseen(log: Any) -> None:
    first = log.member("counting", BOTH)
    assert eventually(lambda: settled(first))
    first.assign(dict.fromkeys(EVERYTHING, 0))
    log.member("counting", BOTH).close()
    produced(log.producer(), EVENTS, KEYS)
    assert len(consumed(first, len(KEYS))) == len(KEYS)
