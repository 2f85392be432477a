"""Facts about Redis, the broker and Feast's registry, which `ringside doctor` examines."""

import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class LiveDiagnostics:
    """See `services.ports.Diagnostics`; examines the servers that `settings` name."""

    settings: Settings

    def redis(self) -> RedisFacts:
        """See Diagnostics."""
        client = connect(self.settings)
        with redis_errors(self.settings), closing(client):
            client.ping()
            began = time.perf_counter()
            client.ping()
            ping_s = time.perf_counter() - began
            seconds, micros = client.time()
            local_s = time.time() - ping_s / 2
            info = client.info()
            return RedisFacts(
                version=str(info["redis_version"]),
                ping_ms=ping_s * 1_000,
                eviction_policy=str(info.get("maxmemory_policy", "")),
                max_bytes=int(info.get("maxmemory", 0)),
                persistent=bool(info.get("aof_enabled")) or _snapshots(client),
                clock_ahead_s=seconds + micros / 1e6 - local_s,
            )

    def topics(self) -> dict[str, TopicFacts]:
        """See Diagnostics."""
        timeout_ms = self.settings.broker_ack_deadline_ms
        with kafka_errors(self.settings):
            client = KafkaAdminClient(**connection(self.settings), bootstrap_timeout_ms=timeout_ms)
            with closing(client):
                described = [
                    topic for topic in client.describe_topics(list(TOPICS)) if not topic["error_code"]
                ]
                counts = {topic["name"]: len(topic["partitions"]) for topic in described}
                configs = _configs(client, list(counts)) if self.settings.kafka_mode == "kafka" else {}
        return {topic: TopicFacts(counts.get(topic, 0), configs.get(topic, {})) for topic in TOPICS}

    def newest_records(self, topic: str) -> list[tuple[int, bytes]]:
        """See Diagnostics."""
        with closing(KafkaEventConsumer(self.settings)) as consumer:
            count = topic_partitions(topic, self.settings.kafka_partitions)
            ends = consumer.end_offsets((topic, partition) for partition in range(count))
            newest = {pair: end - 1 for pair, end in ends.items() if end > 0}
            records: dict[int, tuple[int, bytes]] = {}
            consumer.assign(newest)
            deadline = time.monotonic() + self.settings.broker_ack_deadline_ms / 1_000
            while len(records) < len(newest) and time.monotonic() < deadline:
                records |= {
                    record.partition: (record.append_ms, record.value) for record in consumer.poll(0.1)
                }
        return list(records.values())

    def registered_views(self) -> list[str] | None:
        """See Diagnostics. Reads the file itself, because importing Feast takes seconds."""
        file = registry_file(self.settings)
        if not file.exists():
            return None
        try:
            with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as registry:
                rows = registry.execute("SELECT feature_view_name FROM feature_views")
                return sorted(name for (name,) in rows)
        except sqlite3.DatabaseError:
            return []

    def required_views(self) -> tuple[str, ...]:
        """See Diagnostics."""
        return tuple(SCHEMAS)


def _snapshots(client: redis.Redis) -> bool:
    try:
        return bool(client.config_get("save").get("save"))
    except redis.ResponseError:  # a managed Redis forbids this command; assume that it saves
        return True


def _configs(client: KafkaAdminClient, topics: list[str]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    wanted = [
        ConfigResource(ConfigResourceType.TOPIC, topic, dict.fromkeys(TOPIC_SETTINGS)) for topic in topics
    ]
    [by_topic] = client.describe_configs(wanted, config_filter="all").values()
    return {
        topic: {name: str(config["value"]) for name, config in configs.items()}
        for topic, configs in by_topic.items()
    }
