"""How long only the champion serves after Redis lost its pins: exposures read back on a real Apache Kafka and
Redis, by one process for all partitions.

`python -m tests.benchmarks.pins [exposures]` prints one run as JSON.
"""

import json
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import redis

from models.recommender import no_progress
from services import bootstrap
from services.bandit.attribution.app import rebuild_pins
from services.local_servers.kafka import LocalKafka
from services.local_servers.redis import EmbeddedRedis
from services.messages import events
from services.settings import Settings
from tests.benchmarks.bandit_worker import exposure, start_experiment

PARTITIONS = 32
SLATES = 4  # of a session


def measure(exposures: int = 200_000) -> dict[str, object]:
    """Seconds from the loss to the word that no pin is missing, and exposures a second beyond the margin."""
    with (
        TemporaryDirectory() as home,
        EmbeddedRedis() as server,
        LocalKafka(Path(home) / "kafka", PARTITIONS) as broker,
    ):
        broker.create_topics()
        settings = Settings(
            home=Path(home),
            kafka_bootstrap=broker.bootstrap,
            kafka_mode="kafka",
            kafka_partitions=PARTITIONS,
            redis_url=server.url,
            broker_ack_deadline_ms=60_000,
        )
        start_experiment(settings)
        _fill(settings, exposures)
        with redis.Redis.from_url(server.url) as client:
            client.flushall()
        began = time.perf_counter()
        told = rebuild_pins(settings, no_progress)
        spent_s = time.perf_counter() - began
    beyond_s = spent_s - settings.watermark_safety_s
    return {
        "exposures": exposures,
        "told": told,
        "seconds": round(spent_s, 1),
        "exposures_per_s": round(exposures / beyond_s),
    }


def _fill(settings: Settings, exposures: int) -> None:
    rng, producer = random.Random(0), bootstrap.producer(settings)
    sent = []
    for number in range(exposures):
        shown = exposure(rng, number // SLATES)
        if number % SLATES:
            shown = msgspec.structs.replace(shown, first=False)
        sent.append(producer.send(events.EXPOSURES, shown.routing_key, events.encode(shown)))
        if number % 5_000 == 4_999:
            producer.flush(60)
    for future in sent:
        future.result(60)
    producer.close()


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:])), indent=1))
