"""What Redis, the broker and Feast's registry say of themselves: facts, which `ringside doctor` judges."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import redis
from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType

from services.adapters.feast.feature_store import registry_file
from services.adapters.feast.schemas import SCHEMAS
from services.adapters.kafka.client import connection, kafka_errors
from services.adapters.kafka.consumer import KafkaEventConsumer
from services.adapters.redis.client import connect, redis_errors
from services.messages.topics import TOPICS, topic_partitions
from services.ports.diagnostics import TOPIC_SETTINGS, RedisFacts, TopicFacts
from services.settings import Settings


def redis_facts(settings: Settings) -> RedisFacts:
    """Raises UnavailableError."""
    client = connect(settings)
    with redis_errors(settings), closing(client):
        client.ping()
        began = time.perf_counter()
        client.ping()
        ping_s = time.perf_counter() - began
        seconds, micros = client.time()
        ours_s = time.time() - ping_s / 2
        info = client.info()
        return RedisFacts(
            version=str(info["redis_version"]),
            ping_ms=ping_s * 1_000,
            eviction_policy=str(info.get("maxmemory_policy", "")),
            max_bytes=int(info.get("maxmemory", 0)),
            persistent=bool(info.get("aof_enabled")) or _snapshots(client),
            clock_ahead_s=seconds + micros / 1e6 - ours_s,
        )


def _snapshots(client: redis.Redis) -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except redis.ResponseError:  # a managed Redis tells nobody; its operator knows
        return True


def topic_facts(settings: Settings, topics: tuple[str, ...]) -> dict[str, TopicFacts]:
    """Raises UnavailableError."""
    with kafka_errors(settings):
        client = KafkaAdminClient(
            **connection(settings), bootstrap_timeout_ms=settings.broker_ack_deadline_ms
        )
        with closing(client):
            told = {topic["name"]: topic for topic in client.describe_topics(list(topics))}
            known = {name: topic for name, topic in told.items() if not topic["error_code"]}
            found = {name: len(topic["partitions"]) for name, topic in known.items()}
            there = [topic for topic in topics if topic in found]
            configs = _configs(client, there) if settings.kafka_mode == "kafka" and there else {}
    return {topic: TopicFacts(found.get(topic, 0), configs.get(topic, {})) for topic in topics}


def _configs(client: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(TOPIC_SETTINGS)) for topic in topics
    ]
    [by_topic] = client.describe_configs(wanted, config_filter="all").values()
    return {
        topic: {name: str(config["value"]) for name, config in configs.items()}
        for topic, configs in by_topic.items()
    }


def newest_records(settings: Settings, topic: str) -> list[tuple[int, bytes]]:
    """(append time in ms, value) of the newest record of each partition that has one. Raises
    UnavailableError."""
    consumer = KafkaEventConsumer(settings)
    with closing(consumer):
        count = topic_partitions(topic, settings.kafka_partitions)
        ends = consumer.end_offsets((topic, partition) for partition in range(count))
        places = {pair: end - 1 for pair, end in ends.items() if end > 0}
        found: dict[int, tuple[int, bytes]] = {}
        consumer.assign(places)
        deadline = time.monotonic() + settings.broker_ack_deadline_ms / 1_000
        while len(found) < len(places) and time.monotonic() < deadline:
            found |= {record.partition: (record.append_ms, record.value) for record in consumer.poll(0.1)}
    return list(found.values())


def registered_views(settings: Settings) -> list[str] | None:
    """Feature views in Feast's registry; None: there is no registry. Reads the file itself: importing Feast
    takes seconds."""
    file: Path = registry_file(settings)
    if not file.exists():
        return None
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as registry:
            return sorted(name for (name,) in registry.execute("SELECT feature_view_name FROM feature_views"))
    except sqlite3.DatabaseError:
        return []


@dataclass(frozen=True, slots=True)
class LiveDiagnostics:
    """The servers that `settings` name."""

    settings: Settings

    def redis(self) -> RedisFacts:
        """Facts about Redis. Raises UnavailableError."""
        return redis_facts(self.settings)

    def topics(self) -> dict[str, TopicFacts]:
        """Facts about every topic of Ringside. Raises UnavailableError."""
        return topic_facts(self.settings, TOPICS)

    def newest_records(self, topic: str) -> list[tuple[int, bytes]]:
        """(append time in ms, value) of the newest record of each partition that has one."""
        return newest_records(self.settings, topic)

    def registered_views(self) -> list[str] | None:
        """Feature views in Feast's registry; None: there is no registry."""
        return registered_views(self.settings)

    def required_views(self) -> tuple[str, ...]:
        """Feature views that processes read."""
        return tuple(SCHEMAS)
