"""Records a second through the bandit worker, against a loop that only consumes with kafka-python.

Both read the same exposures and clicks from the embedded broker, from the start, in this process; the worker
also decodes, joins, and stores its sums in Redis. `python -m tests.benchmarks.bandit_worker` prints one run
as JSON.
"""

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from kafka import KafkaConsumer, TopicPartition

from experiments.lifecycle import commands
from experiments.lifecycle.state import Rules
from services import bootstrap
from services.bandit.attribution.decoder import Decoder
from services.bandit.attribution.worker import Deps, Pace, Worker
from services.local_servers.embedded_kafka import EmbeddedBroker
from services.local_servers.redis import EmbeddedRedis
from services.messages import events
from services.settings import Settings

PARTITIONS = 4
UNITS = 16_000  # what the embedded broker keeps without forgetting: about 5 MB a partition
AHEAD_MS = 60_000  # the worker's clock runs ahead, so that everything matures at once
EXPERIMENT = "storefront"
TOPICS = (events.EXPOSURES, events.EVENTS)


def measure(units: int = UNITS) -> dict[str, float]:
    """One run of each: records a second, their ratio, and CPU time of a record in microseconds."""
    with TemporaryDirectory() as home, EmbeddedBroker(PARTITIONS) as broker, EmbeddedRedis() as redis:
        settings = Settings(
            home=Path(home),
            kafka_bootstrap=broker.bootstrap,
            redis_url=redis.url,
            kafka_partitions=PARTITIONS,
            window_s=5.0,
            lateness_s=30.0,
        )
        start_experiment(settings)
        records = _fill(settings, units)
        bare = _timed(lambda: _consume(settings, records))
        worker = _timed(lambda: _count(settings, records, units))
    return {
        "records": records,
        "bare_per_s": round(records / bare.wall_s),
        "worker_per_s": round(records / worker.wall_s),
        "ratio": round(bare.wall_s / worker.wall_s, 3),
        "bare_cpu_us": round(1e6 * bare.cpu_s / records, 1),
        "worker_cpu_us": round(1e6 * worker.cpu_s / records, 1),
    }


def start_experiment(settings: Settings) -> None:
    """One champion; the windows are the settings'."""
    rules = Rules(window_s=settings.window_s, lateness_s=settings.lateness_s)
    origin = commands.Provenance("bench", _now_ms())
    champion = commands.Deployed("als", "als-1")
    bootstrap.decision_log(settings).append(commands.start(EXPERIMENT, champion, rules, "salt", origin))


def _fill(settings: Settings, units: int) -> int:
    """Exposures with ten items each, and a click for every second one."""
    rng, producer = random.Random(0), bootstrap.producer(settings)
    sent = []
    for number in range(units):
        shown = exposure(rng, number)
        sent.append(producer.send(events.EXPOSURES, shown.routing_key, events.encode(shown)))
        if number % 2:
            sent.append(producer.send(events.EVENTS, shown.routing_key, events.encode(_click(shown))))
        if number % 1_000 == 0:
            producer.flush(30)
    for future in sent:
        future.result(30)
    producer.close()
    return len(sent)


def _consume(settings: Settings, records: int) -> None:
    """kafka-python and nothing else."""
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka_bootstrap, api_version=(2, 3), enable_auto_commit=False
    )
    pairs = [TopicPartition(topic, index) for topic in TOPICS for index in range(PARTITIONS)]
    consumer.assign(pairs)
    consumer.seek_to_beginning()
    read = 0
    while read < records:
        read += sum(len(found) for found in consumer.poll(200, max_records=5_000).values())
    consumer.close()


def _count(settings: Settings, records: int, units: int) -> None:
    store, consumer, producer = (
        bootstrap.sum_store(settings),
        bootstrap.consumer(settings),
        bootstrap.producer(settings),
    )
    admin, decisions = bootstrap.log_admin(settings), bootstrap.decision_log(settings)
    deps = Deps(consumer, admin, store, decisions, Decoder(producer))
    everything = frozenset(range(PARTITIONS))
    worker = Worker(deps, lambda: everything, lambda: _now_ms() + AHEAD_MS, Pace())
    while worker.records_read < records:
        worker.step(0.2)
    worker.commit()  # asks where the logs end …
    worker.commit()  # … and counts everything below
    consumer.close()
    producer.close()
    sums = store.load_all(EXPERIMENT, PARTITIONS)[0]
    counted = sum(count for key, count in sums.items() if key.endswith("|n"))
    assert counted == units, f"{counted} of {units} units were counted"


@dataclass(frozen=True, slots=True)
class _Spent:
    wall_s: float
    cpu_s: float  # of this process: comparable on a busy machine too


def _timed(work: Callable[[], None]) -> _Spent:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return _Spent(time.perf_counter() - wall, time.process_time() - cpu)


def exposure(rng: random.Random, number: int) -> events.Exposure:
    """The first slate of a session: ten items for user `number`, now."""
    at_ms, arm = _now_ms(), rng.choice(["als", "pop"])
    return events.Exposure(
        received_at=at_ms, recommendation_id=f"{rng.randrange(2**64):032x}", experiment=EXPERIMENT,
        routing_key=f"user-{number}", unit=f"s:user-{number}:1", unit_at=at_ms, first=True, arm=arm,
        answered_by=arm, model_version=f"{arm}-20260101T000000-abcdef", weights_version=1, propensity=0.5,
        placement="home", items=[f"{rng.randrange(90_000):05d}" for _ in range(10)], user_id=f"user-{number}",
        session_id="1", features_at=at_ms,
    )  # fmt: skip


def _click(shown: events.Exposure) -> events.Event:
    attribution = events.Attribution(
        recommendation_id=shown.recommendation_id, experiment=shown.experiment, routing_key=shown.routing_key,
        unit=shown.unit, unit_at=shown.unit_at, exposed_at=shown.received_at, arm=shown.arm,
        weights_version=shown.weights_version, propensity=shown.propensity, position=3,
    )  # fmt: skip
    return events.Event(
        received_at=shown.received_at + 1, event_id=f"event-{shown.routing_key}", type="click",
        item_id=shown.items[3], user_id=shown.user_id, session_id="1", attribution=attribution,
    )  # fmt: skip


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
