"""The producer when things go wrong: no broker, a dead one, a hung one, a full queue, a record too large."""

import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from kafka import KafkaProducer
from support.waiting import wait_until

from services.adapters.kafka import producer_queue
from services.adapters.kafka.client import connection
from services.adapters.kafka.consumer import KafkaEventConsumer
from services.adapters.kafka.producer import KafkaEventProducer
from services.errors import BadMessageError, ConfigurationError, UnavailableError
from services.local_servers.process import free_port
from services.messages.events import EVENTS, EXPOSURES
from services.settings import Settings

PARTITIONS = 4


@pytest.fixture
def producer_to(settings_for: Callable[..., Settings]) -> Iterator[Callable[..., KafkaEventProducer]]:
    """`producer_to(broker, **settings)`, closed afterwards; broker None: an address without a listener."""
    made: list[KafkaEventProducer] = []

    def make(broker: Any = None, **values: Any) -> KafkaEventProducer:
        if broker is None:
            values["kafka_bootstrap"] = f"127.0.0.1:{free_port()}"
        made.append(KafkaEventProducer(settings_for(broker, **values)))
        return made[-1]

    yield make
    for producer in made:
        producer.close(0.2)


def values_in_log(settings: Settings, topic: str, count: int) -> Counter[bytes]:
    """Everything in the log of `topic`, once `count` records were read and nothing more comes."""
    consumer = KafkaEventConsumer(settings)
    consumer.assign({(topic, index): 0 for index in range(PARTITIONS)})
    values: Counter[bytes] = Counter()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        records = consumer.poll(0.5)
        values.update(record.value for record in records)
        if not records and values.total() >= count:
            break
    consumer.close()
    return values


def failure(future: "Future[Any]") -> BaseException | None:
    return future.exception(timeout=60)


def test_without_a_broker_a_send_fails_at_its_deadline(producer_to: Any) -> None:
    producer = producer_to(broker_ack_deadline_ms=400, lateness_s=60.0)
    event, exposure = producer.send(EVENTS, "ada", b"x"), producer.send(EXPOSURES, "ada", b"x")
    assert not event.done(), "send does not wait"
    assert isinstance(failure(event), UnavailableError)
    assert not exposure.done(), "an exposure may still count, so it waits for the broker"
    assert not producer.flush(0.0)


def test_a_full_queue_fails_at_once_and_says_so(producer_to: Any) -> None:
    producer = producer_to(producer_queue=3, broker_ack_deadline_ms=20_000)
    waiting = [producer.send(EVENTS, "ada", b"x") for _ in range(3)]
    refused = producer.send(EVENTS, "ada", b"x")
    assert refused.done()
    assert "3 records are waiting" in str(failure(refused))
    assert not any(future.done() for future in waiting)


def test_closing_fails_queued_and_later_records(producer_to: Any) -> None:
    producer = producer_to(broker_ack_deadline_ms=20_000)
    left = producer.send(EVENTS, "ada", b"x")
    producer.close(0.1)
    producer.close(0.1)
    assert isinstance(failure(left), UnavailableError)
    assert "closed" in str(failure(producer.send(EVENTS, "ada", b"x")))


def test_a_failed_record_is_released_from_memory(producer_to: Any) -> None:
    producer = producer_to(broker_ack_deadline_ms=200)
    future = producer.send(EVENTS, "ada", b"x")
    kept = weakref.ref(future)
    assert isinstance(failure(future), UnavailableError)
    del future
    wait_until(lambda: kept() is None)


def test_a_missing_topic_holds_up_its_own_records_alone(embedded_broker: Any, producer_to: Any) -> None:
    producer = producer_to(embedded_broker, broker_ack_deadline_ms=60_000)
    stuck = [producer.send("nowhere", "ada", b"x") for _ in range(3)]
    assert failure(producer.send(EVENTS, "ada", b"x")) is None
    assert not any(future.done() for future in stuck), "they keep their places until their deadline"
    producer.close(0.1)
    assert "there is no topic nowhere" in str(failure(stuck[0]))


def test_a_stuck_record_does_not_delay_later_ones(embedded_broker: Any, producer_to: Any) -> None:
    producer = producer_to(embedded_broker, broker_ack_deadline_ms=60_000)
    stuck = producer.send("nowhere", "ada", b"x")
    behind = [producer.send(EVENTS, "ada", b"x") for _ in range(3_000)]
    kept = [weakref.ref(future) for future in behind]
    assert {failure(future) for future in behind} == {None}
    behind.clear()
    wait_until(lambda: all(ref() is None for ref in kept))
    assert not stuck.done()


def test_a_queued_record_cannot_be_cancelled(producer_to: Any) -> None:
    assert not producer_to(broker_ack_deadline_ms=5_000).send(EVENTS, "ada", b"x").cancel()


def test_only_a_record_too_large_is_refused(embedded_broker: Any, producer_to: Any) -> None:
    producer = producer_to(embedded_broker, broker_ack_deadline_ms=20_000)
    large, small = producer.send(EVENTS, "ada", bytes(3_000_000)), producer.send(EVENTS, "ada", b"x")
    assert isinstance(failure(large), BadMessageError)
    assert failure(small) is None


def test_a_wrong_number_of_partitions_is_rejected_by_name(
    embedded_broker: Any, producer_to: Any, caplog: Any
) -> None:
    producer = producer_to(embedded_broker, kafka_partitions=8, broker_ack_deadline_ms=20_000)
    refused = failure(producer.send(EVENTS, "ada", b"x"))
    assert isinstance(refused, ConfigurationError)
    assert "kafka_partitions: topic events has 4 partitions, not 8" in str(refused)
    following = [producer.send(EVENTS, "ada", b"x") for _ in range(5)]
    assert all(future.done() for future in following), "known now, so a slate can say that it is lost"
    assert sum("topic events has 4 partitions" in line for line in caplog.messages) == 1


def test_many_threads_can_send(embedded_broker: Any, producer_to: Any, settings_for: Any) -> None:
    producer = producer_to(embedded_broker, broker_ack_deadline_ms=20_000)
    sent: list[Future[Any]] = []

    def work(name: str) -> None:
        for number in range(200):
            sent.append(producer.send(EVENTS, name, f"{name}-{number}".encode()))

    threads = [threading.Thread(target=work, args=(f"thread{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert producer.flush(20)
    assert {failure(future) for future in sent} == {None}
    assert set(values_in_log(settings_for(embedded_broker), EVENTS, 800).values()) == {1}


def test_exposures_survive_a_broker_crash_exactly_once(
    kafka_broker: Any, producer_to: Any, settings_for: Any
) -> None:
    producer = producer_to(kafka_broker, lateness_s=60.0)
    before = [producer.send(EXPOSURES, f"u{number}", f"before{number}".encode()) for number in range(200)]
    assert failure(before[0]) is None
    kafka_broker.server.kill()
    during = [producer.send(EXPOSURES, f"u{number}", f"during{number}".encode()) for number in range(200)]
    kafka_broker.restart()
    assert {future.exception(timeout=90) for future in before + during} == {None}
    values = values_in_log(settings_for(kafka_broker), EXPOSURES, 400)
    assert len(values) == 400
    assert set(values.values()) == {1}


def test_requests_sent_again_to_a_hung_broker_leave_one_copy(
    kafka_broker: Any, producer_to: Any, settings_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_queue, "REQUEST_TIMEOUT_MS", 300)
    producer = producer_to(kafka_broker, lateness_s=60.0)
    assert failure(producer.send(EXPOSURES, "u", b"first")) is None
    sent = []
    for burst in range(5):  # some requests reach a broker that can't answer, and time out there
        kafka_broker.server.freeze()
        sent += [
            producer.send(EXPOSURES, f"u{number}", f"{burst}/{number}".encode()) for number in range(100)
        ]
        assert not producer.flush(1.0)
        kafka_broker.server.thaw()
    assert {failure(future) for future in sent} == {None}
    values = values_in_log(settings_for(kafka_broker), EXPOSURES, 501)
    assert set(values.values()) == {1}
    assert len(values) == 501


def test_the_brokers_clock_stamps_records_whatever_the_client_says(
    kafka_broker: Any, settings_for: Any
) -> None:
    settings = settings_for(kafka_broker)
    client = KafkaProducer(**connection(settings))
    client.send(EVENTS, b"dated 1970", partition=0, timestamp_ms=1).get(20)
    client.close()
    consumer = KafkaEventConsumer(settings)
    consumer.assign({(EVENTS, 0): 0})
    end = time.monotonic() + 60
    while not (records := consumer.poll(0.5)) and time.monotonic() < end:
        pass
    consumer.close()
    assert records[0].append_ms > 1_700_000_000_000


def test_a_new_client_continues_after_a_fatal_error(embedded_broker: Any, producer_to: Any) -> None:
    producer = producer_to(embedded_broker, broker_ack_deadline_ms=20_000)
    assert failure(producer.send(EVENTS, "ada", b"before")) is None
    (queue,) = producer._queues.values()
    first = queue._client
    queue._fatal = True  # as its delivery reports say when idempotence is lost
    end = time.monotonic() + 30
    while queue._client is first and time.monotonic() < end:
        time.sleep(0.01)
    assert queue._client is not first
    assert failure(producer.send(EVENTS, "ada", b"after")) is None
