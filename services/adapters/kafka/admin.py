"""LogAdmin over kafka-python: topics, their settings, and the identity of the log."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from kafka import KafkaAdminClient

from services.adapters.kafka.client import connection, kafka_errors
from services.errors import ConfigurationError, UnavailableError
from services.messages.events import EVENTS, EXPOSURES
from services.messages.topics import LOG_ID_TOPIC, TOPICS, topic_configuration, topic_partitions
from services.settings import Settings

REQUEST_TIMEOUT_MS = 10_000  # to find the broker it is Settings.broker_ack_deadline_ms
MAX_EMBEDDED_WAIT_S = 60.0  # about as long as the embedded broker keeps records


class KafkaLogAdmin:
    """LogAdmin of the configured broker. Each of its few calls opens a connection."""

    def __init__(self, settings: Settings):
        self._settings = settings

    def create_topics(self, partitions: int) -> list[str]:
        """See LogAdmin. The embedded broker creates its topics when it starts, so there this only checks
        them."""
        with self._client() as client:
            existing = _partitions(client.describe_topics())
            missing = [topic for topic in TOPICS if topic not in existing]
            if missing:
                client.create_topics(_definitions(missing, partitions), wait_for_metadata=True)
        for topic in set(TOPICS) - set(missing):
            _check(topic, existing[topic], topic_partitions(topic, partitions))
        return missing

    def check_partitions(self) -> None:
        """See LogAdmin."""
        with self._client() as client:
            existing = _partitions(client.describe_topics(list(TOPICS)))
        for topic, count in existing.items():
            _check(topic, count, topic_partitions(topic, self._settings.kafka_partitions))

    def delete_topics(self) -> None:
        """See LogAdmin."""
        with self._client() as client:
            existing = [topic for topic in TOPICS if topic in client.list_topics()]
            if existing:
                client.delete_topics(existing)
            while any(topic in client.list_topics() for topic in existing):  # metadata lags behind the answer
                time.sleep(0.02)

    def partitions(self, topic: str) -> int:
        """See LogAdmin. Raises UnavailableError also if the topic does not exist."""
        with self._client() as client:
            count = _partitions(client.describe_topics([topic])).get(topic, 0)
        if not count:
            raise UnavailableError(f"topic {topic}", "it does not exist; create it with `ringside topics`")
        return count

    def log_id(self, topics: Sequence[str] = (EXPOSURES, EVENTS)) -> str:
        """See LogAdmin. On Kafka it joins the ids of the cluster and of the topics, and on the embedded
        broker it is in the name of a marker topic."""
        with self._client() as client:
            if self._settings.kafka_mode == "embedded":
                return _marker(client.list_topics())
            cluster = client.describe_cluster()["cluster_id"]
            described = client.describe_topics(list(topics))
        if any(topic["error_code"] for topic in described):
            raise UnavailableError(
                "broker", f"{' or '.join(topics)} does not exist; create them: `ringside topics`"
            )
        ids = {topic["name"]: topic["topic_id"] for topic in described}
        return "/".join([str(cluster), *(str(ids[topic]) for topic in topics)])

    @contextmanager
    def _client(self) -> Iterator[KafkaAdminClient]:
        with kafka_errors(self._settings):
            client = KafkaAdminClient(
                **connection(self._settings),
                request_timeout_ms=REQUEST_TIMEOUT_MS,
                bootstrap_timeout_ms=self._settings.broker_ack_deadline_ms,
            )
            try:
                yield client
            finally:
                client.close()


def _partitions(described: Iterable[dict[str, Any]]) -> dict[str, int]:
    return {topic["name"]: len(topic["partitions"]) for topic in described if topic["error_code"] == 0}


def _definitions(topics: list[str], partitions: int) -> dict[str, dict[str, Any]]:
    return {
        topic: {"num_partitions": topic_partitions(topic, partitions), "configs": topic_configuration(topic)}
        for topic in topics
    }


def _check(topic: str, has: int, wanted: int) -> None:
    if has != wanted:
        raise ConfigurationError(
            f"kafka_partitions: topic {topic} has {has} partitions, not {wanted}. The number is fixed at "
            f"creation. Set RINGSIDE_KAFKA_PARTITIONS to that of {EXPOSURES} and {EVENTS}, or recreate them."
        )


def _marker(topics: Iterable[str]) -> str:
    for topic in topics:
        if topic.startswith(LOG_ID_TOPIC):
            return topic.removeprefix(LOG_ID_TOPIC)
    raise UnavailableError("embedded broker", "it has no topic with a log id; it was not started by Ringside")


def check_embedded_window(settings: Settings) -> None:
    """Raise ConfigurationError if the embedded broker can't keep exposures for a whole attribution window."""
    wait_s = settings.window_s + settings.lateness_s
    if settings.kafka_mode != "embedded" or wait_s <= MAX_EMBEDDED_WAIT_S:
        return
    raise ConfigurationError(
        f"window_s + lateness_s = {wait_s:g} s, but the embedded broker keeps about 5 MB a partition in "
        f"memory: exposures may be gone before they mature. Start Apache Kafka (`ringside kafka`, or `docker "
        f"compose up`) and set RINGSIDE_KAFKA_MODE=kafka and RINGSIDE_KAFKA_BOOTSTRAP; or, to try things "
        f"out, choose RINGSIDE_WINDOW_S and RINGSIDE_LATENESS_S with a sum of at most "
        f"{MAX_EMBEDDED_WAIT_S:g} s."
    )
