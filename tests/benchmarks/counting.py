"""Events a second through the bandit worker, against a kafka-python consumer that only reads the same
records."""

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from experiments import commands
from experiments.commands import Origin
from experiments.experiment import Rules
from services import bootstrap
from services.adapters.kafka_client import connection
from services.bandit.decoding import Decoder
from services.bandit.worker import Pace, Ports, Worker
from services.events import EVENTS, EXPOSURES, Attribution, Event, Exposure, encode
from services.settings import Settings
from tests.benchmarks.serving import Effort
from tests.benchmarks.stage import Stage

UNITS = 12_000  # what the embedded broker keeps without forgetting
CLICKED_EVERY = 4


def measure(stage: Stage, effort: Effort, say: Callable[[str], None]) -> dict[str, Any]:
    """Both read one log, made here; the worker also decodes, joins, settles, and stores sums in Redis."""
    with bootstrap.embedded_redis() as redis, bootstrap.embedded_broker(stage.settings) as broker:
        update = {
            "redis_url": redis.url,
            "kafka_bootstrap": broker.bootstrap,
            "window_s": 0.5,
            "lateness_s": 30.0,
        }
        settings = stage.settings.model_copy(update=update)
        records = _fill(settings)
        bare = max(_bare(settings, records) for _ in range(effort.runs))
        counted = _worker(settings, records)
    say(f"bandit worker: {counted:.0f} records/s; bare consumer: {bare:.0f}")
    return {"records": records, "bandit_per_s": counted, "bare_per_s": bare, "ratio": counted / bare}


def _fill(settings: Settings) -> int:
    """An experiment, its exposures and clicks; the number of records of both topics."""
    now_ms = time.time_ns() // 1_000_000
    rules = Rules(window_s=settings.window_s, lateness_s=settings.lateness_s)
    champion = {"name": "als", "model_version": "als"}
    log = bootstrap.decision_log(settings)
    log.append(commands.start(settings.experiment, champion, rules, "salt", Origin("bench", now_ms)))
    producer = bootstrap.producer(settings)
    sent = []
    for number in range(UNITS):
        exposure = _exposure(settings.experiment, number, time.time_ns() // 1_000_000)
        sent.append(producer.send(EXPOSURES, exposure.routing_key, encode(exposure)))
        if number % CLICKED_EVERY == 0:
            sent.append(producer.send(EVENTS, exposure.routing_key, encode(_click(exposure))))
        if number % 1_000 == 0:  # the producer's queue is bounded
            producer.flush(30)
    for future in sent:
        future.result(60)
    producer.close()
    return len(sent)


def _exposure(experiment: str, number: int, now_ms: int) -> Exposure:
    return Exposure(
        received_at=now_ms,
        recommendation_id=f"{number:032x}",
        experiment=experiment,
        routing_key=f"u{number}",
        unit=f"s:u{number}:s",
        unit_at=now_ms,
        first=True,
        arm="als",
        answered_by="als",
        model_version="als",
        weights_version=1,
        propensity=1.0,
        placement="home",
        items=[f"i{place}" for place in range(10)],
    )


def _click(exposure: Exposure) -> Event:
    of = Attribution(
        recommendation_id=exposure.recommendation_id,
        experiment=exposure.experiment,
        routing_key=exposure.routing_key,
        unit=exposure.unit,
        unit_at=exposure.unit_at,
        exposed_at=exposure.received_at,
        arm=exposure.arm,
        weights_version=exposure.weights_version,
        propensity=exposure.propensity,
        position=0,
    )
    event_id = f"e{exposure.routing_key}"
    return Event(
        received_at=exposure.received_at, event_id=event_id, type="click", item_id="i0", attribution=of
    )


def _bare(settings: Settings, records: int) -> float:
    """Records a second of a consumer that throws them away."""
    client = KafkaConsumer(**connection(settings), enable_auto_commit=False, auto_offset_reset="earliest")
    partitions = [
        TopicPartition(topic, index)
        for topic in (EXPOSURES, EVENTS)
        for index in range(settings.kafka_partitions)
    ]
    client.assign(partitions)
    client.seek_to_beginning()
    start, read = time.perf_counter(), 0
    while read < records:
        read += sum(len(found) for found in client.poll(timeout_ms=500, max_records=5_000).values())
    took_s = time.perf_counter() - start
    client.close()
    return records / took_s


def _worker(settings: Settings, records: int) -> float:
    """Records a second of the bandit worker, until it has read them all and settled."""
    consumer, producer = bootstrap.consumer(settings), bootstrap.producer(settings)
    ports = Ports(
        consumer=consumer,
        admin=bootstrap.log_admin(settings),
        store=bootstrap.tally_store(settings),
        decisions=bootstrap.decision_log(settings),
        decoder=Decoder(producer),
    )
    mine = frozenset(range(settings.kafka_partitions))
    worker = Worker(ports, lambda: mine, lambda: time.time_ns() // 1_000_000, Pace())
    start = time.perf_counter()
    while worker.records_read < records:
        worker.step(0.2)
    worker.settle()
    took_s = time.perf_counter() - start
    consumer.close()
    producer.close()
    return records / took_s
